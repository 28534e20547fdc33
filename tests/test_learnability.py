"""Learnability: bands of rates as they are defined, and a command from flags to a table and a figure."""

import math

import numpy as np
import pytest

from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.learnability import analysis, plot, run
from experiments.learnability.analysis import Band, Rate
from experiments.learnability.settings import Settings
from experiments.show import figures
from experiments.train.sweep import settings as sweep
from experiments.train.sweep.run import handed
from tests import summaries

ROW = {
    "task": "t", "kernel": "Softmax()", "positions": "NoPositions()", "length": 16, "width": 8, "solved": 0.9,
    "steps": 100, "layers": 2, "step_flops": 5.0, "status": "measured",
}  # fmt: skip


def rates(*shares):
    """Half a decade apart, from 1e-4, by four seeds each, or by none."""
    return [
        Rate(10 ** (-4 + place / 2), share, 10.0, 1.0, 0 if math.isnan(share) else 4)
        for place, share in enumerate(shares)
    ]


UNKNOWN = math.nan


@pytest.mark.parametrize(
    "shares, expected, told",
    [
        ([0, 0, 0], Band(0.0, 0.0, 0.0, 0), "none"),
        ([0, 1, 1, 0], Band(1.0, 0.5, 1.5), "1.0 decades (0.5 to 1.5)"),  # to the middles on both sides
        ([1, 1, 0], Band(0.75, 0.5, math.inf), "at least 0.5 decades"),
        ([0, 1, 0], Band(0.5, 0.0, 1.0), "less than 1.0 decades, one rate"),
        ([0, 0.5, 0], Band(0.0, 0.0, 1.0), "less than 1.0 decades, one rate"),
        ([0.5, 0, 0], Band(0.0, 0.0, math.inf), "one rate, next to what is not known"),
        ([0, 1, 0, 0, 1, 1, 1, 0], Band(1.5, 1.0, 2.0, 2), "1.5 decades (1.0 to 2.0), the widest of 2 bands"),
        ([0, 0.75, 0.25, 0], Band(1 / 2 * (1 / 3 + 1 / 2), 0.0, 1.0), "less than 1.0 decades, one rate"),
        ([0, 1, 1, UNKNOWN, 1, 0], Band(0.75, 0.5, math.inf, 2), "at least 0.5 decades, the widest of 2 bands"),
    ],
    ids=str,
)
def test_bands_are_of_neighbouring_rates_and_end_where_half_of_the_seeds_solve(shares, expected, told):
    found = analysis.band(rates(*shares))
    assert tuple(found) == pytest.approx(tuple(expected)) and found.is_open == math.isinf(expected.most)
    assert analysis.band_text(found) == told


def trained(*steps, **changes):
    """A row for each seed, by the step at which it had solved the task, or what became of it."""
    rows = [ROW | {"seed": seed, "learning_rate": 1e-3} | changes for seed in range(len(steps))]
    return [
        row | ({"status": step} if isinstance(step, str) else {"solved_at": step})
        for row, step in zip(rows, steps, strict=True)
    ]


def test_seeds_at_a_rate():
    [found] = analysis.by_rate(trained(20, 40, None, "diverged", "failed"))
    assert (found.share, found.steps, found.seeds) == (0.5, 40, 4), "half of them is in the band, and has its steps"
    [found] = analysis.by_rate(trained(20, None, None, "diverged"))
    assert (found.share, found.steps) == (0.25, math.inf)
    [found] = analysis.by_rate(trained(20, 40, None))
    assert (found.share, found.steps, found.operations) == (pytest.approx(2 / 3), 40, 200)
    assert [each.seeds for each in analysis.by_rate(trained("failed") + trained(5, learning_rate=1e-2))] == [0, 1]
    validations = [[10, -0.5], [20, -0.95], [30, -0.7]]
    assert analysis.solved_at(ROW | {"validations": validations}) == 20
    assert analysis.solved_at(ROW | {"validations": validations[:1]}) is None


def test_models_that_are_set_otherwise_share_no_band():
    alike = trained(20, 20)
    others = [trained(20, **changed) for changed in ({"layers": 1}, {"steps": 60}, {"batch": 8}, {"solved": 0.8})]
    found = analysis.groups([*alike, *(row for own in others for row in own)])
    assert list(map(len, found.values())) == [2, 1, 1, 1, 1]
    names = [name for _, name, *_ in found]
    assert "layers 1" in names[1] and "steps 60" in names[2] and "batch 8" in names[3] and "solved 0.8" in names[4]
    assert [name for _, name, *_ in analysis.groups(alike + trained(20, kernel="Linear()"))] == ["Softmax", "Linear"]


