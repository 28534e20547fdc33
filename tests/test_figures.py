"""Figures: labels that do not meet, one style for a kernel everywhere, the same bytes for the same rows."""

import itertools
import random

import matplotlib.pyplot as plt
import pytest

from attnzoo import KERNELS
from experiments.show import figures, naming, units


@pytest.mark.parametrize("seed", range(20))
def test_labels_keep_their_distance(seed):
    draw = random.Random(seed)
    heights = [draw.random() ** 3 for _ in range(draw.randint(1, 12))]
    places = figures.apart(heights, 0.05)
    in_order = sorted(range(len(heights)), key=heights.__getitem__)
    steps = [places[after] - places[before] for before, after in itertools.pairwise(in_order)]
    assert all(step > 0.05 - 1e-9 for step in steps)
    assert min(places) >= -1e-9 and max(places) <= 1 + 1e-9


def test_labels_with_room_stay_at_their_lines():
    assert figures.apart([0.9, 0.1, 0.5], 0.05) == [0.9, 0.1, 0.5]
    assert figures.apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


def test_every_kernel_has_a_style_of_its_own():
    others = ["Yours", "Mine"]
    assert len({figures.look(name, others) for name in (*KERNELS, *others)}) == len(KERNELS) + 2
    assert figures.look("softmax") == figures.STYLES[0]


def test_variants_differ_by_their_dashes():
    rows = [{"name": "linear", "kernel": kernel} for kernel in ("Linear(a=1)", "Linear(a=2)", "Linear(a=1)")]
    first, second = figures.styles(rows).values()
    assert first["color"] == second["color"] and first["linestyle"] != second["linestyle"]


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("one", "two"):
        figure, (panel,) = figures.axes(1)
        panel.plot([16, 32], [1e-3, 2e-3])
        figures.lengths_axis(panel, [16, 32])
        figures.seconds_axis(panel)
        figures.slope_guides(panel, [(16, 1e-3), (32, 2e-3)])
        figures.label_lines(panel, [("Softmax", 32, 2e-3, "black"), ("Linear", 32, 2e-3, "green")])
        figures.save(figure, tmp_path / name)
    for suffix in ("svg", "png"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


@pytest.mark.parametrize("count", [3, 40])
def test_a_legend_of_many_lines_stays_inside_of_its_figure(count):
    figure, _ = figures.grid(2, 2, width=3.7, height=2.9)
    figures.legend(figure, {f"SlidingWindow(left={n}, right=0), pallas": {"color": "k"} for n in range(count)})
    figure.canvas.draw()
    [found], whole = [x.get_window_extent() for x in figure.legends], figure.bbox
    assert found.y0 >= 0 and found.y1 <= whole.y1 and found.x1 <= whole.x1
    plt.close(figure)


def test_a_long_heading_is_wrapped():
    figure, _ = figures.axes(1)
    figures.title(figure, "softmax is right in 28%, not at its ceiling; " * 4)
    figure.canvas.draw()
    (heading,) = (text for text in figure.texts if "ceiling" in text.get_text())
    assert heading.get_window_extent().x1 <= figure.bbox.x1


def test_kernels_in_few_words():
    assert naming.short(repr(KERNELS["softmax"]())) == "Softmax"
    assert naming.short(repr(KERNELS["performer"](features=64))) == "Performer(features=64)"
    assert naming.short("Mine(shape=(1, 2), width=3)") == "Mine(shape=(1, 2), width=3)"
    assert naming.short("<no call>") == "<no call>"


def test_amounts_in_few_words():
    assert [units.seconds_text(x) for x in (2.5e-5, 0.0123, 3.21, 4000)] == ["25 µs", "12.3 ms", "3.21 s", "4,000 s"]
    assert [units.size_text(x) for x in (12, 1536, 3 * 2**20, 2**41)] == ["12 B", "1.5 KiB", "3 MiB", "2 TiB"]
