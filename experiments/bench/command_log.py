"""What filled a folder: `command.txt` has each command once, with the processor time that it has taken so far.

    python -m experiments.claims --claims=recall --out=results/claims  # 31.2 CPU minutes

Time is of what is done while the folder is held, start-up and drawing left out, with processes that the run has waited
for, added up over reruns. So what such a process fills has its command alone: it is counted already. A run that was
killed has its command there, and not the time of that try.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import resource
import shlex
import sys
from collections.abc import Iterator

COMMAND = "command.txt"
COUNTED = "ATTNZOO_COUNTED_BY"  # the process whose time has that of this one
_LINE = re.compile(r"(?P<command>.*?)(?:  # (?P<minutes>[0-9.]+) CPU minutes)?")


@contextlib.contextmanager
def remembered(folder: pathlib.Path) -> Iterator[None]:
    """Note the command that this process was started by, where it is an experiment's, and what the block costs."""
    _, *words = sys.orig_argv
    if "-m" not in words or not words[words.index("-m") + 1].startswith("experiments."):
        yield
        return
    command, start = shlex.join(["python", *words[words.index("-m") :]]), _minutes()
    _add(folder / COMMAND, command)
    is_outermost = COUNTED not in os.environ
    is_counted = os.environ.setdefault(COUNTED, str(os.getpid())) != str(os.getpid())
    try:
        yield
    finally:
        if not is_counted:
            _add(folder / COMMAND, command, _minutes() - start)
        if is_outermost:
            del os.environ[COUNTED]


def total(root: pathlib.Path) -> float:
    """CPU minutes of all commands of a folder and of those below it.

    A command that has trained models for itself is noted in their folder too, with what that took: it counts once.
    """
    spent: dict[str, float] = {}
    for path in root.rglob(COMMAND):
        for command, minutes in _read(path.read_text(errors="replace")).items():
            spent[command] = max(spent.get(command, 0.0), minutes or 0.0)
    return sum(spent.values())


def _read(text: str) -> dict[str, float | None]:
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {match["command"]: match["minutes"] and float(match["minutes"]) for match in found}


def _written(command: str, minutes: float | None) -> str:
    return command if minutes is None else f"{command}  # {minutes:.2f} CPU minutes"


def _add(path: pathlib.Path, command: str, minutes: float | None = None) -> None:
    """Shards of a sweep share the file, so it is locked; it never becomes shorter, so a kill cannot lose a line."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        known = _read(file.read())
        before = known.setdefault(command, None)
        known[command] = before if minutes is None else (before or 0.0) + minutes
        file.seek(0)
        file.writelines(f"{_written(*each)}\n" for each in known.items())


def _minutes() -> float:
    """Of this process and of its children that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent) / 60
