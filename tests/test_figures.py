"""Figures: labels that do not meet, one style for a kernel everywhere, the same bytes for the same rows."""

import itertools
import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from attnzoo import KERNELS
from experiments.show import figures, naming, placing, scales, shares, units


@pytest.mark.parametrize("seed", range(20))
def test_labels_keep_their_distance(seed):
    draw = random.Random(seed)
    heights = [draw.random() ** 3 for _ in range(draw.randint(1, 12))]
    places = placing.apart(heights, 0.05)
    in_order = sorted(range(len(heights)), key=heights.__getitem__)
    steps = [places[after] - places[before] for before, after in itertools.pairwise(in_order)]
    assert all(step > 0.05 - 1e-9 for step in steps)
    assert min(places) >= -1e-9 and max(places) <= 1 + 1e-9


def test_labels_with_room_stay_at_their_lines():
    assert placing.apart([0.9, 0.1, 0.5], 0.05) == [0.9, 0.1, 0.5]
    assert placing.apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


def test_every_kernel_has_a_style_of_its_own():
    others = ["Yours", "Mine"]
    assert len({figures.look(name, others) for name in (*KERNELS, *others)}) == len(KERNELS) + 2
    assert figures.look("softmax") == figures.STYLES[0]


def perceived(color):
    """Oklab of a colour, of which distances are those that are seen. Ottosson 2020, "A perceptual color space"."""
    linear = np.array([x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color)])
    cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    seen = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(seen) @ np.cbrt(np.array(cones) @ linear)


def test_no_two_kernels_are_taken_for_each_other():
    for (one, marker), (other, its) in itertools.combinations(figures.STYLES, 2):
        apart = np.linalg.norm(perceived(one) - perceived(other))
        assert apart > (0.2 if marker == its else 0.09), (one, other, marker, its)


@pytest.mark.parametrize("color", [*(color for color, _ in figures.STYLES), figures.GUIDED])
def test_labels_are_readable_on_white_and_on_the_dark_page(color):
    text = np.array(to_rgb(figures.readable(color)))
    assert figures.contrast(text) >= figures.READABLE
    assert figures.contrast(to_rgb(color)) < figures.READABLE or figures.readable(color) == color.lower()
    lightness = lambda channels: 1.05 / figures.contrast(channels)
    turned = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])  # by 180 degrees
    page, shown = (np.clip(turned @ (0.93 - 0.86 * np.asarray(each)), 0, 1) for each in ((1, 1, 1), text))
    assert lightness(shown) / lightness(page) >= 4.5


def test_variants_differ_by_their_dashes_and_fill():
    rows = [{"name": "linear", "kernel": kernel} for kernel in ("Linear(a=1)", "Linear(a=2)", "Linear(a=1)")]
    first, second = figures.styles(rows).values()
    assert first["color"] == second["color"] and first["linestyle"] != second["linestyle"]
    assert first["fillstyle"] != second["fillstyle"]


