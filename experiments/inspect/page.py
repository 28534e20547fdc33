"""Attention maps to one HTML page."""

from __future__ import annotations

import pathlib

from experiments.inspect import heads
from experiments.show import webpage

INTRODUCTION = (
    "Each map shows what a token (row) takes from the value of each token (column), before dropout: rows of exact "
    "attention are probabilities, those of an approximation are what it applies in their place. Entropy is in bits, "
    "0 for a head that looks at one token; distance is counted in tokens."
)


def write(found: list[heads.Head], text: str, name: str, drawn: list[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Write the page of all layers to `out`."""
    told = {"title": f"Where {name} looks", "introduction": INTRODUCTION, "text": text}
    out.write_text(webpage.render("inspect/page.html", **told, table=heads.table(found), figures=drawn))
    return out
