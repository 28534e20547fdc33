"""Rows to pictures of alignments: what was written against what was read."""

from __future__ import annotations

import pathlib

from experiments.show import figures


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`alignment_<score>.png` and `.svg` of the first seed of each score."""
    for row in rows:
        if row["status"] == "measured" and row["seed"] == 0:
            figures.save(_figure(row), out / f"alignment_{row['score']}")


def _figure(row: dict):
    shown = row["alignments"]
    figure, panels = figures.axes(len(shown), width=4.6, height=3.9)
    below = f"{row['exact_match']:.2%} of {row['test_pairs']:,} unseen dates are right to the last character"
    seconds = f"{row['steps']:,} steps in {row['train_seconds']:.0f} s, {row['cores']} cores, seed {row['seed']}"
    figures.title(figure, f"Where the decoder looks: {row['score']} attention", f"{below}; {seconds}")
    for panel, pair in zip(panels, shown, strict=True):
        panel.imshow(pair["weights"], cmap="Greys", vmin=0, vmax=1, aspect="auto")
        panel.set_xticks(range(len(pair["human"])), pair["human"], fontsize=7.5)
        panel.set_yticks(range(len(pair["written"])), pair["written"], fontsize=9)
        panel.grid(False)
        panel.set_xlabel("read")
    panels[0].set_ylabel("written")
    return figure
