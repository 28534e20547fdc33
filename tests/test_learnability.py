"""Learnability: bands of rates as they are defined, and a command from flags to a table and a figure."""

import math

import pytest

from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.learnability import analysis, run
from experiments.learnability.analysis import Band, Rate
from experiments.learnability.settings import Settings
from experiments.train.sweep import settings as sweep
from experiments.train.sweep.run import handed
from tests import summaries

ROW = {"task": "t", "kernel": "Softmax()", "positions": "NoPositions()", "length": 16, "width": 8, "solved": 0.9}


def rates(*shares):
    """Half a decade apart, from 1e-4."""
    return [Rate(10 ** (-4 + place / 2), share, 10.0, 1.0, 4) for place, share in enumerate(shares)]


@pytest.mark.parametrize(
    "shares, expected",
    [
        ([0, 0, 0], Band(0.0, False)),
        ([0, 1, 1, 0], Band(1.0, False)),  # half a decade, and to the middles on both sides
        ([1, 1, 0], Band(0.75, True)),
        ([0, 0.5, 0], Band(0.0, False)),
        ([0, 1, 0, 0, 1, 1, 1, 0], Band(1.5, False)),  # the wider one of two
        ([0, 0.75, 0.25, 0], Band(1 / 2 * (1 / 3 + 1 / 2), False)),
    ],
    ids=str,
)
def test_bands_are_of_neighbouring_rates_and_end_where_half_of_the_seeds_solve(shares, expected):
    found = analysis.band(rates(*shares))
    assert found.decades == pytest.approx(expected.decades) and found.is_open is expected.is_open


def test_seeds_at_a_rate():
    def row(seed, solved_at, status="measured"):
        return ROW | {"seed": seed, "status": status, "learning_rate": 1e-3, "solved_at": solved_at, "step_flops": 5.0}

    [found] = analysis.by_rate([row(0, 20), row(1, 40), row(2, None), row(3, None, "diverged"), row(4, 60, "failed")])
    assert (found.share, found.steps, found.seeds) == (0.5, math.inf, 4)
    [found] = analysis.by_rate([row(0, 20), row(1, 40), row(2, None)])
    assert (found.share, found.steps, found.operations) == (pytest.approx(2 / 3), 40, 200)
    validations = [[10, -0.5], [20, -0.95], [30, -0.7]]
    assert analysis.solved_at(ROW | {"validations": validations}) == 20
    assert analysis.solved_at(ROW | {"validations": validations[:1]}) is None


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
    told = sweep.Settings(**handed(given, ())["settings"])
    assert (told.until, told.steps, told.learning_rates) == (0.5, given.steps, given.learning_rates)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"solved": 1.5}, "--solved=1.5: expected a share"),
        ({"learning_rates": "1e-3,1e-2"}, "--learning_rates has 2: expected at least 3"),
        ({"task": "text"}, "--task=text\\(\\) has no right answers, a share of which, 0.9, ends training"),
        ({"until": 0.5}, "--until=0.5 ends training before --solved=0.9 of it is reached"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parsed(Settings, **FLAGS | flags)
