"""The catalogue ranked for one call: what is known comes from rows, and what cannot serve says why."""

import math
import pathlib

import jax
import pytest

import attnzoo
from attnzoo import BigBird, Delta, Dims, Linear, Linformer, SlidingWindow, Softmax
from experiments.bench import chips, records
from experiments.bench.settings import parsed
from experiments.choose import knowledge, losses, run
from experiments.choose.settings import CHIPS, Settings, size
from experiments.show import units
from experiments.show.statistics import Mean
from tests import test_calls
from tests.few import few

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
    farther = knowledge.factor([*rows, rows[0] | {"length": 8192}], Delta(), call._replace(length=8192))
    assert farther.source == known.source.replace("4,096", "scaled from 4,096") and farther.is_bound
    assert farther.value == pytest.approx(known.value) and farther.implementation == "pallas"
    assert farther.brief == "compiled, scaled from 4,096 tokens, as projections leave operands"
    assert knowledge.factor(rows, Linear(), call) is None
    chosen = parsed(Settings, length=4096, causal=True, heads=2, head_dim=16, rows=str(tmp_path), device="h100",
                    kernels="delta")  # fmt: skip
    assert run.choice(chosen, Delta(), known).seconds == pytest.approx(2e-3)
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    assert "Delta, pallas" in said and "≥ 2 ms" in said
    assert said.rstrip().endswith(
        '(x, is_causal=True)  # attend(..., implementation="pallas") was timed, which a layer does not name'
    )


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
        found = losses.told(rows, length)
        ((name, (told,)),) = found.told.items()
        assert name == "GatedDelta" and told.text.startswith(difference) and found.deciding == {name: told}
        assert f"points as GatedDeltaNet, MQAR, {where}, 100 steps, 2 seeds: {tmp_path}" in told.text


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
    found = losses.told(knowledge.read(tmp_path), 64).told
    assert [found[name][0].number for name in ("Linear", "Delta")] == ["-70.0", "-20.0"]
    assert all("10,000 steps" in told.text for name in ("Linear", "Delta") for told in found[name])
    assert "20,000 steps" in found["Retention"][0].text


def test_training_that_was_to_end_before_all_is_learned_tells_no_loss(tmp_path):
    rows = rows_of(tmp_path)
    assert losses.told([row | {"until": 0.9} for row in rows], 64) == ({}, {})
    assert losses.told([row | {"until": 0.995} for row in rows], 64).deciding


def test_a_loss_is_of_the_steps_that_were_trained(tmp_path):
    """And those of a setting that decides are of all its kernels."""
    rows = [row | {"trained_steps": 60 + 20 * row["seed"]} if row.get("kernel") == "GatedDeltaNet()" else row
            for row in rows_of(tmp_path)]  # fmt: skip
    found = losses.told(rows, 64)
    assert ", 60 to 80 of 100 steps, 2 seeds" in found.told["GatedDelta"][0].text
    other = found.deciding["GatedDelta"]._replace(steps=(100, 100, 100), seeds=1)
    assert losses.setting(found.deciding | {"Delta": other}).where.endswith(" 60 to 100 of 100 steps, 1 seed")


def test_a_loss_is_known_where_its_interval_does_not_hold_none():
    of = lambda metric, *mean: losses.Lost(
        "Linear()", metric, Mean(*mean), "MQAR()", 8, 8, (1, 1, 1), 2, "", False, "x"
    )
    for metric, mean, amount, is_known in (
        ("accuracy", (-0.5, -0.75, -0.25), 0.5, True),
        ("accuracy", (-0.5, -0.75, 0.0), 0.5, False),
        ("accuracy", (0.5, 0.25, 0.75), 0.0, False),
        ("bits", (0.5, 0.25, 0.75), 0.5, True),
        ("bits", (-0.5, None, None), 0.0, False),
        ("accuracy", (-0.5, None, None), 0.5, True),
    ):
        assert (of(metric, *mean).amount, of(metric, *mean).is_known) == (amount, is_known)


