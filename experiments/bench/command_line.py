"""Manners that every experiment's command line shares: help at once, errors in one line, exit codes.

Nothing here imports jax: `--help` answers at once, and jax starts when the flags are understood.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from absl import app, flags, logging

STOPPED = 75  # exit code of a run that was asked to end, has saved its state, and can be continued


def run(main: Callable[..., int | None], positional: str | None = None) -> None:
    """Run `main` with flags parsed; the exit code is 0, 1 where a cell failed, 2 for bad input, 130 for Ctrl-C.

    `--help` shows the docstring of the experiment's package: the question, the command, the duration.

    Args:
      main: takes nothing, or the one argument that `positional` names.
    """

    def guarded(arguments: list[str]) -> int:
        from experiments.bench import progress

        progress.remember_interrupts()
        try:
            return main(*_positional(arguments[1:], positional)) or 0
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\ninterrupted: finished rows are kept, the same command goes on from here", file=sys.stderr)
            return 130

    module = sys.modules["__main__"]
    package = sys.modules.get(module.__package__ or "")
    module.__doc__ = getattr(package, "__doc__", None) or module.__doc__
    logging.set_verbosity(logging.WARNING)  # jax tells of each accelerator that it does not find
    gc.set_threshold(100_000, 50, 50)  # tracing makes much that does not live long
    app.run(guarded, flags_parser=_parse)


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
