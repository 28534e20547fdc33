"""What every test shares: a process that is not worn out by thousands of compiled programs."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _fresh_compilation_caches():
    # Each compiled program on a CPU holds memory maps, of which a process may have some 65,000.
    yield
    jax.clear_caches()
