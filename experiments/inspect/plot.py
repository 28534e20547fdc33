"""Attention maps to figures, one for each layer."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.inspect.heads import Head
from experiments.show import figures

READABLE = 48  # tokens, up to which each is written beside its row


def draw(heads: list[Head], text: str, out: pathlib.Path) -> list[pathlib.Path]:
    """`layer_<number>.png` and `.svg`, a panel for each head."""
    drawn = []
    for layer in sorted({head.layer for head in heads}):
        shown = [head for head in heads if head.layer == layer]
        figure, panels = figures.axes(len(shown), width=3.4, height=4.2)
        figures.title(figure, f"Layer {layer}: what each token (row) takes from each (column)", shown[0].kernel)
        for panel, head in zip(panels, shown, strict=True):
            _panel(panel, head, characters(text))
        figures.save(figure, out / f"layer_{layer}")
        drawn.append(out / f"layer_{layer}.png")
    return drawn


def _panel(panel, head: Head, labels: list[str]) -> None:
    """A map from white; where a kernel's weights can be negative, red and blue from white."""
    largest = max(float(np.abs(head.weights).max()), 1e-12)
    if (head.weights < 0).any():
        panel.imshow(head.weights, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    else:
        panel.imshow(head.weights, cmap="Blues", vmin=0, vmax=largest, interpolation="nearest")
    panel.grid(False)
    panel.set_title(
        f"head {head.head}: entropy {head.entropy:.1f} bits\nmean distance {head.distance:.1f}", fontsize=9, loc="left"
    )
    if len(labels) <= READABLE:
        places = range(len(labels))
        size = min(8.0, 170 / len(labels))
        panel.set_xticks(places, labels, fontsize=size, family="monospace")
        panel.set_yticks(places, labels, fontsize=size, family="monospace")
    panel.tick_params(length=0)


def characters(text: str) -> list[str]:
    """A label for each byte: its character where it has one by itself."""
    shown = {" ": "␣", "\n": "⏎", "\t": "⇥", "$": r"\$"}
    labels = []
    for character in text:
        encoded = character.encode()
        labels += [shown.get(character, character)] if len(encoded) == 1 else [f"{byte:02x}" for byte in encoded]
    return labels
