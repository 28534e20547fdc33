"""Every law over every kernel."""

import jax
import pytest

from attnzoo.compute import heads
from attnzoo.testing import LAWS, check_kernel, check_law
from tests.zoo import ZOO


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
@pytest.mark.parametrize("name", LAWS)
def test_law(name, kernel):
    check_law(kernel, name)


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_one_head_at_a_time_equals_all_at_once(kernel, monkeypatch):
    """Short sequences take all heads at once; the loop that long ones take on a CPU is held to the equation here."""
    monkeypatch.setattr(heads, "SMALL", 0)
    jax.clear_caches()
    check_law(kernel, "batched_equals_head")
    jax.clear_caches()


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="no law is called 'gravity'"):
        check_kernel(ZOO[0], laws=("gravity",))
