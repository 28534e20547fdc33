"""A value that holds while a part of a program is traced, in the thread that traces it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Ambient(Generic[Value]):
    """Called, it gives what the innermost `during` says, and `default` outside of all.

    Example:
      >>> from attnzoo.engines.ambient import Ambient
      >>> depth = Ambient("depth", 0)
      >>> with depth.during(1):
      ...     inside = depth()
      >>> inside, depth()
      (1, 0)
    """

    def __init__(self, name: str, default: Value):
        self._variable: ContextVar[Value] = ContextVar(f"attnzoo_{name}", default=default)

    def __call__(self) -> Value:
        return self._variable.get()

    @contextlib.contextmanager
    def during(self, value: Value) -> Iterator[None]:
        """It is `value` inside."""
        token = self._variable.set(value)
        try:
            yield
        finally:
            self._variable.reset(token)
