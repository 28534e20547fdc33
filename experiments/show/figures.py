"""The house style of figures: one colour and marker for each kernel everywhere, labels at the lines."""

from __future__ import annotations

import io
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import ticker
from PIL import Image

import attnzoo
from experiments.show.units import seconds_text, size_text

# Okabe and Ito's colours and their darker kin, which the colour-blind can tell apart. Those of a kernel stand at its
# place in the catalogue, and what is not in it comes after.
STYLES = (
    ("#000000", "o"),
    ("#56B4E9", "v"),
    ("#CC79A7", "^"),
    ("#0072B2", "s"),
    ("#D55E00", "D"),
    ("#009E73", "P"),
    ("#E69F00", "X"),
    ("#882255", "<"),
    ("#6A5ACD", ">"),
    ("#332288", "d"),
    ("#117733", "H"),
    ("#A6761D", "d"),
    ("#7F7F7F", "H"),
    ("#005F73", "p"),
    ("#999933", "h"),
    ("#44AA99", "p"),
    ("#AA4499", "8"),
    ("#661100", "*"),
    ("#B2182B", "v"),
    ("#66A61E", "^"),
    ("#E7298A", "s"),
    ("#8DA0CB", "D"),
    ("#CC6677", "P"),
    ("#C2A500", "X"),
    ("#00A6D6", "<"),
    ("#4B0055", ">"),
)
DASHES = ["-", "--", ":", "-.", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 3))]
LABEL = 8.5  # points
LINE = 1.6  # heights of a label from one to the next in a legend
COLUMN = 2.6  # inches of its columns but the first
DOTS = 150  # of an inch, as `webpage` takes them


def styles(rows: list[dict]) -> dict[str, dict]:
    """Line style of each `kernel` (its repr) in `rows`: colour and marker by `name`, dashes by variant."""
    variants: dict[str, list[str]] = {}
    for row in rows:
        known = variants.setdefault(row["name"], [])
        known += [] if row["kernel"] in known else [row["kernel"]]
    others = [name for name in variants if name not in attnzoo.KERNELS]
    found = {}
    for name, kernels in variants.items():
        color, marker = look(name, others)
        for index, kernel in enumerate(kernels):
            found[kernel] = {"color": color, "marker": marker, "linestyle": DASHES[index % len(DASHES)]}
    return found


def look(name: str, others: list[str] = ()) -> tuple[str, str]:
    """Colour and marker of a kernel of the catalogue, or of one among `others`."""
    around, place = divmod([*attnzoo.KERNELS, *others].index(name), len(STYLES))
    return STYLES[place][0], STYLES[(place + around) % len(STYLES)][1]


def palette(colors: list[str]):
    """A colour map of the given colours, for whole numbers from 0."""
    return matplotlib.colors.ListedColormap(colors)


def axes(count: int, width: float = 5.2, height: float = 4.6):
    """A figure with `count` panels side by side."""
    figure, [panels] = grid(1, count, width, height)
    return figure, panels


def grid(down: int, across: int, width: float, height: float):
    """A figure with `down` lines of `across` panels each, of this size in inches."""
    size = (width * across + 1.2, height * down)
    figure, panels = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color("#888888")
        panel.tick_params(labelsize=9, color="#888888")
        panel.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, panels.tolist()


def seeds(panel, xs, values: list[list[float]], style: dict) -> None:
    """The values of each seed as points, over `xs`: whether a mean is one of them, or between two kinds of them."""
    look = {"linestyle": "none", "marker": style["marker"], "markersize": 4, "alpha": 0.6, "markeredgewidth": 0}
    for x, own in zip(xs, values, strict=True):
        panel.plot([x] * len(own), own, color=style["color"], **look)


def means(panel, xs, found, style: dict, across=None) -> None:
    """A line through means over `xs`, with their intervals where there are any, and those of `xs` if given."""
    spread = [
        [0 if mean.low is None else mean.value - mean.low for mean in found],
        [0 if mean.high is None else mean.high - mean.value for mean in found],
    ]
    drawn = {"markersize": 4.5, "linewidth": 1.4, "elinewidth": 1} | style
    panel.errorbar(xs, [mean.value for mean in found], spread, across, **drawn)


def levels(panel, found: dict[str, dict[float, float]]) -> None:
    """Named heights over x, such as what is reached without a model; through the whole panel where they are one."""
    style = {"color": "#999999", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 0.5}
    for name, points in found.items():
        xs = sorted(points)
        first = points[xs[0]]
        if len(set(points.values())) == 1:
            panel.axhline(first, **style)
        else:
            panel.plot(xs, [points[x] for x in xs], **style)
        place = {"xy": (0, first), "xycoords": ("axes fraction", "data"), "xytext": (3, 2)}
        panel.annotate(name, **place, textcoords="offset points", fontsize=7.5, color="#777777")


def shares(panel) -> None:
    """A vertical axis of shares, which end at 0 and 1."""
    low, high = panel.get_ylim()
    panel.set_ylim(max(low, -0.03), min(high, 1.03))


def lengths_axis(panel, lengths) -> None:
    """A logarithmic axis of sequence lengths, a tick at each."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=30, ha="right")
    if len(lengths) == 1:  # a logarithmic axis finds no limits around one point
        panel.set_xlim(lengths[0] / 2, 2 * lengths[0])
    panel.minorticks_off()
    panel.set_xlabel("sequence length")


def devices_axis(panel, counts) -> None:
    """A logarithmic axis of numbers of devices, a tick at each."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [f"{count:,}" for count in counts])
    panel.minorticks_off()
    panel.set_xlabel("devices")


