"""What the accuracy experiment says of its rows: the chosen rate, differences, what is counted apart, and figures."""

import numpy as np
import pytest

from experiments.bench.settings import parsed
from experiments.show import figures, statistics
from experiments.tasks.mqar import MQAR
from experiments.tasks.text import Text
from experiments.train.sweep import analysis, convergence, curriculum, plot, prediction, trades
from experiments.train.sweep.scale import Scale
from experiments.train.sweep.settings import Settings


def row_of(seed, rate, score, validation, kernel="Softmax()", status="measured"):
    return {
        "task": "MQAR()", "kernel": kernel, "name": "softmax", "positions": "LearnedPositions()", "length": 8,
        "width": 4, "metric": "accuracy", "learning_rate": rate, "seed": seed, "score": score,
        "validation": validation, "status": status, "parameters": 7, "baselines": {}, "reason": "",
    }  # fmt: skip


def test_validation_chooses_the_learning_rate_and_differences_are_paired():
    rows = [row_of(seed, 1e-3, 0.5 + seed / 10, -0.5) for seed in range(3)]
    rows += [row_of(seed, 1e-2, 0.9, -0.4) for seed in range(3)]
    rows += [row_of(seed, 1e-3, 0.3 + seed / 10, -0.9, "Linear()") for seed in range(2)]
    rows += [row_of(2, 1e-3, 0.0, None, "Linear()", "diverged")]
    rows += [row_of(seed, 1e-2, 0.2, -0.1, "Linear()") for seed in range(3)]
    softmax, linear = analysis.summarise(rows)
    assert softmax["learning_rate"] == 1e-3 and softmax["rates"] == 2 and softmax["seeds"] == 3
    assert softmax["score"] == statistics.answered([0.5, 0.6, 0.7], 1) and softmax["difference"] is None
    assert linear["doubt"] == "softmax is right in 60%, not at its ceiling: nothing is decided" and not softmax["doubt"]
    assert linear["learning_rate"] == 1e-2 and linear["diverged"] == 1
    np.testing.assert_allclose(linear["difference"], statistics.mean([-0.3, -0.4, -0.5]))


def test_a_curve_that_still_falls_is_told_from_one_that_is_flat():
    falling, flat = [(10 * i, 5 - 0.2 * i) for i in range(20)], [(10 * i, 1 + 0.9**i) for i in range(60)]
    assert convergence.has_flattened(falling) is False and convergence.has_flattened(flat) is True
    assert convergence.has_flattened(flat[:9]) is None
    row = row_of(0, 1e-3, 2.0, None) | {"curve": falling}
    assert convergence.doubt("bits", [row]) == "softmax still learns: this shows what is learned first"
    assert not convergence.doubt("bits", [row | {"curve": flat}]) and not convergence.doubt("bits", [])
    assert "too short to tell" in convergence.doubt("bits", [row | {"curve": flat[:9]}])
    assert "nothing to compare with" in convergence.doubt("bits", [row | {"status": "diverged"}])


def test_lengths_double_from_the_shortest_that_a_task_has():
    assert curriculum.lengths(MQAR(pairs=8), 128) == [32, 64, 128] and curriculum.lengths(Text(), 24) == [24]
    assert [curriculum.at(step, 12, [32, 64, 128]) for step in (0, 8, 9, 10, 11)] == [32, 32, 64, 64, 128]
    assert {curriculum.at(step, 7, [8]) for step in range(7)} == {8}


@pytest.mark.parametrize(
    ("kernels", "positions", "labels", "subject"),
    [
        (["Softmax()", "Linear()"], ["LearnedPositions()"] * 2, ["Softmax", "Linear"], "Text"),
        (["Softmax()", "Linear()"], ["T5Buckets()"] * 2, ["Softmax", "Linear"], "Text, T5Buckets"),
        (["Softmax()"] * 2, ["LearnedPositions()", "ALiBi()"], ["LearnedPositions", "ALiBi"], "Text, Softmax"),
        (["Softmax()", "Linear()"], ["LearnedPositions()", "ALiBi()"], ["Softmax", "Linear, ALiBi"], "Text"),
    ],
)
def test_a_figure_says_once_what_all_share(kernels, positions, labels, subject):
    rows = [
        {"task": "Text()", "kernel": kernel, "positions": chosen}
        for kernel, chosen in zip(kernels, positions, strict=True)
    ]
    found = analysis.captioned(rows)
    assert [row["label"] for row in found] == labels and {row["subject"] for row in found} == {subject}


def trained(**changes):
    """A row with what figures want of it."""
    row = row_of(0, 1e-3, 0.5, None) | {"width": 8, "steps": 3, "best_step": 1, "tokens": 8, "train_seconds": 1.0}
    return row | {"task_name": "mqar", "state_bytes": 8, "needed_bytes": 2**20, "by_length": {}, "probes": {}} | changes


