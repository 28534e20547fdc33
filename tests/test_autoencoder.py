"""Compression: a sequence is told from the vector at its last token, and from nothing else."""

import numpy as np
import pytest
from flax import nnx

from attnzoo import SlidingWindow, Softmax
from attnzoo.models import BlockConfig
from attnzoo.positions import LearnedPositions
from experiments.bench.settings import parsed
from experiments.tasks.mad import MADCompression
from experiments.train.autoencoder import AutoEncoder
from experiments.train.sweep import models
from experiments.train.sweep.cells import cells
from experiments.train.sweep.settings import Settings


def logits(kernel, tokens, **given):
    sizes = {"max_length": 12, "num_layers": 2, "attention": kernel, "positions": LearnedPositions()}
    return AutoEncoder(16, BlockConfig(width=16, num_heads=2), **sizes, **given, rngs=nnx.Rngs(0))(tokens)


@pytest.mark.parametrize("is_tied", [False, True])
def test_where_the_last_token_sees_itself_alone_nothing_is_told_of_others(is_tied):
    tokens = MADCompression().batch("train", 0, 0, 3, 12).inputs
    alone = np.asarray(logits(SlidingWindow(left=0, right=0), tokens, is_tied=is_tied))
    assert alone.shape == (3, 12, 16) and alone.dtype == np.float32
    np.testing.assert_array_equal(alone[0], alone[1])
    assert np.ptp(alone[0], axis=0).max() > 1e-3  # it is told where an answer stands
    assert np.ptp(np.asarray(logits(Softmax(), tokens)), axis=0).max() > 1e-3


@pytest.mark.slow
def test_a_sweep_compresses(tmp_path):
    flags = {"task": "mad_compression(vocabulary=4)", "kernels": "softmax", "lengths": 5, "tokens": 320, "warmup": 5}
    small = {"widths": 32, "layers": 1, "heads": 2, "feed_forward": 32, "steps": 120, "learning_rates": "1e-2"}
    large = {"embedding_stddev": 1, "positions": "sinusoidal(scale=1.0)"}
    chosen = parsed(Settings, **flags, **small, **large, test_examples=64, isolate=False, save_every=0, out=tmp_path)
    [cell] = cells(chosen)
    row = models.train(chosen, cell, lambda progress: None)
    assert models.refusal(chosen, cell) is None and row["status"] == "measured"
    assert cell.task.chance == 1 / 3 and row["score"] > 0.5
