"""A checkpoint and a text to figures and a page."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.bench import progress, trust
from experiments.inspect import heads, page, plot
from experiments.inspect.settings import Settings
from experiments.train import asked, language


def run(settings: Settings) -> int:
    """Draw, and write the page."""
    folder = language.find(pathlib.Path(settings.checkpoint))
    described, model = language.load(folder, settings.attention)
    for kernel in dict.fromkeys(described.attention):
        trust.require(kernel, described.max_length, is_trained=False, is_causal=described.is_causal)
    tokens = np.frombuffer(settings.text.encode(), np.uint8).astype(np.int32)
    if len(tokens) > described.max_length:
        raise ValueError(f"--text has {len(tokens)} bytes: the model was built for at most {described.max_length}")
    asked.require(model, described.attention, tokens)
    found = heads.look(model, tokens)
    out = pathlib.Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = plot.draw(found, settings.text, out)
    written = page.write(found, settings.text, folder.name, drawn, out / "attention.html")
    progress.table(f"Heads of {folder.name}", *heads.table(found))
    print(f"figures and page: {written}")
    return 0
