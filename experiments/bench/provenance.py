"""Where a row was made: versions, device, processes and commit."""

from __future__ import annotations

import pathlib
import platform
import subprocess
from importlib import metadata

from experiments.bench import processor

# What `environment` tells.
ENVIRONMENT = (
    "python",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "platform",
    "device",
    "cores",
    "processes",
    "commit",
    "dirty",
)


def environment() -> dict:
    """Versions, device, processes and commit. Neither host nor paths, nor anything of the process's environment."""
    import jax

    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        "platform": device.platform,
        "device": processor.name() if device.platform == "cpu" else device.device_kind,
        "cores": processor.cores(),
        "processes": jax.process_count(),
        **_commit(),
    }


def _commit() -> dict:
    """The commit of the source, and whether it has been changed since; None outside a checkout."""
    here = pathlib.Path(__file__).parent

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", "../..", ":!../../results")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
