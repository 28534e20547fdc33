"""What every test shares: quick compilation, and a process that is not worn out by thousands of programs."""

import jax
import pytest

# Compiling is most of the suite's time, and what is tested is arithmetic, not LLVM.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def _fresh_compilation_caches():
    # Each compiled program on a CPU holds memory maps, of which a process may have some 65,000.
    yield
    jax.clear_caches()
