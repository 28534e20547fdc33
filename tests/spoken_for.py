"""What an engine does for all kernels on it is asked of one of them quickly, and of the others if slow."""

import pytest

from attnzoo import Forgetting, KimiDelta, LogLinear, Performer, Recurrent

# Of the rules of states those without and with an order in time that have most parts.
SPEAKERS = Performer, KimiDelta


def is_spoken_for(kernel):
    """Whether another kernel speaks for it, but for its own equation."""
    return isinstance(kernel, (Recurrent, LogLinear, Forgetting)) and not isinstance(kernel, SPEAKERS)


def if_slow(kernel, *values, also=False):
    """The parameters of a test of a kernel, slow where another one speaks for it, or `also` for another reason."""
    return pytest.param(kernel, *values, marks=[pytest.mark.slow] * (also or is_spoken_for(kernel)))


def each(kernels):
    """The parameters of a test of kernels and of nothing else."""
    return [if_slow(kernel) for kernel in kernels]
