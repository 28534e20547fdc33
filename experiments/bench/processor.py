"""The processor of this machine: its name, and how much of it there is for this process."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def name() -> str:
    """As the system calls it, or the architecture."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
