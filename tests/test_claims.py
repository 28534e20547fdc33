"""Claims put to the test: the tasks mean what they say, every cell is one row, and each claim has its figure."""

import numpy as np
import pytest
from flax import nnx

from attnzoo import Linear, Nystrom, Softmax
from attnzoo.models import RecurrentLanguageModel
from attnzoo.models.recurrent import CELLS
from experiments.bench import records
from experiments.claims import candidates, regression, run
from experiments.tasks import recall
from tests import summaries


def settings(tmp_path, **changed):
    given = {"claims": ("speed", "recall", "regression"), "kernels": (Softmax(), Nystrom(4)), "lengths": (16,)}
    given |= {"distances": (4,), "tokens": 64, "steps": 2, "width": 8, "layers": 1, "heads": 2, "learning_rate": 1e-3}
    return run.Settings(**given | {"seeds": 1, "repeats": 5, "out": str(tmp_path)} | changed)


@pytest.mark.slow
def test_every_claim_has_rows_and_a_figure_once(tmp_path):
    assert run.run(settings(tmp_path)) == 0
    rows = records.read(tmp_path)
    assert all(claim in summaries.of(tmp_path) for claim in ("Speed", "Recall", "Regression"))
    found = {(row["claim"], row["kernel"]): row["status"] for row in rows if row["claim"] != "regression"}
    assert found["speed", "gru"] == found["recall", "lstm"] == found["recall", "Softmax()"] == "measured"
    assert found["speed", repr(Nystrom(4))] == found["recall", repr(Nystrom(4))] == "refused"
    assert all(row["compile_seconds"] > 0 for row in rows if row["claim"] == "speed" and row["status"] == "measured")
    assert sum(row["claim"] == "regression" for row in rows) == len(regression.BANDWIDTHS)
    assert all((tmp_path / f"{claim}.png").stat().st_size > 5000 for claim in run.CLAIMS)
    run.run(settings(tmp_path))
    assert len(records.read(tmp_path)) == len(rows)


@pytest.mark.slow
def test_recall_is_of_every_distance_in_one_model(tmp_path):
    run.run(settings(tmp_path, claims=("recall",), kernels=(), distances=(4, 8)))
    rows = records.read(tmp_path)
    assert [row["kernel"] for row in rows] == ["gru", "lstm"]
    assert all(row["distances"] == [4, 8] and len(row["accuracies"]) == 2 for row in rows)


def test_the_beginning_comes_back_at_the_cues():
    task = recall.Recall(count=5, symbols=9)
    inputs, targets, weights, *_ = task.batch("train", 3, 7, count=4, length=task.length(20))
    assert inputs.shape == (4, 30)
    np.testing.assert_array_equal(inputs[:, :5], targets[weights == 1].reshape(4, 5))
    np.testing.assert_array_equal(inputs[:, -5:], np.tile([18, 19, 20, 21, 22], (4, 1)))
    assert (weights[:, -5:] == 1).all() and (inputs[:, 5:-5] >= 9).all() and (inputs[:, 5:-5] < 18).all()
    with pytest.raises(ValueError, match=r"length=9: .* expects at least 10"):
        task.batch("train", 0, 0, 1, length=9)


def test_the_forget_gate_of_an_lstm_starts_open():
    model = RecurrentLanguageModel(9, width=4, num_layers=1, cell="lstm", rngs=nnx.Rngs(0))
    bias = np.asarray(model.layers[0].cell.dense_h.bias)
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 4))


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_models_do_not_see_the_future(cell):
    model = RecurrentLanguageModel(9, width=4, num_layers=2, cell=cell, rngs=nnx.Rngs(0))
    tokens = np.arange(12)[None] % 9
    before, after = model(tokens), model(np.where(np.arange(12) < 7, tokens, 0))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert not np.array_equal(before[:, 7:], after[:, 7:])
    with pytest.raises(ValueError, match="cell='rnn': expected one of gru, lstm"):
        RecurrentLanguageModel(9, width=4, num_layers=1, cell="rnn", rngs=nnx.Rngs(0))


def test_models_have_about_as_many_parameters(tmp_path):
    from experiments.train.steps import parameter_count

    given = settings(tmp_path, width=64, layers=2)
    sizes = [parameter_count(candidates.built(name, given, 33, 32, 0)) for name in ("gru", "lstm", Linear())]
    assert max(sizes) < 1.5 * min(sizes)


def test_attention_is_the_kernel_regression_of_the_formula():
    x, y = regression.sample(0)
    at, width = np.linspace(0, 5, 7), 0.3
    weights = np.exp(-((at[:, None] - x) ** 2) / (2 * width**2))
    np.testing.assert_allclose(regression.regressed(at, x, y, width), weights @ y / weights.sum(1), atol=1e-4)
    left_out = np.exp(-((x[:, None] - x) ** 2) / (2 * width**2)) * (1 - np.eye(len(x)))
    got = regression.regressed(x, x, y, width, mask=~np.eye(len(x), dtype=bool))
    np.testing.assert_allclose(got, left_out @ y / left_out.sum(1), atol=1e-4)