def test_a_loss_says_where_the_model_still_learns(tmp_path):
    """Whose baseline, too: of what is told of softmax alone, nothing is said of the other."""
    rows, falls = rows_of(tmp_path), [[step, 10.0 - step / 100] for step in range(0, 1000, 10)]
    learning = [row | {"curve": falls} if row.get("kernel") == "GatedDeltaNet()" else row for row in rows]
    told = lambda rows: losses.told(rows, 64).told["GatedDelta"][0].text
    assert "(it still learns)" in told(learning) and "still learns" not in told(rows)


def test_models_whose_layers_differ_tell_of_no_kernel(tmp_path):
    rows = [row | {"built": ["GatedDelta()", "Softmax()"]} for row in rows_of(tmp_path)]
    assert losses.told(rows, 64) == ({}, {})


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
    called = "from tests.broken_kernels import Plain; out = attnzoo.attend(query, key, value, kernel=Plain()"
    assert f"as code:\nimport attnzoo; {called}" in said
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
    assert sizes[0].size == pytest.approx(10_000) and sizes[0].told[1] == "9.77 KiB"
    assert sizes[1].refusal == "needs 19.5 KiB, there are 14.6 KiB"
    guessed = run.choice(chosen, Linear(), knowledge.Factor(1.0, ""))
    assert guessed.told[1].startswith("≥ ") or guessed.refusal.startswith("needs ≥ ")
    assert knowledge.typical([known]).held == known.held


def test_a_line_of_decoding_has_room_for_the_token_and_the_state_that_was_told(tmp_path, capsys):
    chosen = parsed(Settings, length=16, decode=True, kernels="softmax", heads=4, kv_heads=2, head_dim=8,
                    rows=str(tmp_path))  # fmt: skip
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    given = test_calls.run(said.rstrip().splitlines()[-1], Dims(1, 17, 17, 4, 2, 8, 8), "bfloat16")
    size = sum(x.nbytes for x in jax.tree.leaves(given["state"].cache))
    assert units.size_text(size) in said and "no rows of times or losses in " in said


@pytest.mark.parametrize("name", few(list(attnzoo.KERNELS), ["softmax", "additive", "gated_delta"]))
def test_the_code_of_every_kernel_runs(name, tmp_path, capsys):
    """Before a token is decoded, and as it is; where tokens see the past alone, and where they see all."""
    served = 0
    for flags in ({}, {"causal": True}, {"decode": True}):
        chosen = parsed(Settings, **flags, length=23, kernels=name, heads=4, kv_heads=2, head_dim=8, batch=2,
                        dtype="float32", rows=str(tmp_path))  # fmt: skip
        if run.run(chosen) == 0:
            line, served = capsys.readouterr().out.rstrip().splitlines()[-1], served + 1
            test_calls.run(line, Dims(2, 23, 23, 4, 2, 8, 8), length=5 if chosen.decode else 23)
            assert ("is_causal=True" in line) is chosen.causal
    supports = attnzoo.KERNELS[name].supports
    assert served == sum((supports.bidirectional, supports.causal, supports.decode))


def test_a_plug_in_whose_steps_are_not_its_whole_call_is_refused_where_it_decodes(tmp_path, capsys):
    given = {"length": 64, "heads": 2, "head_dim": 8, "dtype": "float32", "rows": str(tmp_path), "causal": True}
    forgets = parsed(Settings, kernels="tests.broken_kernels.ForgetsTheStep", decode=True, **given)
    assert run.run(forgets) == 1 and "breaks `stepping_equals_the_whole`" in capsys.readouterr().out
    steps = parsed(Settings, kernels="tests.broken_kernels.Stepping", decode=True, **given)
    assert run.run(steps) == 0 and "breaks" not in capsys.readouterr().out


