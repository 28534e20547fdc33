"""A folder of rows belongs to one run at a time, or to several that each have a part of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

from experiments.bench import command_log


@contextlib.contextmanager
def writing(folder: pathlib.Path, part: str = "") -> Iterator[None]:
    """Hold the folder, or a part of it, for one run; a second one is refused. Locks end with the process.

    Args:
      part: such as "0-of-2"; those of another number of parts would be other cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        _hold(stack, folder, ".lock", fcntl.LOCK_SH if part else fcntl.LOCK_EX)
        if part:
            _hold(stack, folder, f".lock-{part}", fcntl.LOCK_EX)
            parts = f".lock-of-{part.rpartition('-')[2]}"
            _hold(stack, folder, parts, fcntl.LOCK_SH)
            with contextlib.ExitStack() as brief:
                for other in {path.name for path in folder.glob(".lock-of-*")} - {parts}:
                    _hold(brief, folder, other, fcntl.LOCK_EX)
        stack.enter_context(command_log.remembered(folder))
        yield


def refuse(folder: pathlib.Path) -> None:
    """Refuse a folder that no run could write into, as far as is told without writing."""
    near = next(path for path in (folder, *folder.parents) if path.exists())
    if not near.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(near))
    if not os.access(near, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(near))


def _hold(stack: contextlib.ExitStack, folder: pathlib.Path, name: str, kind: int) -> None:
    lock = stack.enter_context((folder / name).open("w"))
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another run is writing into {folder}: wait for it, or choose another --out") from None
