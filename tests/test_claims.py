"""Claims put to the test: the tasks mean what they say, every cell is one row, and each claim has its figure."""

import numpy as np
import pytest
from flax import nnx

from attnzoo import Linear, Nystrom, Softmax
from attnzoo.models import RecurrentLanguageModel
from attnzoo.models.recurrent import CELLS
from experiments import records
from experiments.claims import candidates, regression, run
from experiments.tasks import recall
from tests import summaries


def settings(tmp_path, **changed):
    given = {"claims": ("speed", "recall", "regression"), "kernels": (Softmax(), Nystrom(4)), "lengths": (16,)}
    given |= {"distances": (4,), "tokens": 64, "steps": 2, "width": 8, "layers": 1, "heads": 2, "learning_rate": 1e-3}
    return run.Settings(**given | {"seeds": 1, "repeats": 5, "out": str(tmp_path)} | changed)


def test_every_claim_has_rows_and_a_figure_once(tmp_path):
    assert run.run(settings(tmp_path)) == 0
    rows = records.read(tmp_path)
    assert all(claim in summaries.of(tmp_path) for claim in ("Speed", "Recall", "Regression"))
    found = {(row["claim"], row["kernel"]): row["status"] for row in rows if row["claim"] != "regression"}
    assert found["speed", "gru"] == found["recall", "lstm"] == found["recall", "Softmax()"] == "measured"
    assert found["speed", repr(Nystrom(4))] == found["recall", repr(Nystrom(4))] == "refused"
    assert sum(row["claim"] == "regression" for row in rows) == len(regression.BANDWIDTHS)
    assert all((tmp_path / f"{claim}.png").stat().st_size > 5000 for claim in run.CLAIMS)
    run.run(settings(tmp_path))
    assert len(records.read(tmp_path)) == len(rows)


def test_the_beginning_comes_back_at_the_cues():
    inputs, targets, weights = recall.batch(3, "train", 7, count=5, distance=20)
    assert inputs.shape == targets.shape == weights.shape == (5, 20 + 2 * recall.COUNT)
    np.testing.assert_array_equal(inputs[:, : recall.COUNT], targets[weights == 1].reshape(5, -1))
    assert (inputs[:, -recall.COUNT :] == recall.CUE).all()
    noise = inputs[:, recall.COUNT : -recall.COUNT]
    assert (noise >= recall.SYMBOLS).all() and (noise < recall.CUE).all()
    again, other = (recall.batch(3, "train", index, count=5, distance=20)[0] for index in (7, 8))
    np.testing.assert_array_equal(inputs, again)
    assert not np.array_equal(inputs, other)


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
    from experiments.steps import parameter_count

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
