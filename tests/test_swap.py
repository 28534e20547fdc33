"""The swap experiment, small and whole: the model as it was trained, with other kernels, and what cannot be put in."""

import dataclasses

import pytest

from attnzoo import Additive, LearnedPositions, Linear, Nystrom, SlidingWindow, Softmax
from attnzoo.models import BlockConfig
from experiments.bench import records
from experiments.swap import analysis, run
from experiments.train import language
from tests import summaries


def test_a_model_is_tested_with_each_kernel_once(tmp_path):
    config = BlockConfig(width=8, num_heads=2)
    sizes = {"vocabulary": 257, "max_length": 16, "num_layers": 1, "positions": LearnedPositions(), "is_causal": True}
    description = language.Description(config, attention=(Softmax(),), **sizes)
    language.save(tmp_path / "model", description, description.build())
    kernels = (SlidingWindow(15, 0), SlidingWindow(1, 0), Additive(), Nystrom(), Softmax())
    settings = run.Settings(str(tmp_path / "model"), kernels, 8, str(tmp_path / "out"))
    assert run.run(settings) == 0
    rows = records.read(tmp_path / "out")
    assert [row["status"] for row in rows] == ["measured", "measured", "measured", "refused", "refused"]
    softmax, whole, near = (row["bits"] for row in rows[:3])
    assert abs(whole - softmax) < 1e-5 < abs(near - softmax)
    assert "is a checkpoint of another model: stack.blocks.0.attention.attention" in rows[3]["reason"]
    assert "Nystrom cannot serve as causal self-attention" in rows[4]["reason"]
    assert (tmp_path / "out" / "swap.png").exists()
    assert "SlidingWindow(left=15, right=0)" in summaries.of(tmp_path / "out")
    run.run(settings)
    assert records.read(tmp_path / "out") == rows


@pytest.mark.slow
def test_all_seeds_of_a_folder_are_exchanged_and_compared_with_themselves(tmp_path):
    """Each model is compared with itself: the spread over models is not that of the changes."""
    sizes = {"vocabulary": 257, "max_length": 16, "num_layers": 1, "positions": LearnedPositions(), "is_causal": True}
    for seed, (kernel, width) in enumerate([(Softmax(), 8), (Softmax(), 8), (Linear(), 8), (Softmax(), 16)]):
        config = BlockConfig(width=width, num_heads=2)
        description = language.Description(config, attention=(kernel,), seed=seed, **sizes)
        language.save(tmp_path / language.FOLDER / f"m{seed}", description, description.build())
        row = {"status": "measured", "metric": "bits", "is_causal": True, "bits": 8.0 + seed, "checkpoint": f"m{seed}"}
        records.append(tmp_path, row | {"kernel": repr(kernel), "width": width, "seed": seed})
    assert [folder.name for folder in language.find_seeds(tmp_path)] == ["m0", "m1"]
    assert run.run(run.Settings(str(tmp_path), (SlidingWindow(1, 0),), 4, str(tmp_path / "out"))) == 0
    rows = records.read(tmp_path / "out")
    assert [(row["checkpoint"], row["name"]) for row in rows] == [
        (model, name) for model in ("m0", "m1") for name in ("softmax", "sliding_window")
    ]
    [[first, second]] = [own for own in analysis.grouped(rows) if own[0]["name"] == "sliding_window"]
    assert (
        first["change"] == rows[1]["bits"] - rows[0]["bits"] and second["change"] == rows[3]["bits"] - rows[2]["bits"]
    )
    assert "2 seeds, which supports no claim" in summaries.of(tmp_path / "out")
    assert [folder.name for folder in language.find_seeds(tmp_path / language.FOLDER / "m3")] == ["m3"]
    both = run.Settings(str(tmp_path), (SlidingWindow(1, 0),), 4, str(tmp_path / "out"), lengths=(8, 16))
    assert run.run(both) == 0
    assert [row["length"] for row in records.read(tmp_path / "out")] == [16] * 4 + [8] * 4
    with pytest.raises(ValueError, match="--lengths=17: m0 takes at most 16 tokens"):
        run.run(dataclasses.replace(both, lengths=(17,)))
