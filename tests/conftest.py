"""What every test shares: quick compilation, and a process that is not worn out by thousands of programs."""

import gc
import os
import pathlib
import tempfile
from importlib import metadata

# Compiling is most of the suite's time, and what is tested is arithmetic, not LLVM: here, and in processes that tests
# start. XLA's older way of emitting loops takes half as long to compile, and a module that is not cut into 32 parts
# for 32 threads an eighth less; jaxlib knows these flags in these versions.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = " ".join(
        (
            os.environ.get("XLA_FLAGS", ""),
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_cpu_parallel_codegen_split_count=1",
        )
    )

# The processes of one run, those that tests start included, compile a program once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.TemporaryDirectory(prefix="attnzoo-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest

MAPS = pathlib.Path("/proc/self/maps")
gc.set_threshold(100_000, 50, 50)  # tracing makes much that does not live long


@pytest.fixture(autouse=True, scope="module")
def _not_too_many_programs():
    # Each compiled program on a CPU holds memory maps, of which a process may have some 65,000.
    yield
    if not MAPS.exists() or len(MAPS.read_bytes().splitlines()) > 25_000:
        jax.clear_caches()
