"""Refusals: what a kernel cannot honour is said by name, with the reason and the kernels that can."""

from __future__ import annotations

from attnzoo.kernel import Kernel
from attnzoo.kernels import KERNELS


def refuse(kernel: Kernel, asked: list[tuple[str, str]], advice: str = "") -> None:
    """Raise for the first argument whose field of `Support` the kernel lacks.

    Args:
      asked: the arguments in use, each with the field of `Support` that it needs.
      advice: what else can be done.

    Raises:
      NotImplementedError: names kernel, argument, reason, and the catalogue's kernels that honour it.
    """
    for argument, field in asked:
        _refuse(kernel, f"cannot honour `{argument}`", field, advice)


def refuse_slot(kernel: Kernel, slot: str, needed: list[str]) -> None:
    """Raise for the first field of `Support` that a slot of a model needs and the kernel lacks.

    Args:
      slot: where in the model, such as "causal self-attention of block 2".

    Raises:
      NotImplementedError: names kernel, slot, field, reason, and the catalogue's kernels that have it.
    """
    for field in needed:
        _refuse(kernel, f"cannot serve as {slot}, which needs `{field}`", field)


def _refuse(kernel: Kernel, what: str, field: str, advice: str = "") -> None:
    if not getattr(kernel.supports, field):
        able = ", ".join(_able(field)) or "none in the catalogue"
        raise NotImplementedError(
            f"{type(kernel).__name__} {what}: {kernel.supports.why}. Kernels that can: {able}{advice}"
        )


def _able(field: str) -> list[str]:
    return [name for name, kernel in KERNELS.items() if getattr(kernel.supports, field)]
