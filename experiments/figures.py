"""The house style of figures: one colour and marker for each kernel everywhere, labels at the lines."""

from __future__ import annotations

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours and their darker kin, which the colour-blind can tell apart, in the catalogue's order.
STYLE = {
    "softmax": ("#000000", "o"),
    "nadaraya_watson": ("#56B4E9", "v"),
    "additive": ("#CC79A7", "^"),
    "sliding_window": ("#0072B2", "s"),
    "bigbird": ("#D55E00", "D"),
    "linear": ("#009E73", "P"),
    "performer": ("#E69F00", "X"),
    "linformer": ("#882255", "<"),
    "nystrom": ("#6A5ACD", ">"),
}
OTHERS = [("#999933", "h"), ("#44AA99", "p"), ("#AA4499", "8"), ("#661100", "*")]
DASHES = ["-", "--", ":", "-."]


def styles(rows: list[dict]) -> dict[str, dict]:
    """Line style of each `kernel` (its repr) in `rows`: colour and marker by `name`, dashes by variant."""
    variants: dict[str, list[str]] = {}
    for row in rows:
        known = variants.setdefault(row["name"], [])
        known += [] if row["kernel"] in known else [row["kernel"]]
    unknown = [name for name in variants if name not in STYLE]
    found = {}
    for name, kernels in variants.items():
        color, marker = STYLE.get(name) or OTHERS[unknown.index(name) % len(OTHERS)]
        for index, kernel in enumerate(kernels):
            found[kernel] = {"color": color, "marker": marker, "linestyle": DASHES[index % len(DASHES)]}
    return found


def short(kernel: str) -> str:
    """The repr of a kernel, without fields that stand at their defaults: Performer(features=64)."""
    name, _, fields = kernel.partition("(")
    kept = [field for field in _split(fields.rstrip(")")) if field not in _defaults(name)]
    return f"{name}({', '.join(kept)})" if kept else name


def _split(fields: str) -> list[str]:
    return [field for field in fields.split(", ") if field]


def _defaults(name: str) -> set[str]:
    import attnzoo

    classes = {cls.__name__: cls for cls in attnzoo.KERNELS.values()}
    return set(_split(repr(classes[name]()).partition("(")[2].rstrip(")"))) if name in classes else set()


def axes(count: int, width: float = 5.2, height: float = 4.6):
    """A figure with `count` panels side by side."""
    figure, panels = plt.subplots(1, count, figsize=(width * count + 1.2, height), squeeze=False, layout="constrained")
    for panel in panels[0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, which="major", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, list(panels[0])


def lengths_axis(panel, lengths) -> None:
    """A logarithmic axis of sequence lengths, a tick at each."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=30, ha="right")
    panel.minorticks_off()
    panel.set_xlabel("sequence length")


def label_lines(panel, ends: list[tuple[str, float, float, str]]) -> None:
    """Write each label at the right end of its line, moved apart where they would meet.

    Args:
      ends: label, x, y and colour of each line.
    """
    if not ends:
        return
    panel.figure.canvas.draw()
    right = max(x for _, x, _, _ in ends)
    height = 11.0  # points between labels of 8 points
    scale = panel.figure.dpi / 72
    pixels = sorted((panel.transData.transform((x, y))[1], label, x, y, color) for label, x, y, color in ends)
    place = -float("inf")
    for pixel, label, x, y, color in pixels:
        place = max(pixel, place + height * scale)
        across = (panel.transData.transform((right, y))[0] - panel.transData.transform((x, y))[0]) / scale
        panel.annotate(
            label,
            (x, y),
            xytext=(across + 8, (place - pixel) / scale),
            textcoords="offset points",
            fontsize=8,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "shrinkB": 3, "relpos": (0, 0.5)},
        )


def slope_guides(panel, lengths, y: float, slopes=(1, 2)) -> None:
    """Thin lines that grow as length to the power of each slope, from `y` at the first length."""
    for slope in slopes:
        ys = [y * (length / lengths[0]) ** slope for length in lengths]
        panel.plot(lengths, ys, color="#aaaaaa", linewidth=0.8, linestyle=(0, (4, 4)), zorder=0)
        middle = len(lengths) // 2
        panel.annotate(
            f"T^{slope}", (lengths[middle], ys[middle]), color="#888888", fontsize=8, ha="right", va="bottom"
        )


def save(figure, stem: pathlib.Path) -> None:
    """Write `stem`.png and `stem`.svg, the same bytes for the same rows."""
    with matplotlib.rc_context({"svg.hashsalt": "attnzoo", "svg.fonttype": "path"}):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(stem.with_suffix(".png"), dpi=150)
    plt.close(figure)
