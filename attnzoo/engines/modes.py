"""The mode of differentiation that a program is traced for: a rule of ours for reverse mode keeps forward mode out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from attnzoo.engines.ambient import Ambient

_is_forward = Ambient("forward_mode", False)


def forward_mode() -> AbstractContextManager[None]:
    """What is traced inside takes no rule of ours, and jax differentiates it as it stands."""
    return _is_forward.during(True)


def with_rule(ruled: Callable, plain: Callable) -> Callable:
    """A function with a rule for reverse mode, or the same without, as the present mode wants."""
    return plain if _is_forward() else ruled
