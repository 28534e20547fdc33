"""Checkpoints: what was saved comes back to the bit, and what is damaged, unfinished or of another model is said."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import Additive
from attnzoo.models import BlockConfig, LanguageModel
from experiments.train import checkpoints


def made(seed=0, width=8):
    config = BlockConfig(width=width, num_heads=2)
    return LanguageModel(11, config, max_length=6, num_layers=1, attention=Additive(), rngs=nnx.Rngs(seed))


@pytest.fixture
def saved(tmp_path):
    model = made()
    checkpoints.save(tmp_path / "one", model, {"kernel": "additive", "width": 8})
    return model, tmp_path / "one"


def test_what_was_saved_comes_back(saved):
    model, folder = saved
    other = made(seed=1)
    tokens = jnp.arange(6)[None]
    assert not jnp.array_equal(other(tokens), model(tokens))
    checkpoints.restore(folder, other)
    for got, expected in zip(jax.tree.leaves(nnx.state(other)), jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert checkpoints.about(folder) == {"kernel": "additive", "width": 8}


def test_a_second_save_replaces_the_first(saved):
    _, folder = saved
    checkpoints.save(folder, made(seed=2), {"seed": 2})
    other = made()
    checkpoints.restore(folder, other)
    np.testing.assert_array_equal(other.embedding.position[...], made(seed=2).embedding.position[...])


def test_another_model_is_refused(saved):
    with pytest.raises(ValueError, match=r"of another model: .* is float32\[11, 8\] there, and float32\[11, 4\] in"):
        checkpoints.restore(saved[1], made(width=4))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no checkpoint: it has no about\.json"):
        checkpoints.about(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "absent", "description"])
def test_damage_is_said(saved, damage):
    _, folder = saved
    if damage == "flipped":
        path = folder / checkpoints.ABOUT
        found = json.loads(path.read_text())
        found["arrays"]["embedding.position"]["sha256"] = "0" * 64  # as if the array's bytes were others
        path.write_text(json.dumps(found))
    elif damage == "absent":
        for path in (folder / checkpoints.ARRAYS).rglob("*"):
            if path.is_file() and "manifest" in path.name:
                path.write_bytes(b"")
    else:
        (folder / checkpoints.ABOUT).write_text("[]")
    with pytest.raises(ValueError, match="is damaged"):
        checkpoints.restore(folder, made())
