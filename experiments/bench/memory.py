"""What a compiled program needs of memory, as its compiler has planned it, and whether there is so much."""

from __future__ import annotations

import pathlib

import jax

SHARE = 0.8  # of the memory that is free, what a cell may take


def planned(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes of temporary arrays, and of these with arguments and results."""
    plan = compiled.memory_analysis()
    needed = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return {"temporary_bytes": plan.temp_size_in_bytes, "needed_bytes": needed}


def does_not_fit(row: dict) -> dict | None:
    """What a row says where the program needs more memory than there is."""
    needed, devices = row["needed_bytes"], row.get("devices", 1)
    if fits(needed, devices):
        return None
    each = f" on each of {devices} devices" if devices > 1 else ""
    reason = f"needs {needed / 2**30:.3g} GiB{each}, {free_memory() / 2**30:.3g} GiB are free"
    return {"status": "skipped", "limit": "memory", "reason": reason}


def fits(needed: float, devices: int = 1) -> bool:
    """Whether a program that needs so many bytes of each device may run; those that a CPU is share its memory."""
    sharing = devices if jax.devices()[0].platform == "cpu" else 1
    return needed * sharing <= SHARE * free_memory()


def free_memory() -> float:
    """Bytes that are free where the arrays live."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats["bytes_in_use"])
    return min(_free_on_host(), _free_in_container())


def _free_on_host() -> float:
    try:
        fields = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
        return float(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float("inf")


def _free_in_container() -> float:
    """What a memory limit on this container leaves; files in its cache can be dropped."""
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit = float((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - float((group / "memory.current").read_text()) + float(stat["file"])
    except (OSError, KeyError, ValueError):
        return float("inf")
