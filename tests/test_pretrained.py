"""Self-pretraining: a classifier starts from the blocks and embeddings of a model that has restored its inputs."""

import numpy as np
import pytest
from flax import nnx

from attnzoo import Softmax
from attnzoo.models import BlockConfig, Classifier
from attnzoo.positions import LearnedPositions
from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.tasks.wrapped import Denoised
from experiments.train import language, pretrained
from experiments.train.sweep import models
from experiments.train.sweep.cells import cells
from experiments.train.sweep.settings import Settings

CONFIG = BlockConfig(width=16, num_heads=2)
TASK = Denoised("digits")


def description(**changes):
    sizes = {"vocabulary": TASK.vocabulary, "max_length": 64, "num_layers": 1, "attention": (Softmax(),)}
    given = {"config": CONFIG, "positions": LearnedPositions(), "is_causal": False, "seed": 1}
    return language.Description(**sizes | given | changes)


def classifier(**changes):
    sizes = {"max_length": 64, "num_layers": 1, "attention": Softmax()}
    return Classifier(TASK.inner.vocabulary, 10, CONFIG, **sizes | changes, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    told = description()
    language.save(folder / language.FOLDER / "one", told, told.build())
    row = {
        "task": repr(TASK),
        "task_name": "denoised",
        "status": "measured",
        "seed": 1,
        "bits": 1.0,
        "checkpoint": "one",
    }
    for changes in ({}, {"bits": 2.0, "checkpoint": "worse"}, {"seed": 2, "task": repr(Denoised("listops"))}):
        records.append(folder, row | changes)
    return folder


def test_blocks_and_embeddings_are_those_of_the_checkpoint_and_the_head_is_its_own(saved):
    model, fresh, before = classifier(), classifier(), description().build()
    pretrained.start(model, saved / language.FOLDER / "one")
    flat = lambda x: {path: np.asarray(leaf) for path, leaf in nnx.to_flat_state(nnx.state(x, nnx.Param))}
    found, started, new = flat(before), flat(model), flat(fresh)
    assert {path[0] for path in started} == {"embedding", "stack", "head"}
    for path, x in started.items():
        wanted = new[path] if path[0] == "head" else found[path][: len(x)]
        np.testing.assert_array_equal(x, wanted)
    assert found["embedding", "embed", "embedding"].shape[0] == 1 + started["embedding", "embed", "embedding"].shape[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 2}, "other parameters in its stack"),
        ({"max_length": 32}, "position.* is .*64, 16.*: expected .*32, 16"),
    ],
)
def test_models_of_other_sizes_are_refused(saved, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrained.start(classifier(**changes), saved / language.FOLDER / "one")


@pytest.mark.slow
def test_a_sweep_starts_from_another(tmp_path):
    small = {"kernels": "softmax", "lengths": 64, "widths": 16, "layers": 1, "heads": 2, "tokens": 128, "steps": 2}
    rest = {"test_examples": 2, "isolate": False, "learning_rates": "1e-9", "weight_decay": 0}
    before = parsed(Settings, task="denoised(task='digits')", **small, **rest, out=tmp_path / "before")
    after = parsed(Settings, task="digits", **small, **rest, start_from=before.out, out=tmp_path / "after")
    (tmp_path / "before").mkdir()
    [first], [then] = cells(before), cells(after)
    row = first.row(before) | models.train(before, first, lambda progress: None)
    with pytest.raises(ValueError, match=r"has no checkpoint of .* that restored inputs of Digits"):
        models.train(after, then, lambda progress: None)
    records.append(tmp_path / "before", row)
    assert models.train(after, then, lambda progress: None)["status"] == "measured"
    assert then.row(after)["start_from"] == str(tmp_path / "before") and first.row(before)["start_from"] is None


def test_the_checkpoint_is_the_best_of_the_same_task(saved):
    assert pretrained.find(saved, TASK.inner, {"seed": 1}) == saved / language.FOLDER / "one"
    with pytest.raises(
        ValueError, match=r"no checkpoint of .*seed 2 that restored inputs of Digits\(\): train it first"
    ):
        pretrained.find(saved, TASK.inner, {"seed": 2})
