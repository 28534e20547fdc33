"""Models of two kinds, which papers train apart: some attend to tokens one by one, others keep a state of one size.

Kernels are text here, as `--kernels` has them, and so are those that are picked of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from attnzoo import Kernel
from attnzoo.models import Preset, presets
from attnzoo.recurrent import Recurrent
from experiments.bench import parsing
from experiments.suites.suite import Training


def attending(kernels: str) -> str:
    """Those with a block that attends, hybrids among them."""
    return _picked(kernels, lambda model: not _is_recurrent(model))


def recurrent(kernels: str) -> str:
    """Those whose every block keeps a state of one size."""
    return _picked(kernels, _is_recurrent)


def named(*names: str) -> Callable[[str], str]:
    """Picks those with one of these names."""
    return lambda kernels: _picked(kernels, lambda model: presets.name_of(model) in names)


def others(*names: str) -> Callable[[str], str]:
    """Picks those with none of these names."""
    return lambda kernels: _picked(kernels, lambda model: presets.name_of(model) not in names)


def apart(name: str, flags: Mapping[str, Any], attends: Mapping[str, Any], recurs: Mapping[str, Any], part: str = ""):
    """A training of each kind, with the same flags but for its own."""
    return (
        Training(f"{name}-attending", {**flags, **attends}, part, attending),
        Training(f"{name}-recurrent", {**flags, **recurs}, part, recurrent),
    )


def text(model: Kernel | Preset) -> str:
    """What is read as this value, with the fields that are not at their defaults."""
    name = presets.spelled(model).partition("(")[0]
    given = {field: getattr(model, field.name) for field in dataclasses.fields(model)}
    chosen = ", ".join(f"{field.name}={value!r}" for field, value in given.items() if value != field.default)
    return f"{name}({chosen})" if chosen else name


def _picked(kernels: str, is_so: Callable[[Kernel | Preset], bool]) -> str:
    return ", ".join(text(model) for model in parsing.models(kernels) if is_so(model))


def _is_recurrent(model: Kernel | Preset) -> bool:
    kernels = [slot.kernel for slot in model.turns()] if isinstance(model, Preset) else [model]
    return all(isinstance(kernel, Recurrent) for kernel in kernels)
