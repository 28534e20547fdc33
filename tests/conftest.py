"""What every test shares: quick compilation, and a process that is not worn out by thousands of programs."""

import ctypes
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

# readline, which pytest imports, tells workers and processes that tests start of a terminal of 80 columns, behind the
# back of os.environ.
os.environ.pop("COLUMNS", None)
os.unsetenv("COLUMNS")

import jax
import pytest

from attnzoo import Kernel

MAPS, PAGES = pathlib.Path("/proc/self/maps"), pathlib.Path("/proc/self/statm")
MOST_MAPS = 25_000  # each compiled program on a CPU holds some, of which a process may have about 65,000
QUICK = ("Softmax", "SlidingWindow", "Linear", "GatedDelta")
MOST_BYTES = 2 * 2**30  # so that two workers fit a small machine, with room for the test at hand
gc.set_threshold(100_000, 50, 50)  # tracing makes much that does not live long


def bytes_held() -> int:
    """Memory that this process holds, 0 where the system does not tell."""
    return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if PAGES.exists() else 0


def forget_programs() -> None:
    """Drop what was traced and compiled, and hand back the memory."""
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of tests that are asked of kernels one by one, only those of some are quick: softmax over tiles, under a band, a
    recurrence, and one with decays and the delta rule. So a new kernel makes the quick suite hardly longer. Where each
    kernel matters, `every_kernel` says so.
    """
    for item in items:
        given = getattr(item, "callspec", None)
        kernels = [x for x in given.params.values() if isinstance(x, Kernel)] if given else []
        if kernels and type(kernels[0]).__name__ not in QUICK and not item.get_closest_marker("every_kernel"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    yield
    if not MAPS.exists() or len(MAPS.read_bytes().splitlines()) > MOST_MAPS:
        forget_programs()


@pytest.fixture(autouse=True)
def _little_memory():
    yield
    if bytes_held() > MOST_BYTES:
        forget_programs()


@pytest.fixture(scope="module")
def ask():
    """Puts a question of `on_devices` to a process with several devices, which it has from the start or never."""
    from tests import asking, on_devices

    flags = os.environ.get("XLA_FLAGS", "")
    with asking.process(XLA_FLAGS=f"{flags} --xla_force_host_platform_device_count={on_devices.DEVICES}") as asked:
        yield asked
