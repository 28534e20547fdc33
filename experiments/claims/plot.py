"""Rows to one figure for each claim."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.claims import analysis, recall, regression
from experiments.show import figures, naming, placing, scales, statistics

DRAWN = {"markersize": 4.5, "linewidth": 1.4}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`speed`, `recall` and `regression`, as png and svg, of those that rows are about."""
    measured = [row for row in rows if row["status"] == "measured"]
    for claim, figure_of in {"speed": _speed, "recall": _recall, "regression": _regression}.items():
        own = [row for row in measured if row["claim"] == claim]
        if own:
            figures.save(figure_of(own), out / claim)


def _speed(rows: list[dict]):
    figure, (panel,) = figures.axes(1, width=6.4)
    first, lengths = rows[0], sorted({row["length"] for row in rows})
    rates = {(row["kernel"], row["length"]): row["tokens_per_second"] for row in rows}
    of_kernels = {n: [rate for (name, at), rate in rates.items() if at == n and name != "gru"] for n in lengths}
    gains = [max(each) / rates["gru", n] for n, each in of_kernels.items() if each and ("gru", n) in rates]
    figures.title(
        figure,
        f"Attention trains {min(gains):.1f} to {max(gains):.1f} times as fast as a GRU here"
        if gains
        else "Training speed",
        f"{first['device']}, {first['cores']} cores; {first['tokens']:,} tokens a batch, width {first['width']}",
    )
    scales.lengths_axis(panel, lengths)
    panel.set_yscale("log")
    panel.set_ylabel("training tokens per second")
    styles, ends = figures.styles(rows), []
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        own = sorted((row for row in rows if row["kernel"] == kernel), key=lambda row: row["length"])
        xs, ys = [row["length"] for row in own], [row["tokens_per_second"] for row in own]
        panel.plot(xs, ys, **styles[kernel], **DRAWN)
        ends.append((naming.short(kernel), xs[-1], ys[-1], styles[kernel]["color"]))
    scales.plain_ticks(panel.yaxis)
    figures.footnote(figure, ["The claim under test: 10 to 100 times. Gains are of the fastest kernel at each length."])
    placing.label_lines(panel, ends)
    return figure


def _recall(rows: list[dict]):
    figure, (panel,) = figures.axes(1, width=6.4)
    seeds, first, each = len({row["seed"] for row in rows}), rows[0], analysis.by_distance(rows)
    xs = first["distances"]
    below = f"{first['steps']:,} steps of {first['tokens']:,} tokens, all distances in turns; width {first['width']}"
    doubt = statistics.doubt(seeds)
    figures.title(figure, f"Recalling the first {recall.TASK.count} tokens{doubt and ': '}{doubt}", below)
    scales.lengths_axis(panel, xs)
    panel.set_xlabel("tokens of noise between")
    panel.set_ylabel("share recalled")
    panel.set_ylim(-0.02, 1.04)
    panel.axhline(recall.TASK.chance, color="#888888", linewidth=0.8, linestyle=":")
    panel.axhline(0.2, color="#888888", linewidth=0.8, linestyle="--")
    styles, ends, lines = figures.styles(rows), [], []
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        own = [row for row in each if row["kernel"] == kernel]
        shares = [[row["accuracy"] for row in own if row["distance"] == x] for x in xs]
        means = list(map(statistics.share, shares))
        before = panel.get_children()
        figures.seeds(panel, xs, shares, styles[kernel])
        figures.means(panel, xs, means, styles[kernel])
        lines.append([artist for artist in panel.get_children() if artist not in before])
        ends.append((naming.short(kernel), xs[-1], means[-1].value, styles[kernel]["color"]))
    told = "Dotted: chance. Dashed: the claim under test, 20% beyond 200 for recurrent networks."
    figures.footnote(figure, [told, *placing.side_by_side(panel, lines)])
    placing.label_lines(panel, ends)
    return figure


def _regression(rows: list[dict]):
    figure, [[curve], [errors]] = figures.grid(2, 1, width=5.4, height=3.6)
    own = sorted((row for row in rows if row["seed"] == 0), key=lambda row: row["bandwidth"])
    best = min(own, key=lambda row: row["left_out_error"])
    figures.title(figure, "Attention as kernel regression: the bandwidth is the softmax's temperature")
    x, y = regression.sample(0)
    grid = np.linspace(0, 5, regression.GRID)
    curve.plot(x, y, ".", color="#999999", markersize=4)
    curve.plot(grid, regression.truth(grid), color="#000000", linewidth=1, linestyle="--")
    ends = [("truth", grid[-1], regression.truth(grid)[-1], "#000000")]
    for row, color in zip((own[0], best, own[-1]), ("#D55E00", "#009E73", "#0072B2"), strict=True):
        curve.plot(grid, row["estimate"], color=color, linewidth=1.4)
        ends.append((f"bandwidth {row['bandwidth']:g}", grid[-1], row["estimate"][-1], color))
    curve.set_xlabel("x, of queries and keys")
    curve.set_ylabel("y, of values")
    placing.label_lines(curve, ends)
    for name, label, color in (("error", "error", "#009E73"), ("left_out_error", "left out in turn", "#D55E00")):
        widths = sorted({row["bandwidth"] for row in rows})
        values = [statistics.mean([row[name] for row in rows if row["bandwidth"] == width]).value for width in widths]
        errors.plot(widths, values, color=color, marker="o", label=label, **DRAWN)
    errors.axvline(best["bandwidth"], color="#888888", linewidth=0.8, linestyle=":")
    errors.set_xscale("log")
    scales.plain_ticks(errors.xaxis)
    errors.set_xlabel("bandwidth")
    errors.set_ylabel("root mean square")
    errors.legend(frameon=False, fontsize=9)
    seeds = len({row["seed"] for row in rows})
    figures.footnote(
        figure, [f"Curve: seed 0; errors: means over {seeds} samples. Dotted: the bandwidth that data alone choose."]
    )
    return figure