def recalled(folder, **scores):
    """Rows of models, each class of kernels with a score."""
    for kernel, score in ({"Softmax": 1.0} | scores).items():
        for seed in range(2):
            row = TRAINED | {"kernel": f"{kernel}()", "name": kernel, "seed": seed, "score": score}
            records.append(folder, row)


def places(said):
    """Kernels of a table by their order, and those that are starred."""
    lines = [[cell.strip() for cell in line.split("│")[1:]] for line in said.splitlines() if line.startswith("│")]
    return [line[1] for line in lines if line[0]], [line[1] for line in lines if "★" in line[0]]


def test_of_equal_times_what_loses_less_comes_first_and_then_what_is_smaller(tmp_path, capsys):
    """A launch each is all that formulas tell, which are bounds; what was not trained comes after what was."""
    recalled(tmp_path, Local=0.1, GatedDelta=0.99, Linear=0.995)
    chosen = parsed(Settings, length=16384, causal=True, decode=True, device="h100", rows=str(tmp_path),
                    kernels="log_linear, retention, local, gated_delta, softmax, linear")  # fmt: skip
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    order, starred = places(said)
    assert order == ["Linear", "GatedDelta", "Local", "Retention", "LogLinear", "Softmax"]
    assert starred == ["Linear", "Softmax"] and said.count("≥ 3 µs") == 5
    assert "known from: formulas alone\n" in said and "≥ so much at least" in said and "not trained" in said
    assert "beside softmax: fewer points are worse, in MQAR" in said


def test_what_the_first_loses_is_said_and_the_first_that_loses_nothing_stands_beside_it(tmp_path, capsys):
    recalled(tmp_path, Local=0.1, Linear=1.0)
    for kernel, median in (("Local()", 1.0), ("Linear()", 2.0), ("Delta()", 0.5), ("Softmax()", 4.0)):
        records.append(tmp_path, TIMED | {"kernel": kernel, "name": "x", "length": 64, "median": median})
    given = {"length": 64, "causal": True, "heads": 2, "head_dim": 16, "dtype": "float32", "rows": str(tmp_path)}
    assert run.run(parsed(Settings, kernels="softmax, linear, local", **given)) == 0
    said = capsys.readouterr().out
    assert places(said) == (["Local", "Linear", "Softmax"], ["Local", "Linear"])
    *_, first, called, keeping, other = said.splitlines()
    assert first == "the first, Local, LOSES 90.0 points, MQAR; as code:" and "attnzoo.Local()" in called
    assert keeping == "the first that is not known to lose any, Linear, 2 s; as code:" and "attnzoo.Linear()" in other
    assert "≥ 1 s" not in said and "│  1 s │" in said  # as it is measured
    assert run.run(parsed(Settings, kernels="softmax, delta", **given)) == 0
    *_, first, _, keeping, _ = capsys.readouterr().out.splitlines()
    assert "the first, Delta, may lose anything" in first and "Softmax" in keeping
    assert run.run(parsed(Settings, kernels="linear, local", **given, verbose=True)) == 0
    assert f"{tmp_path}" in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_a_kernel_that_ends_before_the_length_is_ranked_with_the_field_that_serves(tmp_path, capsys):
    given = {"heads": 2, "head_dim": 8, "rows": str(tmp_path)}
    chosen = parsed(Settings, length=5000, decode=True, kernels="cosformer, linformer, nystrom", **given)
    assert run.run(chosen) == 0
    said = capsys.readouterr().out
    assert places(said)[0] == ["CosFormer(max_length=5001)"] and "kernel=attnzoo.CosFormer(max_length=5001))" in said
    assert "CosFormer(max_length=5001) stands for CosFormer, which ends at 4,096 tokens\n" in said
    assert "refused: it does not decode: Linformer, Nystrom\n" in said
    assert run.run(parsed(Settings, length=4096, kernels="cosformer", **given)) == 0
    assert "stands for" not in capsys.readouterr().out


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
