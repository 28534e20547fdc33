"""Few cases of a test for `make test`, where all of them take long; the rest is for `make test-slow`."""

import pytest


def few(cases, quick, *, several=False):
    """The cases, of which those that are not in `quick` are marked as slow; of `several` arguments, each is a tuple."""
    quick = list(quick)
    values = lambda case: case if several else (case,)
    return [case if case in quick else pytest.param(*values(case), marks=pytest.mark.slow) for case in cases]
