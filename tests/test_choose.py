"""The catalogue ranked for one call: what is known comes from rows, and what cannot serve says why."""

import math

import pytest

from attnzoo import Linear, Linformer, SlidingWindow, Softmax
from experiments.bench import chips, records
from experiments.bench.settings import parsed
from experiments.choose import knowledge, run
from experiments.choose.settings import CHIPS, Settings, size

TIMED = {
    "experiment": "scaling", "pass": "forward", "batch": 1, "heads": 2, "num_kv_heads": 2, "head_dim": 16,
    "dtype": "float32", "is_causal": True, "status": "measured", "platform": "cpu", "device": "x", "tokens": None,
}  # fmt: skip
TRAINED = {
    "experiment": "accuracy", "task": "MQAR(pairs=8)", "positions": "Rotary()", "width": 8, "learning_rate": 1e-2,
    "metric": "accuracy", "status": "measured", "length": 64, "baselines": {}, "parameters": 9, "validation": None,
}  # fmt: skip


def rows_of(folder):
    for kernel, length, median in (("Softmax()", 64, 1.0), ("Softmax()", 4096, 9.0), (repr(Linear()), 64, 2.0)):
        records.append(folder, TIMED | {"kernel": kernel, "name": "x", "length": length, "median": median})
    for seed in range(2):
        for kernel, score, longer in (("Softmax()", 1.0, 1.0), ("GatedDeltaNet()", 0.75, 0.375)):
            built = ["GatedDelta(max_beta=1); gate=silu"] * 2 if kernel == "GatedDeltaNet()" else [kernel]
            row = TRAINED | {"kernel": kernel, "name": kernel, "seed": seed, "score": score, "built": built}
            row |= {"by_length": {"1024": longer}}
            records.append(folder, row)
    return knowledge.read(folder)


def test_the_nearest_row_tells_how_much_longer_than_the_least_a_kernel_takes(tmp_path):
    rows = rows_of(tmp_path)
    known = knowledge.factor(rows, Softmax(), "cpu", 2048, True, "forward")
    assert known.source == f"measured: {tmp_path}, 4,096 tokens"
    chosen = parsed(Settings, length=4096, causal=True, heads=2, head_dim=16, dtype="float32")
    assert run.choice(chosen, Softmax(), known).seconds == pytest.approx(9.0)
    assert knowledge.factor(rows, SlidingWindow(), "cpu", 64, True, "forward") is None
    assert knowledge.factor(rows, Softmax(), "h100", 64, True, "forward") is None
    assert "other causality" in knowledge.factor(rows, Softmax(), "cpu", 64, False, "forward").source
    typical = knowledge.typical([known, knowledge.Factor(known.value * 3, "")])
    assert typical.value == pytest.approx(2 * known.value) and "the median of 2 kernels" in typical.source


def test_losses_are_of_the_nearest_length_and_of_the_kernel_that_a_published_model_has(tmp_path):
    rows = rows_of(tmp_path)
    for length, difference, where in ((90, "-25.0", "64 tokens"), (2048, "-62.5", "1,024 tokens (trained on 64)")):
        ((name, (told,)),) = knowledge.losses(rows, length).items()
        assert name == "GatedDelta" and told.startswith(difference)
        assert f"points as GatedDeltaNet, MQAR, {where}, 2 seeds: {tmp_path}" in told


def test_models_whose_layers_differ_tell_of_no_kernel(tmp_path):
    rows = [row | {"built": ["GatedDelta()", "Softmax()"]} for row in rows_of(tmp_path)]
    assert knowledge.losses(rows, 64) == {}


def test_what_cannot_serve_or_does_not_fit_comes_last_with_the_reason(tmp_path, capsys):
    chosen = parsed(Settings, length=4096, causal=True, decode=True, memory="64K", kernels="softmax, linformer, linear",
                    heads=2, head_dim=16, rows=str(tmp_path))  # fmt: skip
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    assert said.index("Linear") < said.index("Softmax") and "kernel=attnzoo.Linear(" in said
    nothing = knowledge.Factor(1.0, "")
    assert run.choice(chosen, Linformer(), nothing).refusal == "refused: it does not decode"
    refused = run.choice(chosen, Softmax(), nothing)
    assert refused.refusal.startswith("needs at least 512 KiB, there are 64 KiB") and refused.seconds == math.inf


def test_sizes_are_read():
    assert (size("8G", "memory"), size("512", "memory"), size("", "memory")) == (8 * 2**30, 512.0, None)
    for text in ("8X", "-1G", "G", "nan"):
        with pytest.raises(ValueError, match=f"--memory={text}: expected bytes"):
            size(text, "memory")
    assert tuple(chips.CHIPS) == CHIPS
    with pytest.raises(ValueError, match="--train and --decode exclude"):
        parsed(Settings, train=True, decode=True)