@pytest.mark.parametrize(
    ("first", "second", "stems"),
    [
        ({}, {"kernel": "Linear()"}, ["bubbles_x"]),
        ({"needed_bytes": None}, {"kernel": "Linear()"}, []),
        ({"needed_bytes": None}, {"kernel": "Linear()", "state_bytes": 4}, ["state_x"]),
        ({}, {"width": 16, "state_bytes": 16}, []),
    ],
)
def test_trades_are_drawn_where_there_are_any(tmp_path, first, second, stems):
    rows = analysis.captioned([trained(**first), trained(**second)])
    styles = figures.styles([row | {"kernel": row["label"]} for row in rows])
    assert [stem.name for stem in trades.draw(rows, styles, Scale.of(rows), "", tmp_path, "x")] == stems
    assert {path.stem for path in tmp_path.glob("*.png")} == set(stems)


def test_speed_is_of_all_steps_and_not_of_those_to_the_best(monkeypatch):
    drawn = []
    _, [axis] = figures.axes(1)
    monkeypatch.setattr(axis, "scatter", lambda x, y, **_: drawn.append((x, y)))
    rows = analysis.captioned([trained(), trained(width=16, score=0.75)])
    shown = trades._bubbles(axis, rows, figures.styles([row | {"kernel": row["label"]} for row in rows]))
    assert drawn == [(16.0, 0.5), (16.0, 0.75)]  # the first of three steps compiles, and is timed apart
    assert list(shown) == ["Softmax, width 8", "Softmax, width 16"]


def test_speed_is_of_the_tokens_that_were_trained():
    row = trained(task="MQAR(pairs=8, vocabulary=64, is_noisy=False)", length=128, tokens=0, batch=2, steps=12)
    assert trades.speed(row) == 2 * 128 * 11
    assert trades.speed(row | {"trained_steps": 4}) == 2 * 128 * 3
    short_first = row | {"curriculum": True}
    assert curriculum.of(short_first) == [32, 64, 128]
    assert trades.speed(short_first) == 2 * (32 * 8 + 64 * 1 + 128 * 0)
    assert trades.speed(short_first | {"trained_steps": 4}) == 2 * 32 * 3
    unknown = short_first | {"task": "Mine()", "task_name": "Mine"}
    assert curriculum.of(unknown) is None and trades.speed(unknown) is None
    assert curriculum.of(unknown | {"learned_lengths": [8, 16]}) == [8, 16]


def test_seeds_tell_how_far_speeds_are_apart():
    _, [axis] = figures.axes(1)
    rows = analysis.captioned([trained(seed=seed, train_seconds=seconds) for seed, seconds in enumerate((1.0, 4.0))])
    trades._bubbles(axis, rows, figures.styles([row | {"kernel": row["label"]} for row in rows]))
    assert {16.0, 4.0} <= {float(x) for line in axis.lines for x in line.get_xdata()}