@pytest.mark.parametrize("sizes", [(36864, 59392), (17000, 17100), (6400, 2**20), (4096, 4096), (1, 2**30)])
def test_an_axis_of_sizes_has_two_ticks_at_least(sizes):
    figure, (panel,) = figures.axes(1)
    panel.plot(sizes, [1, 2])
    scales.sizes_axis(panel)
    low, high = panel.get_xlim()
    ticks = [tick for tick in panel.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 5 and low < min(sizes) and max(sizes) < high
    plt.close(figure)


def test_rates_have_short_ticks():
    figure, (panel,) = figures.axes(1)
    panel.plot([60_000, 160_000], [1, 2])
    scales.rates_axis(panel)
    figure.canvas.draw()
    assert {"0", "60k", "150k"} <= {text.get_text() for text in panel.get_xticklabels()} and len(
        panel.get_xticks()
    ) <= 8
    plt.close(figure)


def test_what_would_lie_on_each_other_is_moved_sideways():
    assert placing.sideways([8.0, 64.0], 0.1) == pytest.approx([8.0, 64.0])
    one, other = placing.sideways([8.0, 8.0], 0.1)
    assert other / one == pytest.approx(2**0.1) and one * other == pytest.approx(64.0)


def test_accuracies_crowd_where_two_kernels_are_nearly_right():
    assert shares.are_crowded([[0.2, 0.97], [0.95]]) and shares.are_crowded([[0.99]])
    assert not shares.are_crowded([[1.0], [0.5, 0.8], [0.3]])


@pytest.mark.parametrize("along", ["x", "y"])
def test_a_tenth_of_what_is_wrong_is_as_far_everywhere_and_none_has_a_place(along):
    figure, (panel,) = figures.axes(1)
    right = [0.0, 0.9, 0.99, 0.999, 1.0]
    panel.plot(*((right, range(5)) if along == "x" else (range(5), right)))
    shares.wrong_axis(panel, along, right)
    points = panel.transData.transform([(x, x) for x in right])[:, "xy".index(along)]
    steps = np.diff(points)
    assert steps[0] == pytest.approx(steps[1], rel=0.02) and steps[2] == pytest.approx(steps[1], rel=0.2)
    assert 0 < steps[3] < steps[2]
    axis = getattr(panel, f"{along}axis")
    ticks = {axis.get_major_formatter()(tick, None): tick for tick in axis.get_majorticklocs()}
    assert ticks["none"] == 1 and {"100%", "10%", "1%", "0.1%"} <= set(ticks)
    plt.close(figure)


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("one", "two"):
        figure, (panel,) = figures.axes(1)
        panel.plot([16, 32], [1e-3, 2e-3])
        scales.lengths_axis(panel, [16, 32])
        scales.seconds_axis(panel)
        figures.slope_guides(panel, [(16, 1e-3), (32, 2e-3)])
        placing.label_lines(panel, [("Softmax", 32, 2e-3, "black"), ("Linear", 32, 2e-3, "green")])
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


@pytest.mark.parametrize("limits", [(1_000, 60_000), (0.9, 1.15), (1, 2), (0.02, 3), (0.8, 20_000)])
def test_plain_ticks_are_three_or_more_and_do_not_meet(limits):
    figure, (panel,) = figures.axes(1)
    panel.plot([1, 2], limits)
    panel.set_yscale("log")
    scales.plain_ticks(panel.yaxis)
    figure.canvas.draw()
    low, high = panel.get_ylim()
    shown = [
        label for label, tick in zip(panel.get_yticklabels(), panel.get_yticks(), strict=True) if low <= tick <= high
    ]
    boxes = [label.get_window_extent() for label in shown]
    assert len(shown) >= 3 and all("e" not in label.get_text() for label in shown)
    assert all(below.y1 < above.y0 for below, above in itertools.pairwise(boxes))
    plt.close(figure)


@pytest.mark.parametrize("limits", [(3.2, 13.5), (5.0, 6.9), (0.01, 900)])
def test_an_axis_of_bytes_has_three_ticks(limits):
    figure, (panel,) = figures.axes(1)
    panel.plot([1, 2], [2**20 * limit for limit in limits])
    panel.set_yscale("log")
    scales.bytes_ticks(panel)
    assert 3 <= len(panel.get_yticks()) <= 11
    plt.close(figure)


def test_lines_that_cover_each_other_are_moved_apart_and_others_stay():
    figure, (panel,) = figures.axes(1)
    xs, alike = [1, 2, 3, 4], [1.0, 1.0, 1.0, 1.0]
    values = [alike, alike, [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.1, 0.1], alike]
    lines = [panel.plot(xs, own, linewidth=1.5) for own in values]
    assert "side by side" in placing.side_by_side(panel, lines)[0]
    heights = [line.get_transform().transform((1, 1))[1] for [line] in lines]
    first, second, apart, partly, third = heights
    assert apart == panel.transData.transform((1, 1))[1], "no stretch of it is covered"
    together = sorted((first, second, partly, third))
    assert all(1.5 <= (above - below) * 72 / figure.dpi < 1.8 for below, above in itertools.pairwise(together))
    assert first < second < third, "in the order of their labels"
    assert not placing.side_by_side(panel, [panel.plot(xs, [0.3] * 4), panel.plot(xs, [0.6] * 4)])
    plt.close(figure)


def test_texts_of_points_keep_off_lines_and_each_other():
    figure, (panel,) = figures.axes(1)
    panel.plot([1, 1], [0, 1])
    panel.plot([0, 2], [0.4, 0.6])
    panel.axhline(0.52)
    placing.label_points(panel, [("512", 1, 0.5, "black"), ("error 0", 1, 0.0, "black"), ("16", 1, 0.5, "black")])
    texts = list(panel.texts)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts]
    for box in boxes:
        for line in panel.lines:
            path = line.get_path().interpolated(200).transformed(line.get_transform())
            assert not any(box.contains(x, y) for x, y in path.vertices), line
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    plt.close(figure)


def test_kernels_in_few_words():
    assert naming.short(repr(KERNELS["softmax"]())) == "Softmax"
    assert naming.short(repr(KERNELS["performer"](features=64))) == "Performer(features=64)"
    assert naming.short("Mine(shape=(1, 2), width=3)") == "Mine(shape=(1, 2), width=3)"
    assert naming.short("<no call>") == "<no call>"


def test_amounts_in_few_words():
    assert [units.seconds_text(x) for x in (2.5e-5, 0.0123, 3.21, 4000)] == ["25 µs", "12.3 ms", "3.21 s", "4,000 s"]
    assert [units.size_text(x) for x in (12, 1536, 3 * 2**20, 2**41)] == ["12 B", "1.5 KiB", "3 MiB", "2 TiB"]
