"""One run in several processes, each with devices of its own: how they meet, what they agree on, and how they end.

All of them do the same; what a run leaves behind is written by the first. Nothing here imports jax before it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import sys
import time
from typing import Any

from experiments.bench import mesh, settings
from experiments.bench.settings import flag

AUTO = "auto"
HEARTBEAT, PATIENCE = 40, 25  # seconds without a word from a process, and of waiting for one that went another way
MOMENT = 2  # seconds that the first, whose end aborts all others, leaves them to say why they end, too
ENDING = 10  # seconds in which those that have ended well wait for others
LOOPBACK = ("127.", "localhost:", "[::1]:")
INDEX = "JOB_COMPLETION_INDEX"  # which Kubernetes gives to each process of an indexed job

_failures = itertools.count()
_joined: list[Settings] = []  # of this process, at most one


class Lost(Exception):
    """Another process of the run has ended, or has gone another way."""


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Devices, and the processes that have them."""

    mesh: str = flag("", "Devices that share a model, such as 'data=4, model=2, sequence=2'.", mesh.parse)
    coordinator: str = flag(
        "", "For a run in several processes: host:port of the first, or auto, where Slurm or Open MPI tell all."
    )
    num_processes: int | None = flag(None, "How many they are.", at_least=1)
    process_id: int | None = flag(None, f"Which of them this is, counted from 0; {INDEX} unless given.", at_least=0)

    def __post_init__(self):
        super().__post_init__()
        count, index = self.num_processes, self.process_id
        if not self.coordinator and (count is not None or index is not None):
            raise ValueError("--num_processes and --process_id are of a run in several processes: give --coordinator")
        if not self.coordinator or self.coordinator == AUTO:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"--coordinator={self.coordinator}: expected host:port of the first process, or {AUTO}")
        if count is None or self.index is None:
            raise ValueError("--coordinator=host:port needs --num_processes, and the --process_id of each")
        if self.index >= count:
            raise ValueError(f"--process_id={self.index}: expected a number below --num_processes={count}")

    @property
    def index(self) -> int | None:
        """Which of the processes this is; None where nothing tells."""
        told = os.environ.get(INDEX, "")
        return int(told) if self.process_id is None and told.isdecimal() else self.process_id


def join(asked: Settings) -> None:
    """Meet the other processes of a run, where there are any, and make devices of a CPU; before jax has any.

    Raises:
      ValueError: nothing tells who they are.
      RuntimeError: they did not come.
    """
    import jax

    from experiments.bench import progress

    mesh.provide(-(-mesh.count(asked.mesh) // (asked.num_processes or 1)))
    if not asked.coordinator:
        return
    where = None if asked.coordinator == AUTO else asked.coordinator
    given: dict[str, Any] = {"coordinator_address": where, "num_processes": asked.num_processes}
    if where is not None:
        given["cluster_detection_method"] = "deactivate"
    if where is not None and where.startswith(LOOPBACK):
        given["coordinator_bind_address"] = where  # else it listens at all addresses
    waits = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": ENDING}
    try:
        jax.distributed.initialize(**given, process_id=asked.index, **waits)
    except ValueError as error:
        raise ValueError(
            f"--coordinator={asked.coordinator}: {error} Give --coordinator=host:port, --num_processes and --process_id"
        ) from None
    _joined.append(asked)
    progress.console.quiet = not is_first()


def left(code: int) -> int:
    """The exit code of a process that goes before the run ends; one of several ends here, and the others are told.

    jax would wait for all at its end, and abort where they do not come.
    """
    if _joined:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(MOMENT if is_first() else 0)
        os._exit(code)
    return code


def count() -> int:
    """How many processes the run has."""
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes."""
    import jax

    return jax.process_index() == 0


def any_of(is_so: bool) -> bool:
    """Whether it is so in any process; all must ask.

    Raises:
      Lost: one of them does not.
    """
    return is_so if count() == 1 else any(chunk[0] for chunk in _gathered(bytes([is_so])))


def agree(what: str, value: Any) -> None:
    """Hold all processes to one value, as JSON has it; all must ask.

    Raises:
      ValueError: they have other ones.
      Lost: one of them does not ask.
    """
    if count() == 1:
        return
    own = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    if any(other != own for other in _gathered(own)):
        raise ValueError(f"processes do not agree on {what}: give all the same flags, data, and one --out that all see")


def met(error: Exception) -> None:
    """Go on after an error that all processes met alike.

    Raises:
      Lost: others did not, so that they would wait for what never comes.
    """
    if count() == 1:
        return
    from orbax.checkpoint import multihost

    said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    print(f"warning: {said}", file=sys.stderr, flush=True)
    everyone = set(range(count()))
    try:
        multihost.sync_global_processes(f"failure {next(_failures)}", timeout=PATIENCE, processes=everyone)
    except Exception:
        raise Lost(f"{said}, which other processes of the run did not meet, or they have ended") from None


def _gathered(own: bytes) -> list[bytes]:
    """What each process has, as many bytes of all."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    try:
        found = multihost_utils.process_allgather(np.frombuffer(own, np.uint8))
    except jax.errors.JaxRuntimeError as error:
        raise Lost(str(error).splitlines()[0][:300]) from None
    return [np.asarray(each).tobytes() for each in found]
