"""The mode of differentiation that a program is traced for: a rule of ours for reverse mode keeps forward mode out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_is_forward: ContextVar[bool] = ContextVar("attnzoo_forward_mode", default=False)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """What is traced inside takes no rule of ours, and jax differentiates it as it stands."""
    token = _is_forward.set(True)
    try:
        yield
    finally:
        _is_forward.reset(token)


def with_rule(ruled: Callable, plain: Callable) -> Callable:
    """A function with a rule for reverse mode, or the same without, as the present mode wants."""
    return plain if _is_forward.get() else ruled
