"""Every law over every kernel."""

import pytest

from attnzoo.testing import LAWS, check_kernel, check_law
from tests.zoo import ZOO


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_law(name, kernel):
    check_law(kernel, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_law_by_reference(name, kernel):
    """The other implementation obeys them as well."""
    check_law(kernel, name, "reference")


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="no law is called 'gravity'"):
        check_kernel(ZOO[0], laws=("gravity",))
