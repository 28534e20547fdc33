"""Manners that every experiment's command line shares: help at once, errors in one line, exit codes.

Nothing here imports jax: `--help` answers at once, and jax starts when the flags are understood.
"""

from __future__ import annotations

import errno
import gc
import importlib
import sys

from absl import app, flags, logging

from experiments.bench import processes
from experiments.bench import settings as declared

flags.disclaim_key_flags()  # they are those of the module that asks for them

# What to do about errors of the system.
A_FILE = ": it is a file, where a folder is needed; name another"
SHUT = ": you may not read or write there; name another"
ADVICE = {
    errno.ENOENT: ": it is not there, or cannot be made there; name another",
    errno.EISDIR: ": it is a folder, where a file is needed; name another, or move it",
    errno.EACCES: SHUT,
    errno.EROFS: SHUT,
    errno.ENOSPC: ": rows so far are kept; make room, and the same command goes on from there",
    errno.EEXIST: A_FILE,
    errno.ENOTDIR: A_FILE,
}


def run(settings: type[declared.Settings], home: str, positional: str | None = None) -> None:
    """Ask `home.run` what the flags of `settings` say; exit with its code, 2 for bad input, 130 for Ctrl-C.

    `--help` shows the docstring of the experiment's package: the question, the command, the duration.

    Args:
      home: a module, imported when the flags are understood, whose `run` takes settings and gives an exit code: 0, 1
        where a cell failed, 75 where it was asked to end.
      positional: what to call the one argument that `run` takes beside them; None for none.
    """

    def guarded(arguments: list[str]) -> int:
        from experiments.bench import progress

        progress.remember_interrupts()
        try:
            given = _positional(arguments[1:], positional)
            asked = declared.read(settings)
            return importlib.import_module(home).run(asked, *given)
        except (ValueError, OSError) as error:
            print(f"error: {_told(error)}", file=sys.stderr)
            return processes.left(2)
        except processes.Lost as lost:
            print(f"error: {lost}; the same commands go on from what is saved", file=sys.stderr)
            return processes.left(1)
        except KeyboardInterrupt:
            print("\ninterrupted: finished rows are kept, the same command goes on from here", file=sys.stderr)
            return processes.left(130)

    declared.define(settings)
    module = sys.modules["__main__"]
    package = sys.modules.get(module.__package__ or "")
    module.__doc__ = getattr(package, "__doc__", None) or module.__doc__
    logging.set_verbosity(logging.WARNING)  # jax tells of each accelerator that it does not find
    gc.set_threshold(100_000, 50, 50)  # tracing makes much that does not live long
    app.run(guarded, flags_parser=_parse)


def _told(error: ValueError | OSError) -> str:
    """What went wrong, where, and what to do."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}{ADVICE.get(error.errno, '')}"


def _positional(given: list[str], name: str | None) -> list[str]:
    if name is None and given:
        raise ValueError(f"{' '.join(given)!r} belongs to no flag: write flags as --name=value")
    if name is not None and len(given) != 1:
        raise ValueError(f"expected one {name}, got {' '.join(given) or 'none'}")
    return given


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit:  # absl ends with 1 where it was asked for help, and has given it
        sys.exit(0)
