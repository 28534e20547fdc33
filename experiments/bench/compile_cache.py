"""Compiled programs, kept in the folder of a run, so that what goes on there later does not compile them again.

jax's persistent cache, in `<out>/programs/<processor>`: a program for another processor may not run on this one. Which
program is which is jax's to know: its own version, flags, devices and all that is computed. The folder may be removed
at any time, and a cache that the environment names (JAX_COMPILATION_CACHE_DIR) is taken instead.
"""

from __future__ import annotations

import hashlib
import pathlib

FOLDER = "programs"


def keep(out: pathlib.Path) -> None:
    """Keep all programs that this process compiles, small ones too, of which making a model takes hundreds."""
    import jax

    if not _given():
        jax.config.update("jax_compilation_cache_dir", str((out / FOLDER / _processor()).absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _given() -> str | None:
    import jax

    return jax.config.jax_compilation_cache_dir


def _processor() -> str:
    """What tells machines apart on whose processors different instructions run."""
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    told = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
