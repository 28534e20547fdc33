"""One device for each process that works beside others. Nothing here imports jax before devices are asked for."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

DIVISIBLE = ("cpu", "gpu")  # platforms of which a process can be given one device; a TPU's chips are one process's


class Place(NamedTuple):
    """A device by its number, and how many share the cores of a processor; 1 where it has them all to itself."""

    number: int
    sharing: int = 1


class Pool:
    """Devices by their numbers, of which whoever comes is given one where the fewest are at work."""

    def __init__(self, numbers: Sequence[int], sharing: int = 1):
        self._at_work, self._sharing, self._lock = dict.fromkeys(numbers, 0), sharing, threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[Place]:
        """A device, given while the context lasts."""
        with self._lock:
            number = min(self._at_work, key=self._at_work.__getitem__)
            self._at_work[number] += 1
        try:
            yield Place(number, self._sharing)
        finally:
            with self._lock:
                self._at_work[number] -= 1


def found(jobs: int) -> Pool:
    """The devices that jax finds on this machine, for so many processes beside each other; of a CPU, parts of it.

    Raises:
      ValueError: they are of a platform whose devices one process has alone, or fewer GPUs than processes.
    """
    import jax

    devices = jax.local_devices()
    if devices[0].platform not in DIVISIBLE:
        raise ValueError(
            f"--jobs={jobs}: expected devices that processes can be given one by one, {' or '.join(DIVISIBLE)}; those "
            f"here are of platform {devices[0].platform!r}, which one process has alone: pass --jobs=1 --noisolate"
        )
    if devices[0].platform == "cpu":
        return Pool(range(jobs), sharing=jobs)
    if jobs > len(devices):
        raise ValueError(
            f"--jobs={jobs}: expected at most one for each GPU, since each has one to itself; jax finds {len(devices)} "
            f"here: pass --jobs={len(devices)}"
        )
    return Pool([device.local_hardware_id for device in devices])


def take(place: Place) -> None:
    """Leave one device to jax in this process, before it is asked for any: that GPU, or a CPU that is one.

    Small programs gain nothing from a second core, so that two which have one each are nearly twice as fast together.
    """
    import jax

    for vendor in ("cuda", "rocm"):  # jax reads neither flag from the environment
        jax.config.update(f"jax_{vendor}_visible_devices", str(place.number))
    jax.config.update("jax_num_cpu_devices", 1)
    if place.sharing > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[place.number :: place.sharing] or {cores[place.number % len(cores)]})
