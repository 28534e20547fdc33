"""The catalogue ranked for one call: what is known comes from rows, and what cannot serve says why."""

import ast
import math
import pathlib

import jax
import numpy as np
import pytest

import attnzoo
from attnzoo import BigBird, Delta, Dims, Linear, Linformer, SlidingWindow, Softmax
from experiments.bench import chips, records
from experiments.bench.settings import parsed
from experiments.choose import knowledge, losses, run
from experiments.choose.settings import CHIPS, Settings, size
from experiments.show import units

TIMED = {
    "experiment": "scaling", "pass": "forward", "batch": 1, "heads": 2, "num_kv_heads": 2, "head_dim": 16,
    "dtype": "float32", "is_causal": True, "status": "measured", "platform": "cpu", "device": "x", "tokens": None,
}  # fmt: skip
TRAINED = {
    "experiment": "accuracy", "task": "MQAR(pairs=8)", "positions": "Rotary()", "width": 8, "learning_rate": 1e-2,
    "metric": "accuracy", "status": "measured", "length": 64, "baselines": {}, "parameters": 9, "validation": None,
    "steps": 100,
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
    call = knowledge.Call("cpu", 2048, True, "forward", "float32")
    known = knowledge.factor(rows, Softmax(), call)
    assert known.source == f"measured: {tmp_path}, scaled from 4,096 tokens"
    chosen = parsed(Settings, length=4096, causal=True, heads=2, head_dim=16, dtype="float32")
    assert run.choice(chosen, Softmax(), known).seconds == pytest.approx(9.0)
    assert knowledge.factor(rows, SlidingWindow(), call) is None
    assert knowledge.factor(rows, Softmax(), call._replace(device="h100")) is None
    other = knowledge.factor(rows, Softmax(), call._replace(is_causal=False, length=64, dtype="bfloat16")).source
    assert other.endswith(", 64 tokens, other causality, float32")
    typical = knowledge.typical([known, knowledge.Factor(known.value * 3, "")])
    assert typical.value == pytest.approx(2 * known.value) and "the median of 2 kernels" in typical.source


def compiled(folder, *cells):
    """Rows of programs for an H100, each of changes to one of Softmax by what `attend` takes itself."""
    shared = TIMED | {"experiment": "compiled", "status": "compiled", "target": "h100", "implementation": "auto"}
    shared |= {"operands": "heads", "dtype": "bfloat16", "length": 4096, "kernel": "Softmax()", "flops": 1e9}
    for cell in cells:
        records.append(folder, shared | cell)
    return knowledge.read(folder)


def test_the_last_row_of_the_fastest_implementation_is_ranked_and_named(tmp_path, capsys):
    pallas, delta = {"implementation": "pallas", "flops": None}, {"kernel": "Delta(max_beta=1)"}
    rows = compiled(
        tmp_path,
        delta | {"roofline_seconds": 5e-3},
        delta | pallas | {"roofline_seconds": 1e-9},  # superseded
        delta | pallas | {"roofline_seconds": 2e-3, "operands": "projected"},
        delta | pallas | {"roofline_seconds": 3e-3},
        {"kernel": repr(Linear()), "roofline_seconds": 4e-3, "implementation": "torch SDPA"},
    )
    call = knowledge.Call("h100", 4096, True, "forward", "bfloat16")
    known = knowledge.factor(rows, Delta(), call)
    place = f"compiled, at least: {tmp_path}, 4,096 tokens, pallas"
    assert known.source == f"{place}, as projections leave operands" and known.implementation == "pallas"
    assert knowledge.factor(rows, Delta(), call, lambda implementation: False).implementation is None
    assert knowledge.factor([*rows, rows[0] | {"length": 8192}], Delta(), call._replace(length=8192)) == known._replace(
        value=pytest.approx(known.value), source=known.source.replace("4,096", "scaled from 4,096")
    )
    assert knowledge.factor(rows, Linear(), call) is None
    chosen = parsed(Settings, length=4096, causal=True, heads=2, head_dim=16, rows=str(tmp_path), device="h100",
                    kernels="delta")  # fmt: skip
    assert run.choice(chosen, Delta(), known).seconds == pytest.approx(2e-3)
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    assert "Delta, pallas" in said and 'is_causal=True, implementation="pallas")' in said


def test_a_program_that_hides_its_operations_takes_as_long_as_they_do(tmp_path):
    rows = compiled(tmp_path, {"implementation": "pallas", "flops": None, "roofline_seconds": 1e-12})
    call = knowledge.Call("h100", 4096, True, "forward", "bfloat16")
    assert knowledge.factor(rows, Softmax(), call).value == 1.0
    assert knowledge.factor([row | {"value_dim": 64} for row in rows], Softmax(), call) is None  # of narrower keys


def test_a_row_of_other_fields_comes_before_one_of_other_causality(tmp_path):
    wide, default = repr(SlidingWindow(left=255, right=0)), repr(SlidingWindow())
    rows = compiled(
        tmp_path,
        {"kernel": default, "is_causal": False, "roofline_seconds": 9e-3},
        {"kernel": wide, "roofline_seconds": 1e-3},
        {"kernel": "SlidingWindow(gone=1)", "roofline_seconds": 1e-3},
    )
    for is_causal, other in ((True, "as SlidingWindow(left=255, right=0)"), (False, "4,096 tokens")):
        call = knowledge.Call("h100", 4096, is_causal, "forward", "bfloat16")
        assert knowledge.factor(rows, SlidingWindow(), call).source.endswith(other)


def test_losses_are_of_the_nearest_length_and_of_the_kernel_that_a_published_model_has(tmp_path):
    rows = rows_of(tmp_path)
    for length, difference, where in ((90, "-25.0", "64 tokens"), (2048, "-62.5", "1,024 tokens (trained on 64)")):
        ((name, (told,)),) = losses.told(rows, length).items()
        assert name == "GatedDelta" and told.startswith(difference)
        assert f"points as GatedDeltaNet, MQAR, {where}, 100 steps, 2 seeds: {tmp_path}" in told


def test_losses_are_of_one_setting_that_is_the_longest_training(tmp_path):
    """Whatever the numbers look like as text; what a shorter one alone has is told of that one."""
    trained = (
        ("b", 900, {"Linear()": 0.9, "Delta()": 0.2}),
        ("a", 10_000, {"Linear()": 0.3, "Delta()": 0.8, "Delta(max_beta=2)": 1.0}),
        ("c", 20_000, {"Retention()": 0.5, "Delta()": 0.7}),
    )
    for folder, steps, scores in trained:
        (tmp_path / folder).mkdir()
        for kernel, score in ({"Softmax()": 1.0} | scores).items():
            row = TRAINED | {"kernel": kernel, "name": kernel, "seed": 0, "score": score, "steps": steps}
            records.append(tmp_path / folder, row | {"length": 128 if folder == "c" else 64})
    found = losses.told(knowledge.read(tmp_path), 64)
    assert [found[name][0].partition(" points")[0] for name in ("Linear", "Delta")] == ["-70.0", "-20.0"]
    assert all("10,000 steps" in told for name in ("Linear", "Delta") for told in found[name])
    assert "20,000 steps" in found["Retention"][0]


def test_training_that_was_to_end_before_all_is_learned_tells_no_loss(tmp_path):
    rows = rows_of(tmp_path)
    assert losses.told([row | {"until": 0.9} for row in rows], 64) == {}
    assert losses.told([row | {"until": 0.995} for row in rows], 64)


def test_a_loss_says_where_the_model_still_learns(tmp_path):
    """Whose baseline, too: of what is told of softmax alone, nothing is said of the other."""
    rows, falls = rows_of(tmp_path), [[step, 10.0 - step / 100] for step in range(0, 1000, 10)]
    learning = [row | {"curve": falls} if row.get("kernel") == "GatedDeltaNet()" else row for row in rows]
    told = lambda rows: losses.told(rows, 64)["GatedDelta"][0]
    assert "(it still learns)" in told(learning) and "still learns" not in told(rows)


def test_models_whose_layers_differ_tell_of_no_kernel(tmp_path):
    rows = [row | {"built": ["GatedDelta()", "Softmax()"]} for row in rows_of(tmp_path)]
    assert losses.told(rows, 64) == {}


def test_a_plug_in_is_known_by_its_module_and_imported(tmp_path, capsys):
    """A measured row of it, what models of it lose, and code that runs."""
    name = "tests.broken_kernels.Plain"
    records.append(tmp_path, TIMED | {"kernel": f"{name}()", "name": "Plain", "length": 64, "median": 1.5})
    records.append(tmp_path, TIMED | {"kernel": "others.Plain()", "name": "Plain", "length": 64, "median": 9.0})
    for kernel, score in (("Softmax()", 1.0), (f"{name}()", 0.75)):
        row = TRAINED | {"kernel": kernel, "name": "x", "seed": 0, "score": score}
        records.append(tmp_path, row | {"built": [kernel.rpartition(".")[2]] * 2})
    given = parsed(Settings, length=64, causal=True, heads=2, head_dim=16, kernels=name, rows=str(tmp_path),
                   dtype="float32")  # fmt: skip
    assert run.run(given) == 0
    said = capsys.readouterr().out
    assert "1.5 s" in said and "-25.0" in said
    assert "code: from tests.broken_kernels import Plain; attnzoo.attend(query, key, value, kernel=Plain()" in said
    ahead = parsed(Settings, length=400, causal=True, kernels="tests.broken_kernels.LongLeak", rows=str(tmp_path))
    assert run.run(ahead) == 1 and "refused: breaks `the_future_cannot_touch" in capsys.readouterr().out
    broken = {"kernel": f"{name}()", "name": "Plain", "length": 128, "status": "refused", "law": "causal", "reason": ""}
    records.append(tmp_path, TIMED | broken)
    assert run.run(given) == 1 and "refused: breaks `causal`" in capsys.readouterr().out


def test_a_token_takes_its_part_of_a_call_that_decoded_several(tmp_path):
    decoded = {"experiment": "decoding", "context": 4096, "tokens": 16, "seed": 0, "state_bytes": 1}
    for kernel in ("Softmax()", repr(BigBird())):
        records.append(tmp_path, TIMED | decoded | {"kernel": kernel, "name": "x", "median": 8.0})
    rows = knowledge.read(tmp_path)
    chosen = parsed(Settings, length=4096, decode=True, heads=2, head_dim=16, dtype="float32")
    for kernel in (Softmax(), BigBird()):
        known = knowledge.factor(rows, kernel, knowledge.Call("cpu", 4096, True, "decode", "float32"))
        assert run.choice(chosen, kernel, known).seconds == pytest.approx(0.5, rel=1e-3)  # one token more


def test_a_step_reads_no_more_of_a_state_than_it_computes_with():
    dims = Dims(64, 65536, 65536, 8, 2, 64, 64)
    least = lambda kernel: knowledge.least(kernel, dims, "bfloat16", True, "decode", chips.CHIPS["h100"])
    assert least(BigBird()) < least(Softmax()) / 4 and least(Linear()) < least(BigBird())


def test_what_cannot_serve_or_does_not_fit_comes_last_with_the_reason(tmp_path, capsys):
    chosen = parsed(Settings, length=4096, causal=True, decode=True, memory="64K", kernels="softmax, linformer, linear",
                    heads=2, head_dim=16, rows=str(tmp_path))  # fmt: skip
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    assert said.index("Linear") < said.index("Softmax") and "kernel=attnzoo.Linear(" in said
    nothing = knowledge.Factor(1.0, "")
    assert run.choice(chosen, Linformer(), nothing).refusal == "refused: it does not decode"
    refused = run.choice(chosen, Softmax(), nothing)
    assert refused.refusal.startswith("needs 512 KiB, there are 64 KiB") and refused.seconds == math.inf


def test_memory_is_what_a_row_of_the_kernel_tells_and_else_a_bound(tmp_path):
    """So much more than the least as its program held, at the length that is asked about."""
    rows = [TIMED | {"kernel": "Softmax()", "name": "x", "length": 64, "median": 1.0, "needed_bytes": needed}
            for needed in (10_000, 20_000)]  # fmt: skip
    call = knowledge.Call("cpu", 64, True, "forward", "float32")
    sizes = []
    for row in rows:
        known = knowledge.factor([row | {"place": str(tmp_path)}], Softmax(), call)
        chosen = parsed(Settings, length=64, causal=True, heads=2, head_dim=16, dtype="float32", memory="15000")
        sizes.append(run.choice(chosen, Softmax(), known))
    assert sizes[0].size == pytest.approx(10_000) and sizes[0].told == "9.77 KiB"
    assert sizes[1].refusal == "needs 19.5 KiB, there are 14.6 KiB"
    guessed = run.choice(chosen, Linear(), knowledge.Factor(1.0, ""))
    assert guessed.told.startswith("at least ") or guessed.refusal.startswith("needs at least ")
    assert knowledge.typical([known]).held == known.held


def test_a_line_of_decoding_has_room_for_the_token_and_the_state_that_was_told(tmp_path, capsys):
    chosen = parsed(Settings, length=16, decode=True, kernels="softmax", heads=4, kv_heads=2, head_dim=8,
                    rows=str(tmp_path))  # fmt: skip
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    call = ast.parse(said.partition("the first as code: ")[2]).body[0].value
    assert ast.unparse(call.func) == "attnzoo.start"
    told = {each.arg: each.value for each in call.keywords}
    assert ast.unparse(told.pop("kernel")) == "attnzoo.Softmax()"
    state = attnzoo.start(**{name: ast.literal_eval(value) for name, value in told.items()}, kernel=Softmax())
    q, k = np.ones((1, 17, 4, 8), "bfloat16"), np.ones((1, 17, 2, 8), "bfloat16")
    assert attnzoo.step(state, q, k, k)[1].shape == q.shape
    size = sum(x.nbytes for x in jax.tree.leaves(state.cache))
    assert units.size_text(size) in said and "no rows of times or losses in " in said


def test_a_plug_in_whose_steps_are_not_its_whole_call_is_refused_where_it_decodes(tmp_path, capsys):
    given = {"length": 64, "heads": 2, "head_dim": 8, "dtype": "float32", "rows": str(tmp_path), "causal": True}
    forgets = parsed(Settings, kernels="tests.broken_kernels.ForgetsTheStep", decode=True, **given)
    assert run.run(forgets) == 1 and "breaks `stepping_equals_the_whole`" in capsys.readouterr().out
    steps = parsed(Settings, kernels="tests.broken_kernels.Stepping", decode=True, **given)
    assert run.run(steps) == 0 and "breaks" not in capsys.readouterr().out


def test_of_equal_times_what_was_trained_comes_first(tmp_path, capsys):
    rows_of(tmp_path)
    chosen = parsed(Settings, length=16384, causal=True, decode=True, kernels="local, gated_delta, delta",
                    device="h100", rows=str(tmp_path))  # fmt: skip
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    assert (
        said.index("GatedDelta") < said.index("Local") < said.index("│ Delta ")
    )  # by a launch each, and then by bytes


def test_sizes_are_read():
    assert (size("8G", "memory"), size("512", "memory"), size("", "memory")) == (8 * 2**30, 512.0, None)
    for text in ("8X", "-1G", "G", "nan"):
        with pytest.raises(ValueError, match=f"--memory={text}: expected bytes"):
            size(text, "memory")
    assert tuple(chips.CHIPS) == CHIPS
    with pytest.raises(ValueError, match="--train and --decode exclude"):
        parsed(Settings, train=True, decode=True)


def test_a_folder_that_is_not_there_and_a_length_beyond_all_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--rows=.*/none: there is no such folder"):
        parsed(Settings, rows=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="--length=1000000000000: expected at most 16,777,216 tokens"):
        parsed(Settings, length=10**12)
    monkeypatch.chdir(tmp_path)  # without the rows of this project, formulas tell
    assert knowledge.read(pathlib.Path(parsed(Settings).rows)) == []
