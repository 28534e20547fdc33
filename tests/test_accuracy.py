"""The accuracy experiment, small and whole, and the text that it learns."""

import numpy as np
import pytest
from flax import nnx

from attnzoo import (
    ALiBi,
    LearnedPositions,
    Linear,
    Nystrom,
    SlidingWindow,
    Softmax,
)
from attnzoo.models import BlockConfig, LanguageModel
from experiments import figures, records, statistics, training
from experiments.accuracy import analysis, run
from experiments.report.page import write
from experiments.tasks import text


def settings(out, **changes):
    chosen = {
        "task": "text",
        "kernels": (Softmax(), Nystrom(landmarks=4)),
        "positions": (LearnedPositions(),),
        "lengths": (16,),
        "objectives": ("causal", "masked"),
        "steps": 3,
        "seeds": 1,
        "tokens": 64,
        "width": 8,
        "layers": 1,
        "heads": 2,
        "learning_rate": 1e-2,
        "warmup": 1,
        "dtype": "float32",
        "test_windows": 4,
        "out": str(out),
    }
    return run.Settings(**(chosen | changes))


def test_a_run_measures_refuses_draws_and_is_not_repeated(tmp_path):
    assert run.run(settings(tmp_path)) == 0
    rows = records.read(tmp_path)
    assert [row["status"] for row in rows] == ["measured", "refused", "measured", "measured"]
    assert all(4 < row["bits"] < 9 and len(row["bits_by_position"]) == 16 for row in rows if "bits" in row)
    assert {path.name for path in tmp_path.glob("*.png")} == {"bits_causal.png", "bits_masked.png"}
    run.run(settings(tmp_path))
    assert records.read(tmp_path) == rows


def test_runs_are_repeatable(tmp_path):
    for name in ("a", "b"):
        run.run(settings(tmp_path / name, kernels=(SlidingWindow(3, 0),), objectives=("causal",)))
    first, second = (records.read(tmp_path / name)[0] for name in ("a", "b"))
    assert first["bits"] == second["bits"] and first["curve"] == second["curve"]


def test_a_run_that_diverges_is_a_row_and_an_exit_code(tmp_path):
    changes = {"kernels": (Softmax(),), "objectives": ("causal",), "learning_rate": 1e30, "warmup": 0}
    assert run.run(settings(tmp_path, **changes)) == 1
    assert records.read(tmp_path)[0]["status"] == "diverged"


def test_windows_are_a_pure_function_and_splits_are_disjoint():
    corpus = text.load()
    parts = [text.windows(corpus, "train", 3, start, 2, 20) for start in (0, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), text.windows(corpus, "train", 3, 0, 4, 20))
    assert not np.array_equal(parts[0], text.windows(corpus, "train", 4, 0, 2, 20))
    assert {text.split_of(name) for name in text.MODULES} == set(text.SPLITS)
    tokens = parts[0]
    inputs, chosen = text.masked(tokens, 0, 0)
    assert (chosen.sum(axis=1) == 3).all() and (inputs[chosen] == text.MASK).all()
    np.testing.assert_array_equal(inputs[~chosen], tokens[~chosen])


def test_a_folder_without_the_library_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has 0 of .* modules of the corpus"):
        text.load(str(tmp_path))


def test_the_baseline_is_the_entropy_of_bytes():
    corpus = text.load()
    counts = np.bincount(corpus.splits["train"], minlength=256) + 1
    bits = [-np.log2(counts[byte] / counts.sum()) for byte in corpus.splits["test"][:20000]]
    assert abs(text.unigram_bits(corpus) - np.mean(bits)) < 0.15


def test_students_interval():
    found = statistics.mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3 and abs(found.high - 3 - 2.776 * np.std([1, 2, 3, 4, 5], ddof=1) / 5**0.5) < 1e-9
    assert statistics.mean([2.0]) == (2.0, None, None)


def test_positions_are_an_axis_of_the_grid(tmp_path):
    chosen = {"kernels": (Softmax(), Linear()), "positions": (LearnedPositions(), ALiBi()), "objectives": ("causal",)}
    assert run.run(settings(tmp_path, **chosen)) == 0
    rows = records.read(tmp_path)
    assert [row["status"] for row in rows] == ["measured", "measured", "measured", "refused"]
    assert "Linear cannot honour `bias`" in rows[-1]["reason"]
    assert [analysis.variant(row) for row in rows] == ["Softmax", "Softmax, ALiBi", "Linear", "Linear, ALiBi"]
    styles = figures.styles([row | {"kernel": analysis.variant(row)} for row in rows])
    assert len({str(style) for style in styles.values()}) == 4
    run.run(settings(tmp_path, **chosen))
    assert records.read(tmp_path) == rows


def test_rows_without_positions_are_of_learned_ones(tmp_path):
    chosen = {"kernels": (Softmax(),), "objectives": ("causal",)}
    run.run(settings(tmp_path / "new", **chosen))
    (row,) = records.read(tmp_path / "new")
    old = tmp_path / "old" / "accuracy"
    old.mkdir(parents=True)
    records.append(old, {name: value for name, value in row.items() if name != "positions"})
    run.run(settings(old, **chosen))
    assert len(records.read(old)) == 1
    assert "LearnedPositions()" in write(tmp_path / "old", tmp_path / "report.html").read_text()


def test_a_model_learns_what_can_be_learned():
    model = LanguageModel(4, BlockConfig(width=16, num_heads=2), max_length=8, num_layers=1, rngs=nnx.Rngs(0))
    tokens = np.tile(np.arange(4), 3)[None, :9].repeat(4, axis=0)
    batch = training.Batch(tokens[:, :-1], tokens[:, 1:], np.ones((4, 8), np.float32))
    trained = training.train(model, [batch] * 60, training.optimizer(3e-2, 60, 5))
    bits, weights = training.evaluate(model, [batch])
    assert bits.sum() / weights.sum() < 0.1 < trained.curve[0][1]
