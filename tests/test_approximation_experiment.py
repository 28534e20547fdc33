"""The approximation dial, small and whole: errors that NumPy finds too, a rate, operands of a model, rows, figures."""

import dataclasses
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from attnzoo import ALiBi, Dims, Kernel, Linear, Linformer, Nystrom, Performer, Rotary, SlidingWindow, Softmax
from attnzoo.models import BlockConfig
from experiments.approximation import dials, errors, model, operands, plot, run
from experiments.approximation.settings import FLAGGED
from experiments.bench import records
from experiments.inspect import heads
from experiments.show import figures
from experiments.tasks import text
from experiments.train import language
from tests import summaries
from tests.oracles import One, oracle_of, softmax_attention

LENGTH, HEADS, DIM = 16, 2, 4
VALUES = {"features": (8,), "landmarks": (4,), "ranks": (4,), "windows": (6,), "random_blocks": ()}
NONE = dict.fromkeys(FLAGGED, ())


def settings(out, **changes):
    chosen = {
        "operands": ("random",),
        "temperatures": (2.0,),
        **VALUES,
        "length": LENGTH,
        "heads": HEADS,
        "head_dim": DIM,
        "is_causal": False,
        "draws": 2,
        "seed": 0,
        "checkpoint": "",
        "texts": 2,
        "steps": 2,
        "repeats": 5,
        "cell_budget": 60.0,
        "out": str(out),
    }
    return run.Settings(**(chosen | changes))


def random_layer(length=LENGTH, temperature=2.0, seed=0):
    dims = Dims(1, length, length, HEADS, HEADS, DIM, DIM)
    [layer] = operands.Random(temperature, dims, False, seed).layers()
    return layer


def measured(kernel, layer, draws=1, is_causal=False):
    """Errors [draws, 3] of a kernel, the mean of heads."""
    programs = errors.programs(kernel, layer, is_causal)
    found = errors.of(programs, kernel, [layer], [errors.exact(layer, is_causal)], draws, seed=0)
    return found.mean(axis=(1, 3))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Settings of a run that is done."""
    chosen = settings(tmp_path_factory.mktemp("approximation"))
    assert run.run(chosen) == 0
    return chosen


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A softmax model on disk, causal and rotary, that has learned nothing."""
    folder = tmp_path_factory.mktemp("saved") / "one"
    config = BlockConfig(width=8, num_heads=2)
    description = language.Description(config, text.VOCABULARY, 12, 2, (Softmax(),), Rotary(), True)
    built = description.build()
    language.save(folder, description, built)
    return folder, built


@pytest.mark.parametrize(
    "kernel",
    [Linear(), SlidingWindow(3, 3), Nystrom(4), Linformer(4), Performer(8)],
    ids=lambda kernel: type(kernel).__name__,
)
def test_errors_are_those_of_numpy(ran, kernel):
    """Every draw's errors, from oracles in float64 that share nothing with the library."""
    [row] = [row for row in records.read(pathlib.Path(ran.out)) if row["kernel"] == repr(kernel)]
    layer, visible = random_layer(), np.ones((LENGTH, LENGTH), bool)
    for draw in range(len(row["output"])):
        trees = jax.tree.map(np.float64, errors.trees(kernel, layer, 0, draw))
        found = []
        for head in range(HEADS):
            q, k, v = (np.float64(x)[0, :, head] for x in layer)
            params, draws = jax.tree.map(lambda x, head=head: x[head], trees)
            pairs = []
            for values in (v, np.eye(LENGTH)):
                one = One(q, k, values, visible, params, draws)
                exact = softmax_attention(one)
                pairs.append((oracle_of(kernel)(kernel, one) - exact, exact))
            relative = [np.linalg.norm(wrong) / np.linalg.norm(exact) for wrong, exact in pairs]
            found.append([*relative, np.abs(pairs[1][0]).sum(axis=1).max()])
        told = [row[name][draw] for name in errors.Errors._fields]
        np.testing.assert_allclose(told, np.mean(found, axis=0), rtol=1e-3)


def test_the_mean_of_values_is_what_no_attention_gives(ran):
    q, k, v = (np.float64(x)[0] for x in random_layer())
    found = []
    for head in range(HEADS):
        exact = softmax_attention(One(q[:, head], k[:, head], v[:, head], np.ones((LENGTH, LENGTH), bool)))
        found.append(np.linalg.norm(v[:, head].mean(axis=0) - exact) / np.linalg.norm(exact))
    for row in records.read(pathlib.Path(ran.out)):
        np.testing.assert_allclose(row["mean_of_values"]["output"], np.mean(found), rtol=1e-5)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_random_features_err_as_one_over_the_root_of_their_number(orthogonal):
    """Sixteen times the features, a quarter of the error: scores are mild, so that few features reach the rate."""
    layer = random_layer(temperature=8.0)
    few, many = (np.square(measured(Performer(m, orthogonal), layer, draws=40)).mean(axis=0) for m in (16, 256))
    ratio = np.sqrt(few / many)
    assert np.all((ratio > 3) & (ratio < 5.3)), ratio


@pytest.mark.parametrize(
    ("kernel", "is_causal", "limit"),
    [
        (SlidingWindow(LENGTH, LENGTH), False, 1e-5),
        (SlidingWindow(LENGTH, 0), True, 1e-5),
        (Nystrom(LENGTH, iterations=20), False, 2e-2),
        (Softmax(), False, 1e-5),
    ],
    ids=repr,
)
def test_dials_turned_up_are_exact(kernel, is_causal, limit):
    assert measured(kernel, random_layer(), is_causal=is_causal).max() < limit