def seconds_axis(panel) -> None:
    """A logarithmic axis of seconds, once everything is drawn."""
    _log_axis(panel, 10, ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)), seconds_text)


def ratios_axis(panel) -> None:
    """A logarithmic axis of ratios, once everything is drawn."""
    _log_axis(panel, 10, ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)), lambda value: f"{value:,g}")


def bytes_axis(panel) -> None:
    """A logarithmic axis of bytes, once everything is drawn."""
    _log_axis(panel, 2, ((1.0,),), size_text)


def sizes_axis(panel) -> None:
    """A logarithmic horizontal axis of bytes, once everything is drawn."""
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: size_text(value)))
    panel.xaxis.set_minor_locator(ticker.NullLocator())


def _log_axis(panel, base, subdivisions, text):
    """As many subdivisions of a power of `base` as leave at most eight ticks."""
    panel.set_yscale("log", base=base)
    low, high = panel.get_ylim()
    for subs in subdivisions:
        locator = ticker.LogLocator(base=base, subs=subs, numticks=9)
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) <= 8:
            panel.yaxis.set_major_locator(ticker.FixedLocator(ticks))
    panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: text(value)))
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    panel.set_ylim(low, high)


def label_lines(panel, ends: list[tuple[str, float, float, str]]) -> None:
    """Write each label beside the right end of its line, moved apart where they would meet.

    Args:
      ends: label, x, y and colour of each line.
    """
    if not ends:
        return
    panel.figure.canvas.draw()
    to_axes = (panel.transData - panel.transAxes).transform
    heights = [to_axes((x, y))[1] for _, x, y, _ in ends]
    gap = 1.3 * LABEL / 72 * panel.figure.dpi / panel.get_window_extent().height
    for (label, x, y, color), place in zip(ends, apart(heights, gap), strict=True):
        # The height is a share of the panel's: making room for the labels moves its sides, not its top and bottom.
        panel.annotate(
            label,
            (x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            fontsize=LABEL,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.5,
                "alpha": 0.6,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def apart(heights: list[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Places in the order of `heights`, at least `gap` from each other and as near to them as that allows.

    Neighbours that are too close become one group around their mean, until no groups meet; groups stay within
    `low` and `high` where they fit.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _start(groups[-1], heights, gap, low, high) < (
            _start(groups[-2], heights, gap, low, high) + gap * len(groups[-2])
        ):
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(heights)
    for group in groups:
        start = _start(group, heights, gap, low, high)
        for position, index in enumerate(group):
            places[index] = start + gap * position
    return places


def _start(group, heights, gap, low, high):
    reach = gap * (len(group) - 1)
    centred = sum(heights[index] for index in group) / len(group) - reach / 2
    return max(min(centred, high - reach), low)


def slope_guides(panel, points: list[tuple[float, float]], slopes=(1, 2)) -> None:
    """Thin lines that grow as length to the power of each slope, below all points (length, y) of the longer half.

    They start at one place, and the panel is made higher at its foot where they need it.
    """
    lengths = sorted({x for x, _ in points})
    first, last = lengths[len(lengths) // 2 - (len(lengths) > 2)], lengths[-1]
    steepest = max(slopes)
    room = min(y / (x / first) ** steepest for x, y in points if x >= first)
    low, high = panel.get_ylim()
    start = room / 1.5
    for slope in slopes:
        end = start * (last / first) ** slope
        panel.plot([first, last], [start, end], color="#aaaaaa", linewidth=0.8, linestyle=(0, (4, 4)), zorder=0.5)
        place = {"xytext": (-3, 0), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        middle = (first * last) ** 0.5, start * (last / first) ** (slope / 2)
        panel.annotate(f"$T^{slope}$", middle, color="#777777", fontsize=LABEL, zorder=0.6, **place)
    panel.set_ylim(min(low, start / 1.2), high)


def legend(figure, found: dict[str, dict]) -> None:
    """Names and their styles at the right of all panels, where lines are too many to be named in each.

    Those that the height of the figure does not hold have another column, by which it is wider.
    """
    handles = [matplotlib.lines.Line2D([], [], markersize=4.5, linewidth=1.5, **style) for style in found.values()]
    width, height = figure.get_size_inches()
    columns = -(-len(found) // int(72 * height / (LABEL * LINE)))
    figure.set_size_inches(width + (columns - 1) * COLUMN, height)
    look = {"fontsize": LABEL, "frameon": False, "handlelength": 2.6, "ncols": columns}
    figure.legend(handles, list(found), loc="outside right center", **look)


def title(figure, heading: str, below: str = "") -> None:
    """A heading at the left, and what was held fixed beneath it."""
    figure.suptitle(f"{heading}\n{below}" if below else heading, x=0.01, ha="left", fontsize=10.5, wrap=True)


def footnote(figure, notes: list[str]) -> None:
    """Notes below the panels."""
    figure.supxlabel(" ".join(notes), x=0.01, ha="left", fontsize=LABEL, color="#555555", wrap=True)


def save(figure, stem: pathlib.Path) -> None:
    """Write `stem`.png and `stem`.svg, the same bytes for the same rows.

    Of a PNG 256 colours are kept, more than figures of flat ones need, so that a page holds three times as many.
    """
    with matplotlib.rc_context({"svg.hashsalt": "attnzoo", "svg.fonttype": "path"}):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS)
    plt.close(figure)
    few = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(stem.with_suffix(".png"), optimize=True, dpi=(DOTS, DOTS))
