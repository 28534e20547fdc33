"""The swap experiment, small and whole: the model as it was trained, with other kernels, and what cannot be put in."""

from attnzoo import Additive, LearnedPositions, Nystrom, SlidingWindow, Softmax
from attnzoo.models import BlockConfig
from experiments import language, records
from experiments.swap import run
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
