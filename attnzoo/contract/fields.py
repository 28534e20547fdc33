"""Checks of a kernel's own fields, for its `__post_init__`."""

from __future__ import annotations

import math
import numbers

LARGEST = 2**31 - 1  # positions and sizes are int32


def natural_number(owner, field: str) -> None:
    """Refuse a field of a kernel that is not an integer >= 0."""
    _integer_field(owner, field, 0)


def positive_integer(owner, field: str) -> None:
    """Refuse a field of a kernel that is not an integer >= 1."""
    _integer_field(owner, field, 1)


def positive_number(owner, field: str) -> None:
    """Refuse a field of a kernel that is not a finite number > 0."""
    value = getattr(owner, field)
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{type(owner).__name__}({field}={value!r}): {field} must be a finite number > 0")


def one_of(owner, field: str, choices: tuple[str, ...]) -> None:
    """Refuse a field of a kernel that is none of `choices`."""
    value = getattr(owner, field)
    if value not in choices:
        raise ValueError(f"{type(owner).__name__}({field}={value!r}): {field} must be one of {', '.join(choices)}")


def truth_value(owner, field: str) -> None:
    """Refuse a field of a kernel that is neither True nor False."""
    value = getattr(owner, field)
    if not isinstance(value, bool):
        raise ValueError(f"{type(owner).__name__}({field}={value!r}): {field} must be True or False")


def text(owner, field: str) -> None:
    """Refuse a field that is not text, or empty."""
    value = getattr(owner, field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{type(owner).__name__}({field}={value!r}): {field} must be text, in quotes, and not empty")


def _integer_field(owner, field, smallest):
    value = getattr(owner, field)
    if not is_integer(value) or not smallest <= value <= LARGEST:
        kind = f"an integer >= {smallest}" + (f" and <= {LARGEST}" if is_integer(value) and value > LARGEST else "")
        raise ValueError(f"{type(owner).__name__}({field}={value!r}): {field} must be {kind}")


def is_integer(value) -> bool:
    """Whether `value` is a Python or NumPy integer, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether `value` is a real Python or NumPy number, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
