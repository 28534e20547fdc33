"""The house style of figures: one colour and marker for each kernel everywhere, panels, and what is drawn on them."""

from __future__ import annotations

import io
import pathlib
import textwrap

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

import attnzoo

# Okabe and Ito's colours, which the colour-blind can tell apart, and others far from these and from each other; a
# marker comes twice, with colours that nobody takes for one. Those of a kernel stand at its place in the catalogue, and
# what is not in it comes after.
STYLES = (
    ("#000000", "o"),
    ("#56B4E9", "v"),
    ("#CC79A7", "^"),
    ("#0072B2", "s"),
    ("#D55E00", "D"),
    ("#009E73", "P"),
    ("#E69F00", "X"),
    ("#882255", "<"),
    ("#8778F0", ">"),
    ("#14147D", "d"),
    ("#0B5A0B", "p"),
    ("#7A5C1E", "d"),
    ("#8C8C8C", "h"),
    ("#2D4A5A", "*"),
    ("#69B400", "^"),
    ("#7A1010", "h"),
    ("#C30FA5", "o"),
    ("#5A0096", "P"),
    ("#FF0050", "v"),
    ("#9600FF", "D"),
    ("#EE66EE", "s"),
    ("#1F3FE0", "X"),
    ("#C9A59C", "p"),
    ("#8F8F00", "*"),
    ("#00B9B0", "<"),
    ("#E07B6A", ">"),
)
DASHES = ["-", "--", ":", "-.", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 3))]
FILLS = ("full", "left", "right", "top", "bottom")  # of markers; hollow ones are of what was not measured
GUIDE = {"color": "#999999", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 0.5}
GUIDED = "#6B6B6B"  # names of guides
READABLE = 4.5  # contrast of text, by the Web Content Accessibility Guidelines
LABEL = 8.5  # points
NAME = 36  # characters of a line of a name
LINE = 1.6  # heights of a label from one to the next in a legend
COLUMN = 2.6  # inches of its columns but the first
DOTS = 150  # of an inch, as `webpage` takes them


def styles(rows: list[dict]) -> dict[str, dict]:
    """Line style of each `kernel` (its repr) in `rows`: colour and marker by `name`, dashes and fill by variant."""
    variants: dict[str, list[str]] = {}
    for row in rows:
        known = variants.setdefault(row["name"], [])
        known += [] if row["kernel"] in known else [row["kernel"]]
    others = [name for name in variants if name not in attnzoo.KERNELS]
    found = {}
    for name, kernels in variants.items():
        color, marker = look(name, others)
        for index, kernel in enumerate(kernels):
            found[kernel] = {"color": color, "marker": marker, "linestyle": DASHES[index % len(DASHES)]} | fill(index)
    return found


def fill(index: int) -> dict:
    """How the marker of a variant is filled."""
    return {"fillstyle": FILLS[index % len(FILLS)], "markerfacecoloralt": "white"}


def look(name: str, others: list[str] = ()) -> tuple[str, str]:
    """Colour and marker of a kernel of the catalogue, or of one among `others`."""
    around, place = divmod([*attnzoo.KERNELS, *others].index(name), len(STYLES))
    return STYLES[place][0], STYLES[(place + around) % len(STYLES)][1]


def readable(color: str) -> str:
    """A colour for text on white: itself, or so much darker that it can be read."""
    channels = np.array(matplotlib.colors.to_rgb(color))
    while contrast(channels) < READABLE:
        channels = np.floor(0.97 * 255 * channels) / 255  # as text has it: whole numbers up to 255
    return matplotlib.colors.to_hex(channels)


def contrast(channels) -> float:
    """That of white to red, green and blue, each from 0 to 1, by the Web Content Accessibility Guidelines."""
    channels = np.asarray(channels)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return 1.05 / (float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05)


def folded(name: str) -> str:
    """A name in lines, where one would take the room of a panel."""
    return textwrap.fill(name, NAME, break_long_words=False)


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
    look = style | {"linestyle": "none", "markersize": 4, "markeredgewidth": 0.5, "alpha": 0.5, "zorder": 1.6}
    for x, own in zip(xs, values, strict=True):
        panel.plot([x] * len(own), own, **look)


def means(panel, xs, found, style: dict, across=None) -> None:
    """A line through means over `xs`, with their intervals where there are any, and those of `xs` if given."""
    spread = [
        [0 if mean.low is None else mean.value - mean.low for mean in found],
        [0 if mean.high is None else mean.high - mean.value for mean in found],
    ]
    drawn = {"markersize": 5, "linewidth": 1.4, "elinewidth": 1, "zorder": 2.5} | style
    *_, bars = panel.errorbar(xs, [mean.value for mean in found], spread, across, **drawn)
    for each in bars:
        each.set(alpha=0.5, zorder=1.5)  # a long interval hides no line


def levels(panel, found: dict[str, dict[float, float]]) -> list[tuple[str, float, float, str]]:
    """Named heights over x, such as what is reached without a model, through the whole panel where they are one; once
    everything else is drawn.

    Returns:
      Their ends, to be labelled as those of lines.
    """
    ends = []
    for name, points in found.items():
        xs = sorted(points)
        is_one = len(set(points.values())) == 1
        if is_one:
            panel.axhline(points[xs[0]], **GUIDE)
        else:
            panel.plot(xs, [points[x] for x in xs], **GUIDE)
        ends.append((name, panel.get_xlim()[1] if is_one else xs[-1], points[xs[-1]], GUIDED))
    return ends


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
    names = list(map(folded, found))
    lines = len(found) + sum(name.count("\n") for name in names)
    columns = -(-lines // int(72 * height / (LABEL * LINE)))
    figure.set_size_inches(width + (columns - 1) * COLUMN, height)
    look = {"fontsize": LABEL, "frameon": False, "handlelength": 2.6, "ncols": columns}
    look["labelcolor"] = [readable(style["color"]) for style in found.values()]
    figure.legend(handles, names, loc="outside right center", **look)


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
