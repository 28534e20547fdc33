"""The tables of kernels in README and design, made from the kernels themselves.

    python -m tests.tables

writes them anew where they are stale, and

    python -m tests.tables docs/scaling.md

those of the model of many devices, which takes a minute or two.
"""

import functools
import pathlib
import sys

import jax

from attnzoo import KERNELS, Dims, Kernel
from attnzoo.testing.zoo import FURTHER
from experiments.scaling import model

ROOT = pathlib.Path(__file__).parent.parent
COLUMNS = {
    "causal, offset": "causal",
    "key mask, lengths": "key_mask",
    "segments": "segments",
    "dense mask, mask_mod, window": "mask",
    "bias": "bias",
    "score_mod": "score_mod",
    "scale": "scale",
    "soft cap": "soft_cap",
    "T != S": "cross",
    "dropout": "dropout",
    "global tokens": "global_tokens",
    "residual, sinks": "residual",
}
SHORT, LONG = 1024, 4096


def kernels() -> list[list[str]]:
    """What the kernels are, for README."""
    head = ["name", "class", "cost in length T", "learned", "what it is"]
    forms = {name: make() for name, make in KERNELS.items()}
    return [head, *([f"`{name}`", f"`{x!r}`", _cost(x), _learned(x), _sentence(x)] for name, x in forms.items())]


def support() -> list[list[str]]:
    """What they honour, for the design; a form that supports less than its class has a row of its own."""
    forms = {name: make() for name, make in KERNELS.items()}
    forms |= {f"`{form!r}`": form for form in FURTHER if _honoured(form)[:-1] != _honoured(type(form)())[:-1]}
    return [["", *COLUMNS, "decoding state"], *([name, *_honoured(form)] for name, form in forms.items())]


TABLES = {"README.md": kernels, "docs/design.md": support}


def renewed(text: str, rows: list[list[str]]) -> str:
    """`text` with the table made anew whose first columns are these."""
    lines = text.splitlines()
    written = [_line(rows[0]), "|" + "---|" * len(rows[0]), *map(_line, rows[1:])]
    begin = next(i for i, line in enumerate(lines) if line.startswith(_line(rows[0][:2])))
    end = next((i for i in range(begin, len(lines)) if not lines[i].startswith("|")), len(lines))
    return "\n".join([*lines[:begin], *written, *lines[end:]]) + "\n"


def _line(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _cost(kernel: Kernel) -> str:
    work, memory = ("T" if power == 1 else f"T^{power:g}" for power in (kernel.supports.work, kernel.supports.memory))
    return work if work == memory else f"{work}, memory {memory}"


def _learned(kernel: Kernel) -> str:
    short, long = (jax.eval_shape(lambda dims=_dims(n): kernel.init(jax.random.key(0), dims)) for n in (SHORT, LONG))
    if not jax.tree.leaves(short):
        return ""
    return "yes" if short == long else "yes, for lengths up to those at `init`"


def _honoured(kernel: Kernel) -> list[str]:
    return [*("yes" if getattr(kernel.supports, field) else "" for field in COLUMNS.values()), _state(kernel)]


def _state(kernel: Kernel) -> str:
    """Of one head of 64 in float32."""
    if not kernel.supports.decode:
        return ""
    short, long = (kernel.state_bytes(_dims(length)) for length in (SHORT, LONG))
    return f"{long / 1024:.3g} KB" if short == long else f"{(long - short) / (LONG - SHORT):.3g} B a token"


def _dims(length: int) -> Dims:
    return Dims(1, length, length, 1, 1, 64, 64)


def _sentence(kernel: Kernel) -> str:
    """The first of its docstring."""
    return " ".join(kernel.__doc__.split()).split(". ")[0].removesuffix(".").replace("|", r"\|")


if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        path = ROOT / name
        rows = [TABLES[name]()] if name in TABLES else model.everything()
        path.write_text(functools.reduce(renewed, rows, path.read_text()))
