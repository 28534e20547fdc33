"""Rows to figures: errors against each dial, and error against time."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.show import figures, naming, placing, scales, statistics

THIN = {"elinewidth": 0.8}
PANELS = {
    "output": "output, relative Frobenius error",
    "weights": "attention matrix, relative Frobenius error",
    "row": "attention matrix, L1 error of the worst row",
}
GREY = "#777777"
MEAN = "mean of values"
RATE = r"$1/\sqrt{m}$"
WORST = 20.0  # errors above it are worse than useless, and would leave no room for the others
EXACT = 1e-4  # errors below it are those of rounding, and stand at the foot of a panel


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`error_` and `trade_` of the rows' operands, each as PNG and SVG, where there is something to show."""
    found = [row for row in rows if "output" in row]
    timed = [row for row in found if "ratio" in row]
    if found:
        figures.save(_error(found, rows), out / f"error_{rows[0]['operands']}")
    if timed:
        figures.save(_trade(timed, rows), out / f"trade_{rows[0]['operands']}")


def _error(found: list[dict], rows: list[dict]):
    """A panel for each error; a kernel without a dial goes from side to side."""
    figure, panels = figures.grid(len(PANELS), 1, width=5.6, height=3.5)
    figures.title(figure, "Error against exact softmax", _where(found[0]))
    notes = [f"{RATE}: theory's rate for m features, through Performer's errors.", *_notes(rows, tuple(PANELS))]
    terms = sorted({row["terms"] for row in found if row["terms"]}) or [1]
    ends: list[tuple] = []
    for [panel], (name, heading) in zip(panels, PANELS.items(), strict=True):
        panel.set_title(heading, fontsize=10, loc="left")
        panel.set_yscale("log", nonpositive="clip")
        drawn = [_error_line(panel, own, style, name, terms) for own, style in _lines(found)]
        level = (MEAN, terms[-1], _mean_of_values(panel, found, name), GREY)
        ends.append((panel, [*(end for end, _ in drawn), level]))
        _limit(panel, found, name)
        if name != "row":  # the rate is of mean squares, and so of Frobenius norms
            _rate(panel, found, name)
        scales.lengths_axis(panel, _powers(terms))
        panel.set_xlabel("features, landmarks, rank, or keys in sight" if panel is panels[-1][0] else "")
        scales.plain_ticks(panel.yaxis)
        notes += placing.side_by_side(panel, [artists for _, artists in drawn])
    figures.footnote(figure, list(dict.fromkeys(notes)))
    for panel, labels in ends:
        placing.label_lines(panel, labels)
    return figure


def _error_line(panel, own: list[dict], style: dict, name: str, terms: list[int]) -> tuple[tuple, list]:
    """Draw one error of a dial; its label, and where that belongs, and its artists."""
    means, xs = [statistics.mean(row[name]) for row in own], [row["terms"] for row in own]
    if xs[0] is None:
        xs, means, style = [terms[0], terms[-1]], means * 2, style | {"marker": ""}
    before = panel.get_children()
    figures.means(panel, xs, means, style | THIN)
    return _end(own, xs, means, style), [artist for artist in panel.get_children() if artist not in before]


def _end(own: list[dict], xs: list, means: list, style: dict) -> tuple[str, float, float, str]:
    """The label of a dial, and where it belongs: at the last value that is shown."""
    shown = [(x, mean.value) for x, mean in zip(xs, means, strict=True) if mean.value >= EXACT] or [(xs[-1], EXACT)]
    x, value = shown[-1]
    return own[0]["dial"], x, min(value, WORST), style["color"]


def _rate(panel, found: list[dict], name: str) -> None:
    """A line that falls as the root of features, through the geometric mean of Performer's errors; limits stay."""
    own = [row for row in found if row["name"] == "performer"]
    if not own:
        return
    low, high = panel.get_ylim()
    xs = np.array(sorted({row["terms"] for row in own}), float)
    level = np.exp(np.mean([np.log(np.mean(row[name]) * row["terms"] ** 0.5) for row in own]))
    color, _ = figures.look("performer")
    panel.plot(xs, level * xs**-0.5, color=color, linewidth=1.0, linestyle=(0, (4, 4)), zorder=0.5)
    where = {"xytext": (4, 0), "textcoords": "offset points", "ha": "left", "va": "bottom", "color": color}
    panel.annotate(RATE, (xs[0], min(level * xs[0] ** -0.5, high)), fontsize=figures.LABEL, **where)
    panel.set_ylim(low, high)


