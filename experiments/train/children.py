"""Commands as children: what consists of other experiments runs one after another, and is asked to end with it."""

from __future__ import annotations

import subprocess
import sys

from experiments.bench import outcome
from experiments.train.termination import Termination

KILLED = 128  # and the number of a signal is the exit code of what it has killed, as shells have it


def run(words: list[str]) -> int:
    """The exit code of Python with these words.

    SIGTERM is handed on to the child, which saves what it is at and ends before this returns `outcome.STOPPED`: none
    outlives its parent, and holds its folder.
    """
    with Termination() as termination, subprocess.Popen([sys.executable, *words]) as child:
        try:
            with termination.reaching(child):
                code = child.wait()
        except BaseException:
            child.kill()
            raise
    if termination.is_asked:
        return outcome.STOPPED
    return code if code >= 0 else KILLED - code
