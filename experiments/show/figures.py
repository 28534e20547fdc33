"""The house style of figures: one colour and marker for each kernel everywhere, labels at the lines."""

from __future__ import annotations

import io
import itertools
import math
import pathlib
import textwrap

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import ticker
from PIL import Image

import attnzoo
from experiments.show.units import seconds_text, size_text

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


def sideways(xs: list[float], gap: float) -> list[float]:
    """Places on a logarithmic axis of what would lie on each other: `gap` octaves apart, and as near as that allows."""
    return [2.0**place for place in apart([math.log2(x) for x in xs], gap, -math.inf, math.inf)]


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


def bytes_axis(panel) -> None:
    """A logarithmic axis of bytes, once everything is drawn."""
    _log_axis(panel, 2, ((1.0,),), size_text)


def sizes_axis(panel) -> None:
    """A logarithmic horizontal axis of bytes, once everything is drawn: two powers of two at least, five at most."""
    panel.set_xscale("log", base=2)
    low, high = map(math.log2, panel.get_xlim())
    if math.floor(high) - math.ceil(low) < 1:
        low, high = min(low, math.ceil(low) - 1.05), max(high, math.floor(high) + 1.05)
    powers = range(math.ceil(low), math.floor(high) + 1)
    ticks = [2.0**power for power in powers[:: -(-len(powers) // 5)]]
    panel.set_xticks(ticks, list(map(size_text, ticks)))
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.set_xlim(2**low, 2**high)


def rates_axis(panel) -> None:
    """A horizontal axis from 0 of how much of something is done in a second, such as 100k, once everything is drawn."""
    panel.xaxis.set_major_locator(ticker.MaxNLocator(6))
    panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    panel.set_xlim(0, 1.12 * panel.dataLim.x1)


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
            color=readable(color),
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


def plain_ticks(axis) -> None:
    """Plain numbers on a logarithmic axis, as many as its decades leave room for, once everything is drawn."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    subdivisions = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.2 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    ticks = ticker.LogLocator(base=10, subs=subdivisions, numticks=9).tick_values(low, high)
    inside = [tick for tick in ticks if low <= tick <= high]
    axis.set_major_locator(ticker.FixedLocator(inside) if len(inside) > 2 else ticker.MaxNLocator(4))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))


def bytes_ticks(panel) -> None:
    """Three ticks or more on a logarithmic axis of bytes, once everything is drawn: those between powers of two where
    there are few of these."""
    bytes_axis(panel)
    low, high = panel.get_ylim()
    for subdivisions in ((1.0, 1.5), (1.0, 1.25, 1.5, 1.75)):
        if len(panel.get_yticks()) < 3:
            ticks = ticker.LogLocator(base=2, subs=subdivisions, numticks=9).tick_values(low, high)
            panel.set_yticks([tick for tick in ticks if low <= tick <= high])
    panel.set_ylim(low, high)


def side_by_side(panel, lines: list[list]) -> list[str]:
    """Move lines that cover each other between two of their points apart, by their width; a note where there are any.

    Those that cover most others stay where they are, and each of the others is moved as little as leaves all in sight.

    Args:
      lines: the artists of each line, among them those that join its points; limits stand already.
    """
    is_joined = lambda artist: isinstance(artist, matplotlib.lines.Line2D) and artist.get_linestyle() != "None"
    joined = [list(filter(is_joined, own)) for own in lines]
    stretches = [np.concatenate([_stretches(panel, part) for part in parts]) for parts in joined]
    every = range(len(lines))
    met = [
        {other for other in every if other != own and _is_covered(stretches[own], stretches[other])} for own in every
    ]
    steps: dict[int, int] = {}
    for own in sorted(filter(met.__getitem__, every), key=lambda own: -len(met[own])):
        taken = {steps.get(other) for other in met[own]}
        steps[own] = next(step for step in sorted(range(-len(lines), len(lines) + 1), key=abs) if step not in taken)
    for alike in {frozenset(met[own] | {own}) for own in steps}:  # in the order in which labels stand beside them
        height = lambda own: (stretches[own][-1, 3], own)
        twins = [own for own in sorted(alike, key=height) if met[own] | {own} == alike]
        steps |= zip(twins, sorted(steps[own] for own in twins), strict=True)
    for own, step in steps.items():
        up = 1.1 * step * joined[own][0].get_linewidth() / 72
        moved = matplotlib.transforms.ScaledTranslation(0, up, panel.figure.dpi_scale_trans)
        for artist in lines[own]:
            artist.set_transform(artist.get_transform() + moved)
    return ["Lines that would cover each other are drawn side by side."] if steps else []


def _stretches(panel, line) -> np.ndarray:
    """From where to where a line goes between neighbouring points, [points - 1, 4], in points of 1/72 of an inch."""
    places = panel.transData.transform(line.get_xydata()) * 72 / panel.figure.dpi
    return np.concatenate([places[:-1], places[1:]], axis=1)


def _is_covered(stretches: np.ndarray, others: np.ndarray) -> bool:
    """Whether some stretch begins and ends where another one does, by a line's width."""
    return bool((np.abs(stretches[:, None] - others[None]).max(axis=2, initial=0) < 1.4).any())


def label_points(panel, texts: list[tuple[str, float, float, str]], size: float = LABEL - 1) -> None:
    """Write each text beside its point, where it covers least of lines and of other texts, once all else is drawn.

    Args:
      texts: text, x, y and colour of each point.
    """
    for _ in range(2):  # after once the layout does not stand yet
        panel.figure.canvas.draw()
    inside, unit = panel.get_window_extent(), panel.figure.dpi / 72
    taken = _drawn_places(panel)
    sides = np.array([(1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)])
    for text, x, y, color in texts:
        look = {"fontsize": size, "color": readable(color), "ha": "center", "va": "center"}
        label = panel.annotate(text, (x, y), (0, 0), textcoords="offset points", annotation_clip=True, **look)
        box, point = label.get_window_extent(), panel.transData.transform((x, y))
        reach = np.array([box.width, box.height]) / 2
        middles = [point + side * (reach + away * unit) for away in (5, 10, 16) for side in sides]
        middle = min(middles, key=lambda middle: _covered(taken, middle, reach + 1.5 * unit, inside))
        label.xyann = tuple((middle - point) / unit)
        taken = np.concatenate([taken, middle + reach * (np.indices((7, 7)).reshape(2, -1).T / 3 - 1)])


def _covered(taken: np.ndarray, middle: np.ndarray, reach: np.ndarray, inside) -> float:
    """How many of the places are within reach of a middle; more than any where that goes beyond the panel."""
    is_beyond = (middle - reach < inside.min).any() or (middle + reach > inside.max).any()
    return len(taken) + 1 if is_beyond else int((np.abs(taken - middle) < reach).all(axis=1).sum())


def _drawn_places(panel) -> np.ndarray:
    """Places on the lines, bars and leaders of labels of a panel, a few dots from one to the next."""
    paths = [line.get_transform().transform(line.get_xydata()) for line in panel.lines]
    for bars in panel.collections:
        paths += [bars.get_transform().transform(segment) for segment in bars.get_segments()]
    for label in panel.texts:
        box = matplotlib.text.Text.get_window_extent(label)
        paths.append(np.array([panel.transData.transform(label.xy), (box.x0, (box.y0 + box.y1) / 2)]))
    found = []
    for path in paths:
        path = np.clip(path, -5000, 5000)
        for start, end in itertools.pairwise(path):
            share = np.linspace(0, 1, 2 + int(np.abs(end - start).max() / 3))[:, None]
            found.append(start + share * (end - start))
    return np.concatenate(found) if found else np.empty((0, 2))