def _trade(timed: list[dict], rows: list[dict]):
    """Error of the output against time as a ratio to softmax, a line along each dial."""
    figure, [panel] = figures.axes(1, width=6.0, height=5.2)
    figures.title(figure, "Error against time", _where(timed[0]))
    where = f"{timed[0]['device']}, {timed[0]['cores']} cores"
    notes = [f"Ratio of times: median and quartiles over turns, {where}. Numbers: least and greatest value of a dial."]
    figures.footnote(figure, [*notes, *_notes(rows, ("output",))])
    panel.set_xscale("log")
    panel.set_yscale("log", nonpositive="clip")
    ends = [_trade_line(panel, own, style) for own, style in _lines(timed)]
    ends.append((MEAN, max(row["ratio"] for row in timed), _mean_of_values(panel, timed, "output"), GREY))
    _limit(panel, timed, "output")
    _softmax(panel)
    panel.set_xlabel("time of the forward pass / time of exact softmax")
    panel.set_ylabel("output, relative Frobenius error")
    scales.plain_ticks(panel.xaxis)
    scales.plain_ticks(panel.yaxis)
    placing.label_lines(panel, ends)
    placing.label_points(panel, [*_values(timed), ("softmax: error 0", 1, panel.get_ylim()[0], "#000000")])
    return figure


def _trade_line(panel, own: list[dict], style: dict) -> tuple[str, float, float, str]:
    """Draw a dial's errors over ratios of time; its label, and where that belongs."""
    means, ratios = [statistics.mean(row["output"]) for row in own], [row["ratio"] for row in own]
    across = np.abs(np.array([row["ratio_quartiles"] for row in own]).T - ratios)
    figures.means(panel, ratios, means, style | THIN, across)
    return _end(own, ratios, means, style)


def _values(timed: list[dict]) -> list[tuple[str, float, float, str]]:
    """The least and the greatest value of each dial, where they belong, and in which colour."""
    first = [(own, style["color"]) for own, style in _lines(timed) if style["linestyle"] == "-"]  # others are nearby
    return [
        (f"{row['value']:,}", row["ratio"], statistics.mean(row["output"]).value, color)
        for own, color in first
        for row in own[:1] + own[1:][-1:]
        if row["value"] is not None
    ]


def _softmax(panel) -> None:
    """Exact softmax: a ratio of 1, and no error, which a logarithmic axis can only have at its foot."""
    low, high = panel.get_ylim()
    low /= 1.6  # apart from the lowest errors
    panel.axvline(1, color="#000000", linewidth=0.8)
    panel.plot(1, low, "o", color="#000000", markersize=7, clip_on=False)
    panel.set_ylim(low, high)


def _lines(rows: list[dict]) -> list[tuple[list[dict], dict]]:
    """Rows and style of each dial, in the order of values; softmax, which the others are held against, is none."""
    names = {row["dial"]: row["name"] for row in rows if row["dial"] != "softmax"}
    styles = figures.styles([{"kernel": dial, "name": name} for dial, name in names.items()])
    own = {dial: [row for row in rows if row["dial"] == dial] for dial in names}
    return [(sorted(own[dial], key=lambda row: row["terms"] or 0), style) for dial, style in styles.items()]


def _mean_of_values(panel, rows: list[dict], name: str) -> float:
    """Draw the error of attending to all keys alike, and tell it."""
    level = rows[0]["mean_of_values"][name]
    panel.axhline(level, color=GREY, linewidth=0.9, linestyle=":")
    return level


def _limit(panel, rows: list[dict], name: str) -> None:
    """Leave out what is worse than `WORST` or no more than rounding, and give height to errors that are all alike."""
    least = min((mean for row in rows if (mean := np.mean(row[name])) >= EXACT), default=EXACT)
    low, high = panel.get_ylim()
    widened = (low / 1.2, high * 1.2) if high < 1.3 * low else (low, high)
    panel.set_ylim(max(widened[0], least / 3), min(widened[1], WORST))


def _powers(terms: list[int]) -> list[int]:
    """Powers of two from below the least to above the greatest."""
    first, last = terms[0].bit_length() - 1, (terms[-1] - 1).bit_length()
    return [2**power for power in range(first, last + 1)]


def _where(row: dict) -> str:
    """What was held fixed."""
    sizes = f"{row['length']:,} tokens, {row['heads']} heads of {row['head_dim']}{', causal' * row['is_causal']}"
    if row["temperature"] is not None:
        return f"normal q, k, v, scores over temperature {row['temperature']:g}; {sizes}"
    return f"q, k, v of {row['layers']} layers of a trained model on {row['batch']} unseen texts; {sizes}"


def _notes(rows: list[dict], names: tuple[str, ...]) -> list[str]:
    """How many draws there were, and what is not shown of the errors `names`."""
    notes = [f"Means and 95% intervals over {rows[0]['draws']} draws, where a kernel draws; means over heads."]
    if any(np.mean(row[name]) > WORST for row in rows if "output" in row for name in names):
        notes.append(f"Lines that leave at the top have errors above {WORST:g}.")
    if any(np.mean(row[name]) < EXACT for row in rows if "output" in row for name in names):
        notes.append(
            f"Those that leave at the foot have errors below {EXACT:g}, by rounding alone: all keys are in sight."
        )
    for status in ("refused", "skipped", "failed"):
        kernels = dict.fromkeys(naming.short(row["kernel"]) for row in rows if row["status"] == status)
        notes += [f"{status.capitalize()}: {', '.join(kernels)}."] * bool(kernels)
    return notes