def test_a_run_measures_and_draws(ran):
    rows = records.read(pathlib.Path(ran.out))
    assert "Relative errors on random" in summaries.of(ran.out)
    assert [row["dial"] for row in rows] == [
        "softmax", "linear", "performer", "performer, independent", "nystrom", "linformer at init", "sliding_window",
    ]  # fmt: skip
    assert all(row["status"] == "measured" and row["ratio"] > 0 and row["compile_seconds"] > 0 for row in rows)
    assert [len(row["output"]) for row in rows] == [1, 1, 2, 2, 1, 2, 1]
    assert rows[0]["ratio"] == 1 and rows[0]["output"][0] < 1e-5
    assert {path.name for path in pathlib.Path(ran.out).glob("*.*g")} == {
        f"{kind}_random-t2.{suffix}" for kind in ("error", "trade") for suffix in ("png", "svg")
    }


def test_a_rerun_does_what_is_missing_beside_softmax(ran, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "draw", lambda rows, out: drawn.append(len(rows)))
    before = records.read(pathlib.Path(ran.out))
    run.run(ran)
    assert records.read(pathlib.Path(ran.out)) == before
    run.run(dataclasses.replace(ran, windows=(6, 8)))
    assert [row["dial"] for row in records.read(pathlib.Path(ran.out))[len(before) :]] == ["softmax", "sliding_window"]
    assert drawn == [7, 8]


@dataclasses.dataclass(frozen=True)
class Broken(Kernel):
    """Gives no numbers."""

    def head(self, params, draws, q, k, v, visible):
        return jnp.full_like(v, jnp.nan)


def test_a_cell_that_fails_becomes_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(dials, "POINTS", {"softmax": Softmax(), "broken": Broken()})
    monkeypatch.setattr(plot, "draw", lambda *_: None)
    assert run.run(settings(tmp_path, **NONE)) == 1
    failed, softmax = records.read(tmp_path)
    assert failed["status"] == "failed" and "no finite numbers" in failed["reason"]
    assert softmax["status"] == "measured"


def test_what_is_captured_is_what_layers_attend_with(saved):
    _, built = saved
    tokens = text.windows(text.load(), "test", 0, 0, 1, 12)
    expected = [head.weights for head in heads.look(built, tokens[0])]
    found = [errors.exact(layer, True).weights[0] for layer in operands.captured(built, tokens)]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


def test_operands_of_a_checkpoint_keep_its_length_and_masking(saved, tmp_path, monkeypatch):
    folder, _ = saved
    drawn = {}
    monkeypatch.setattr(figures, "save", lambda figure, stem: drawn.update({stem.name: figure}))
    chosen = settings(tmp_path, operands=("trained",), checkpoint=str(folder), **NONE | {"landmarks": (4,)})
    assert run.run(chosen) == 0
    nystrom, softmax, linear = records.read(tmp_path)
    assert nystrom["status"] == "refused" and "is_causal" in nystrom["reason"]
    for row in (softmax, linear):
        assert row["is_causal"] and (row["length"], row["batch"], row["layers"]) == (12, 2, 2)
        assert np.shape(row["output_by_head"]) == (2, 2)
    assert set(drawn) == {"error_trained", "trade_trained"}
    for figure in drawn.values():
        assert "2 layers of a trained model on 2 unseen texts; 12 tokens, 2 heads of 4, causal" in figure.get_suptitle()
        assert "Refused: Nystrom(landmarks=4)." in figure.get_supxlabel()
        plt.close(figure)


@pytest.mark.slow
def test_a_model_is_trained_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "TRAINING", model.TRAINING | {"layers": 1, "test_examples": 1})
    monkeypatch.setattr(plot, "draw", lambda *_: None)
    assert run.run(settings(tmp_path, operands=("trained",), **NONE)) == 0
    softmax, linear = records.read(tmp_path)
    assert not softmax["is_causal"] and softmax["model"] == linear["model"]
    assert language.find_exact(next((tmp_path / "model").iterdir())).name == softmax["model"].split()[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": (Softmax(), Linear())}, r"attends by Linear\(.*: expected softmax"),
        ({"vocabulary": 20}, "with 20 tokens: expected one of bytes"),
        ({"positions": ALiBi()}, r"with ALiBi\(.*, which adds to scores: expected positions that leave"),
    ],
    ids=str,
)
def test_models_whose_attention_is_more_than_softmax_are_refused(saved, changes, message):
    description, _ = language.load(saved[0])
    with pytest.raises(ValueError, match=message):
        operands.Trained(saved[0], dataclasses.replace(description, **changes), 1, 12, 0)


def test_temperature_divides_scores():
    sharp, mild = (random_layer(temperature=temperature) for temperature in (1.0, 4.0))
    np.testing.assert_allclose(sharp.query / 2, mild.query, rtol=1e-6)
    np.testing.assert_array_equal(sharp.value, mild.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 4}, "--repeats=4: expected at least 5"),
        ({"draws": 0}, "--draws=0: expected at least 1"),
        ({"temperatures": (1.0, 0.0)}, "--temperatures=0.0: expected at least 1e-06"),
        ({"steps": 1}, "--steps=1: expected at least 2"),
    ],
    ids=str,
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **changes)


def test_operands_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--length=1000000: matrices of attention would take .* choose fewer tokens"):
        run.run(settings(tmp_path, length=10**6, **NONE))


def test_flags_become_settings_and_bad_ones_end_with_one_line(tmp_path):
    words = [sys.executable, "-m", "experiments.approximation", "--random_blocks=", "--repeats=4", f"--out={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr == "error: --repeats=4: expected at least 5, and a finite number\n"
