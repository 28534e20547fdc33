"""Seeds that try every learning rate, and others that have the one that validation chose by them."""

import math

import pytest

from attnzoo import Linear, Softmax
from experiments.bench import outcome, records
from experiments.bench.settings import parsed
from experiments.learnability import settings as learnability
from experiments.tasks.text import Text
from experiments.train.sweep import analysis, models, run
from experiments.train.sweep.cells import cells, confirming
from tests.test_accuracy import settings

RATES = 1e-3, 1e-2, 1e-1
BEST = {Softmax(): 1e-2, Linear(): 1e-1}


def asked(out, **changes):
    chosen = {"tasks": (Text(),), "kernels": tuple(BEST), "learning_rates": RATES, "seeds": 5, "tuning_seeds": 2}
    return settings(out, **(chosen | changes))


@pytest.fixture
def trained(monkeypatch):
    """What was trained: each kernel validates best at its rate by the first two seeds, and worst beyond."""
    found = []

    def train(settings, cell, told):
        found.append(cell)
        is_tuning = cell.seed < settings.first_seed + 2
        away = abs(math.log10(cell.learning_rate / BEST[cell.kernel]))
        validation = away if is_tuning else 9.0
        seconds = {"train_seconds": 1.0, "compile_seconds": 1.0}
        return {"status": "measured", "validation": validation, "score": validation} | seconds

    monkeypatch.setattr(models, "train", train)
    monkeypatch.setattr(run.EXPERIMENT, "show", lambda *_: None)
    return found


def places(cells):
    return sorted((repr(cell.kernel), cell.learning_rate, cell.seed) for cell in cells)


def test_the_first_seeds_try_every_rate_and_others_have_the_chosen_one(trained, tmp_path):
    chosen = asked(tmp_path, first_seed=3)
    assert run.run(chosen) == 0
    wanted = [(repr(kernel), rate, seed) for kernel in BEST for rate in RATES for seed in (3, 4)]
    wanted += [(repr(kernel), rate, seed) for kernel, rate in BEST.items() for seed in (5, 6, 7)]
    assert places(trained) == sorted(wanted) and len(records.read(tmp_path)) == len(wanted) == 18
    assert run.run(chosen) == 0 and len(trained) == 18, "a rerun finds all done"
    shown = run.EXPERIMENT.shown(chosen, records.read(tmp_path), [])
    assert len(shown) == 18
    rows = analysis.at_chosen_rates(records.read(tmp_path))
    assert len(rows) == 10 and {(row["kernel"], row["learning_rate"]) for row in rows} == {
        (repr(kernel), rate) for kernel, rate in BEST.items()
    }, "what more seeds found chooses nothing again, bad as it is"


def test_a_run_that_was_interrupted_goes_on_to_the_same_cells(trained, tmp_path, monkeypatch):
    chosen, train = asked(tmp_path), models.train

    def stops(*given):
        if len(trained) in (7, 13):  # while rates are tuned, and after
            trained.append(None)
            raise outcome.Stopped("asked to end")
        return train(*given)

    monkeypatch.setattr(models, "train", stops)
    assert [run.run(chosen) for _ in range(3)] == [outcome.STOPPED, outcome.STOPPED, 0]
    assert len(set(places(filter(None, trained)))) == len(records.read(tmp_path)) == 18


def test_a_list_of_cells_has_those_whose_rate_is_not_known_yet(tmp_path, capsys):
    chosen = asked(tmp_path, dry_run=True)
    assert run.run(chosen) == 0
    told = capsys.readouterr().out
    assert "18 of 18 cells to do" in told and told.count("that of tuning") == 6


def test_without_it_nothing_is_confirmed():
    plain = asked("", tuning_seeds=0)
    assert not list(confirming(plain, None)) and len(list(cells(plain))) == 2 * 3 * 5
    assert list(cells(asked(""))) == [cell for cell in cells(plain) if cell.seed < 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 2}, "--tuning_seeds=2 of --seeds=2: expected fewer"),
        ({"learning_rates": (1e-2,)}, "expected several"),
        ({"shard": (0, 2)}, "run shards with --seeds=2"),
    ],
)
def test_what_means_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        asked("", **changes)


def test_a_map_of_rates_has_all_seeds_at_all_of_them():
    with pytest.raises(ValueError, match="--tuning_seeds=2"):
        parsed(learnability.Settings, tuning_seeds=2)
