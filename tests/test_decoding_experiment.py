"""The decoding experiment, small and whole: rows, sizes that are those of the library, figures, and what is refused."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from attnzoo import GatedDelta, Linear, Nystrom, Performer, SlidingWindow, Softmax, start
from experiments.bench import records
from experiments.decoding import run
from tests import broken_kernels as broken
from tests import summaries


def settings(out, **changes):
    chosen = {
        "kernels": (Softmax(), SlidingWindow(7, 0), GatedDelta(), Nystrom()),
        "contexts": (16, 64),
        "tokens": 3,
        "batch": 2,
        "heads": 2,
        "head_dim": 4,
        "dtype": "float32",
        "repeats": 5,
        "cell_budget": 60.0,
        "seed": 0,
        "trained": (Linear(),),
        "length": 16,
        "steps": 2,
        "quality": "",
        "out": str(out),
    }
    return run.Settings(**(chosen | changes))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Settings of a run that is done."""
    chosen = settings(tmp_path_factory.mktemp("decoding"))
    assert run.run(chosen) == 0
    return chosen


def test_steps_that_are_not_the_whole_call_are_refused(tmp_path):
    chosen = settings(tmp_path, kernels=(broken.Forgetful(), broken.Stepping()), contexts=(16,))
    [cells] = run.EXPERIMENT.cells(chosen)
    laws = {row["kernel"]: row.get("law") for row in run.EXPERIMENT.measure(chosen, cells, None)}
    module = "tests.broken_kernels"
    assert laws == {f"{module}.Forgetful()": "stepping_equals_the_whole", f"{module}.Stepping()": None}


def test_a_run_measures_refuses_draws_and_is_not_repeated(ran):
    out = pathlib.Path(ran.out)
    rows = records.read(out)
    assert "Time of a token after so many" in summaries.of(out)
    assert len(rows) == 8
    by_cell = {(row["name"], row["context"]): row for row in rows}
    assert by_cell["nystrom", 16]["status"] == "refused"
    assert by_cell["softmax", 16]["state_bytes"] == 2 * 2 * (16 + 3) * 2 * 4 * 4
    assert by_cell["sliding_window", 16]["state_bytes"] == by_cell["sliding_window", 64]["state_bytes"]
    for row in rows:
        if row["status"] == "measured":
            assert row["token_seconds"] == np.median(row["seconds"]) / 3
    assert {path.name for path in out.glob("*.png")} == {"decoding.png", "quality.png"}
    models = run.trained(out / "quality")
    assert [row["state_bytes"] for row in models] == [2 * 2 * (32 * 32 + 32) * 4]
    run.run(ran)
    assert records.read(out) == rows


def test_models_of_another_folder_are_shown_and_none_trained(ran, tmp_path):
    chosen = dataclasses.replace(ran, kernels=(Nystrom(),), quality=f"{ran.out}/quality", out=str(tmp_path))
    assert run.run(chosen) == 1  # nothing was measured
    assert (tmp_path / "quality.png").exists()
    assert not (tmp_path / "quality").exists()


def test_a_filled_state_decodes_after_its_context():
    empty = start(batch=2, num_heads=2, head_dim=4, max_length=20, kernel=Performer(8))
    state = run.after(empty, 17, jax.random.key(0))
    assert state.positions.tolist() == [17, 17]
    assert all((np.asarray(x) > 0).all() for x in jax.tree.leaves(state.cache))


def test_classes_of_one_name_are_cells_of_their_own(tmp_path):
    mine = dataclasses.make_dataclass("Linear", [], bases=(Linear,), frozen=True)
    (cells,) = run.EXPERIMENT.cells(settings(tmp_path, kernels=(Linear(), mine()), contexts=(16,)))
    assert [cell.row["kernel"].partition("(")[0] for cell in cells] == ["Linear", f"{mine.__module__}.Linear"]


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="--repeats=4: expected at least 5"):
        settings(tmp_path, repeats=4)
    with pytest.raises(ValueError, match="--tokens=0: expected at least 1"):
        settings(tmp_path, tokens=0)
