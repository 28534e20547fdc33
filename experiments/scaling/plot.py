"""Rows to figures: run time beside temporary memory, against length."""

from __future__ import annotations

import pathlib

from experiments import figures

TITLES = {"forward": "Forward", "train": "Forward and backward"}


def draw(rows: list[dict], summary: list[dict], out: pathlib.Path) -> list[pathlib.Path]:
    """One figure for each pass; the stems that were written."""
    styles = figures.styles(rows)
    stems = []
    for passed in dict.fromkeys(row["pass"] for row in rows):
        own = [row for row in rows if row["pass"] == passed]
        if any(row["status"] == "measured" for row in own):
            stems.append(out / f"time_{passed}")
            figures.save(_figure(own, [entry for entry in summary if entry["pass"] == passed], styles), stems[-1])
    return stems


def _figure(rows, summary, styles):
    lengths = sorted({row["length"] for row in rows})
    figure, (time_panel, memory_panel) = figures.axes(2, width=5.6, height=5.0)
    settings = rows[0]
    causal = ", causal" if settings["is_causal"] else ""
    fixed = f"{settings['heads']} heads of {settings['head_dim']}, {settings['dtype']}{causal}, {settings['device']}, "
    figures.title(figure, TITLES[settings["pass"]], fixed + f"{settings['cores']} cores")
    for panel, title in ((time_panel, "run time"), (memory_panel, "temporary memory")):
        panel.set_yscale("log")
        figures.lengths_axis(panel, lengths)
        panel.set_title(title, fontsize=10, loc="left")
    exponents = {entry["kernel"]: entry["exponent"] for entry in summary}
    ends = []
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        own = sorted((row for row in rows if row["kernel"] == kernel), key=lambda row: row["length"])
        label = _time_line(time_panel, own, styles[kernel], exponents.get(kernel))
        _memory_line(memory_panel, own, styles[kernel])
        ends += [label] if label else []
    figures.seconds_axis(time_panel)
    figures.bytes_axis(memory_panel)
    _guides(time_panel, rows, lengths, "median")
    _guides(memory_panel, rows, lengths, "temporary_bytes")
    figures.label_lines(memory_panel, [_memory_end(rows, kernel, styles) for kernel in _measured(rows)])
    figures.label_lines(time_panel, ends)
    _footnote(figure, rows)
    return figure


def _time_line(panel, own, style, exponent):
    measured = [row for row in own if row["status"] == "measured"]
    skipped = [row for row in own if row["status"] == "skipped" and row.get("predicted_seconds")]
    color = style["color"]
    panel.plot(
        [row["length"] for row in skipped],
        [row["predicted_seconds"] for row in skipped],
        linestyle="none",
        marker=style["marker"],
        markerfacecolor="none",
        color=color,
    )
    if not measured:
        return None
    lengths, medians = [row["length"] for row in measured], [row["median"] for row in measured]
    spread = [
        [row["median"] - row["quartiles"][0] for row in measured],
        [row["quartiles"][1] - row["median"] for row in measured],
    ]
    panel.errorbar(lengths, medians, spread, markersize=4.5, linewidth=1.4, elinewidth=1, **style)
    slope = f"  T^{exponent.value:.2f}" if exponent else ""
    return figures.short(own[0]["kernel"]) + slope, lengths[-1], medians[-1], color


def _memory_line(panel, own, style):
    for status, face in (("measured", style["color"]), ("skipped", "none")):
        found = [row for row in own if row["status"] == status and row.get("temporary_bytes")]
        line = style["linestyle"] if status == "measured" else "none"
        panel.plot(
            [row["length"] for row in found],
            [row["temporary_bytes"] for row in found],
            **(style | {"linestyle": line}),
            markerfacecolor=face,
            markersize=4.5,
            linewidth=1.4,
        )


def _measured(rows) -> list[str]:
    return list(dict.fromkeys(row["kernel"] for row in rows if row["status"] == "measured"))


def _memory_end(rows, kernel, styles):
    last = max(
        (row for row in rows if row["kernel"] == kernel and row["status"] == "measured"), key=lambda row: row["length"]
    )
    return figures.short(kernel), last["length"], last["temporary_bytes"], styles[kernel]["color"]


def _guides(panel, rows, lengths, field):
    first = [row[field] for row in rows if row["status"] == "measured" and row["length"] == lengths[0]]
    if first and len(lengths) > 1:
        figures.slope_guides(panel, lengths, min(first))


def _footnote(figure, rows):
    refused = list(dict.fromkeys(figures.short(row["kernel"]) for row in rows if row["status"] == "refused"))
    hollow = any(row["status"] == "skipped" for row in rows)
    notes = ["Bars: quartiles of repetitions."]
    notes += ["Hollow: predicted, did not fit in time or memory."] if hollow else []
    notes += [f"Refused: {', '.join(refused)}."] if refused else []
    figures.footnote(figure, notes)