def test_equal_operations_are_the_least_that_a_kernel_beside_it_was_given():
    dear = trained(40, 60, kernel="Delta()", step_flops=10.0)
    elsewhere, uncounted = trained(1, layers=1, step_flops=1.0), trained(1, kernel="Linear()", step_flops=None)
    found = analysis.budgets([*trained(90), *dear, *elsewhere, *uncounted])
    assert list(found.values()) == [500, 500, 100]
    [within] = analysis.by_rate(dear, 500 // 10)
    assert (within.share, within.steps, within.operations) == (0.5, 40, 400)
    [table] = analysis.summaries([row | {"parameters": 7} for row in (*trained(90), *dear)])
    assert [(line[0], *line[3:8]) for line in table.lines[1:]] == [
        ("Delta", "100 steps", "one rate, next to what is not known", "0.001", "100% of 2", "40"),
        ("Softmax", "5e+02 operations: 100 steps", "one rate, next to what is not known", "0.001", "100% of 1", "90"),
        ("Delta", "5e+02 operations: 50 steps", "one rate, next to what is not known", "0.001", "50% of 2", "40"),
    ]


def test_a_figure_says_bands_steps_and_states_at_the_ends_of_lines():
    own = [
        trained(each, learning_rate=10**-place, state_bytes=2048.0) for place, each in ((3, None), (2, 20), (1, None))
    ]
    rows = [row for each in own for row in each]
    assert analysis.labels("Delta", rows) == (
        "Delta: less than 2.0 decades, one rate",
        "Delta: 20 steps at best, 2 KiB",
    )
    assert analysis.labels("Delta", trained(None, "failed"))[1] == "Delta: "
    assert analysis.held(rows) == "100 steps; solved from 90% of validation"
    assert analysis.held([*rows, *trained(5, steps=60)]) == "solved from 90% of validation"


def test_a_figure_has_what_all_were_given_and_parts_lines_where_nothing_is_known(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, _: drawn.append(figure))
    model = {"task_name": "mqar", "name": "softmax"}
    each = (20, "failed", 40)
    rows = [row | model for place, step in enumerate(each) for row in trained(step, learning_rate=10.0**place)]
    plot.draw(rows, tmp_path)
    shares, operations = drawn[0].axes
    assert np.isnan(shares.lines[0].get_ydata()).tolist() == [False, True, False]
    assert [text.get_text() for text in shares.texts] == [
        "Softmax: one rate, next to what is not known, the widest of 2 bands"
    ]
    assert {text.get_text() for text in operations.texts} == {"Softmax: 20 steps at best", "all were given as many"}


def test_a_matched_state_is_told_beside_what_was_wanted():
    told = {"parameters": 7, "state_bytes": 1024.0, "matched": "heads=1, kv_heads=1", "wanted_state_bytes": 1000.0}
    [table] = analysis.summaries([row | told for row in trained(20)])
    assert {line[-1] for line in table.lines} == {"1 KiB (+2.4%), heads=1, kv_heads=1"}


FLAGS = {
    "task": "mqar(pairs=2, vocabulary=16)", "kernels": "softmax", "lengths": 16, "widths": 8, "layers": 1, "heads": 1,
    "steps": 8, "validate_every": 4, "seeds": 2, "learning_rates": "1e-3,1e-2,1e-1", "test_examples": 16, "batch": 8,
    "save_every": 0, "isolate": False, "warmup": 1,
}  # fmt: skip


def test_from_flags_to_rows_a_table_and_a_figure(tmp_path):
    given = parsed(Settings, **FLAGS, solved=0.02, out=str(tmp_path))
    assert run.run(given) == 0
    rows = run.EXPERIMENT.read(tmp_path)
    assert len(rows) == 6 and {row["experiment"] for row in rows} == {"learnability"}
    assert all(row["trained_steps"] == (row["solved_at"] or 8) == row["validations"][-1][0] for row in rows)
    assert "decades" in summaries.of(tmp_path)
    assert (tmp_path / "learnability_mqar.png").stat().st_size > 5000
    assert run.run(given) == 0 and len(records.read(tmp_path)) == 6, "nothing is trained twice"


def test_processes_of_cells_are_told_what_a_sweep_is(tmp_path):
    given = parsed(Settings, **FLAGS, solved=0.5, out=str(tmp_path))
    told = sweep.Settings(**handed(given)["settings"])
    assert (told.until, told.steps, told.learning_rates) == (0.5, given.steps, given.learning_rates)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"solved": 1.5}, "--solved=1.5: expected a share"),
        ({"solved": "nan"}, "--solved=nan: expected a share"),
        ({"learning_rates": "1e-3,1e-2"}, "--learning_rates has 2: expected at least 3"),
        ({"task": "text"}, "--task=text\\(\\) has no right answers, a share of which, 0.9, ends training"),
        ({"until": 0.5}, "--until=0.5 ends training before --solved=0.9 of it is reached"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parsed(Settings, **FLAGS | flags)
