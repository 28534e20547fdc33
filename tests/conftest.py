"""What every test shares: quick compilation, and a process that is not worn out by thousands of programs."""

import gc
import os
import pathlib
from importlib import metadata

# Compiling is most of the suite's time, and what is tested is arithmetic, not LLVM: here, and in processes that tests
# start. XLA's older way of emitting loops takes half as long to compile; jaxlib knows this flag in these versions.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

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