def test_a_rate_is_of_the_steps_that_were_trained():
    """All that were asked for where a row says no other."""
    told = lambda **changes: (
        prediction.of(
            parsed(Settings, task="copy", kernels="softmax"), [trained(step_flops=10.0, status="measured", **changes)]
        ).basis
    )
    assert "3e-08 GFLOP/s" in told() and "1e-08 GFLOP/s" in told(trained_steps=trained()["steps"] // 3)


def test_figures_are_of_the_rate_that_validation_chose(tmp_path, monkeypatch):
    rows = [trained(learning_rate=rate, score=rate, validation=-rate) for rate in (0.9, 0.1)]
    seen = []
    for part in (plot.trades, plot.probes):
        monkeypatch.setattr(part, "draw", lambda own, *_: seen.append([row["score"] for row in own]) or [])
    monkeypatch.setattr(plot, "_figure", lambda own, *_: seen.append([row["score"] for row in own]))
    monkeypatch.setattr(figures, "save", lambda *_: None)
    plot.draw(rows, analysis.summarise(rows), tmp_path)
    assert seen == [[0.9]] * 3


def entries_of(*rows):
    return analysis.captioned(analysis.summarise(list(rows)))


def test_a_doubt_says_where_it_is():
    narrow, wide = row_of(0, 1e-3, 0.5, None), row_of(0, 1e-3, 1.0, None) | {"width": 16}
    rows = [each | {"kernel": kernel} for each in (narrow, wide) for kernel in ("Softmax()", "Linear()")]
    doubt = "softmax is right in 50%, not at its ceiling: nothing is decided"
    few = "1 seed, which supports no claim"
    assert plot.doubts(entries_of(*rows)) == f"{few}; at width 4 {doubt}"
    assert plot.doubts(entries_of(*rows[:2])) == f"{few}; {doubt}"


def test_every_figure_of_a_baseline_that_lacks_something_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(figures, "title", lambda figure, subject, doubt="": said.append(doubt))
    sizes = {"needed_bytes": 9, "probes": {"first": {"8": 0.5}}}
    rows = [trained(kernel=kernel, state_bytes=state, **sizes) for kernel, state in (("Softmax()", 8), ("Linear()", 4))]
    plot.draw(rows, analysis.summarise(rows), tmp_path)
    assert len(said) == 4 and len(set(said)) == 1 and "not at its ceiling" in said[0]


def test_who_is_at_the_ceiling_does_not_still_learn():
    curve = {"curve": [(10 * i, 5 - 0.2 * i) for i in range(20)]}
    rows = [row_of(0, 1e-3, score, None, f"{name}()") | curve for name, score in (("Softmax", 0.995), ("Linear", 0.9))]
    assert plot._learning(entries_of(*rows)) == ["Still learning at the end: Linear."]
    assert plot._learning(entries_of(rows[0])) == []


def panel_of(rows):
    """The first panel of the figure of scores."""
    rows = analysis.captioned(rows)
    styles = figures.styles([row | {"kernel": row["label"]} for row in rows])
    figure = plot._figure(rows, entries_of(*rows), styles, Scale.of(rows))
    figure.canvas.draw()
    return figure.axes[0]


def test_scores_of_one_length_are_dots_in_the_order_of_scores():
    scores = {"Softmax()": 0.8, "Linear()": 0.3, "Delta()": 0.5}
    rows = [trained(kernel=kernel, score=score, seed=seed) for kernel, score in scores.items() for seed in (0, 1)]
    panel = panel_of([row | {"baselines": {"chance": 0.1}} for row in rows])
    assert [text.get_text() for text in panel.get_yticklabels()] == ["chance", "Linear", "Delta", "Softmax"]
    assert panel.get_xlabel() == "share of answers that are right"


def test_scores_that_crowd_are_told_by_what_is_wrong():
    scores = {"Softmax()": 1.0, "Linear()": 0.99, "Delta()": 0.5}
    rows = [trained(kernel=kernel, score=score, length=n) for kernel, score in scores.items() for n in (8, 16)]
    panel = panel_of(rows)
    assert panel.get_ylabel() == "share of answers that are wrong, best at the top"
    ticks = {text.get_text(): text.get_position()[1] for text in panel.get_yticklabels()}
    assert ticks["none"] == 1 and ticks["10%"] == pytest.approx(0.9)
    assert panel_of([row for row in rows if row["kernel"] != "Linear()"]).get_ylabel().endswith("right")


def test_lines_over_one_length_stand_beside_each_other():
    rows = [trained(kernel=kernel, length=n) for kernel in ("Softmax()", "Linear()") for n in (8, 16)]
    panel = panel_of(rows)
    drawn = [line.get_xdata()[-1] for line in panel.lines if len(line.get_xdata()) == 2 and line.get_marker() != ""]
    assert len({round(float(x), 6) for x in drawn if x > 12}) == 2


def test_sweeps_of_one_folder_are_told_apart():
    rows = [row_of(0, 1e-3, score, None) | {"steps": steps} for steps, score in ((10, 0.1), (1000, 0.9))]
    header, lines = analysis.table(analysis.summarise(rows))
    found = [dict(zip(header, line, strict=True)) for line in lines]
    assert [(line["steps"], line["score"], line["seeds"]) for line in found] == [
        ("10", "10.0", "1"),
        ("1,000", "90.0", "1"),
    ]


def test_what_diverged_is_counted_and_what_failed_chooses_no_rate():
    rows = [row_of(seed, 1e-3, 0.9, -0.9) for seed in range(2)] + [row_of(2, 1e-3, None, None, status="failed")]
    rows += [row_of(seed, 1e-2, 0.5, -0.5) for seed in range(3)]
    rows += [row_of(seed, 1e-1, None, None, status="diverged") for seed in range(3)]
    [found] = analysis.summarise(rows)
    assert found["learning_rate"] == 1e-3 and found["diverged"] == 3 and found["seeds"] == 2


def test_what_is_larger_than_exact_attention_is_said():
    rows = [row_of(0, 1e-3, 0.5, None), row_of(0, 1e-3, 0.5, None, "Linear()") | {"parameters": 8}]
    header, lines = analysis.table(analysis.summarise(rows))
    assert [line[header.index("parameters")] for line in lines] == ["7", "8 (+14.3%)"]
