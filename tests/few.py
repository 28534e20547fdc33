"""Few cases of a test for `make test`, where all of them take long; the rest is for `make test-slow`."""

import pytest


def few(cases, quick):
    """The cases, of which those that are not in `quick` are marked as slow."""
    quick = list(quick)
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
