"""The scaling experiment, small and whole: rows, what is missing, what did not fit, and what is concluded."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from attnzoo import Kernel, Nystrom, SlidingWindow, Softmax, Support
from experiments.bench import memory, records, timing
from experiments.scaling import analysis, prediction, run
from tests import summaries


@dataclasses.dataclass(frozen=True)
class Looping(Kernel):
    """A plug-in whose work cannot be counted: a loop of unknown length."""

    supports = Support(causal=True)

    def head(self, params, draws, q, k, v, visible):
        return jax.lax.while_loop(lambda state: state[0] < 2, lambda state: (state[0] + 1, state[1] * 2), (0, v))[1]


@dataclasses.dataclass(frozen=True)
class Broken(Kernel):
    """A plug-in with a bug."""

    def head(self, params, draws, q, k, v, visible):
        return q + None


def settings(out, **changes):
    chosen = {
        "kernels": (Softmax(), SlidingWindow(left=7, right=7)),
        "lengths": (16, 32, 64),
        "passes": ("forward",),
        "batch": None,
        "tokens": None,
        "heads": 2,
        "num_kv_heads": 1,
        "head_dim": 4,
        "dtype": "float32",
        "is_causal": False,
        "repeats": 5,
        "cell_budget": 60.0,
        "seed": 0,
        "out": str(out),
    }
    return run.Settings(**(chosen | changes))


def test_a_run_measures_draws_and_is_not_repeated(tmp_path):
    assert run.run(settings(tmp_path)) == 0
    rows = records.read(tmp_path)
    assert "Median time, forward" in summaries.of(tmp_path)
    assert [row["status"] for row in rows] == ["measured"] * 6
    assert all(len(row["seconds"]) == 5 and row["flops"] > 0 and row["compile_seconds"] > 0 for row in rows)
    assert all(row["quartiles"][0] <= row["median"] <= row["quartiles"][1] for row in rows)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"time_forward.{suffix}").stat().st_size > 5000
    assert {entry["kernel"] for entry in json.loads((tmp_path / run.SUMMARY).read_text())} == {
        row["kernel"] for row in rows
    }
    run.run(settings(tmp_path))
    assert records.read(tmp_path) == rows
    run.run(settings(tmp_path, lengths=(16, 32, 64, 128)))
    assert [row["length"] for row in records.read(tmp_path)[6:]] == [128, 128]


def test_what_cannot_be_is_a_row_with_its_reason(tmp_path):
    run.run(settings(tmp_path, kernels=(Softmax(), Nystrom(landmarks=4)), lengths=(16,), is_causal=True))
    refused, measured = sorted(records.read(tmp_path), key=lambda row: row["name"])
    assert (
        measured["status"] == "measured"
        and refused["status"] == "refused"
        and "Nystrom cannot honour `is_causal`" in refused["reason"]
    )


def test_what_would_take_too_long_is_predicted_and_skipped(tmp_path):
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(16,)))
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(16, 64), cell_budget=1e-9))
    skipped = records.read(tmp_path)[-1]
    assert skipped["status"] == "skipped" and "the budget is" in skipped["reason"]
    assert skipped["predicted_seconds"] > 0
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(16, 64)))
    assert records.read(tmp_path)[-1]["status"] == "measured"


def test_a_slow_warm_up_ends_a_cell_that_nothing_was_known_about():
    row = {"repeats": 5, "cell_budget": 0.05}
    (skipped,) = timing.take_turns([(row, lambda: time.sleep(0.02))], 5)
    assert skipped["status"] == "skipped" and skipped["limit"] == "budget" and skipped["predicted_seconds"] >= 0.02


def test_a_long_first_cell_is_probed_at_a_shorter_length(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "PROBE_FLOPS", 1e5)
    monkeypatch.setattr(timing, "take_turns", lambda *_: iter(()))  # a cell that got here would have no row
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(512,), cell_budget=1e-3))
    (row,) = records.read(tmp_path)
    assert row["limit"] == "budget" and row["predicted_seconds"] > 0


def test_what_would_not_fit_in_memory_is_not_run_until_it_fits(tmp_path, monkeypatch):
    with monkeypatch.context() as tiny:
        tiny.setattr(memory, "free_memory", lambda: 1000.0)
        tiny.setattr(timing, "seconds_of", None)
        for _ in range(2):
            run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(64,)))
            (row,) = records.read(tmp_path)
        assert row["limit"] == "memory" and "GiB" in row["reason"] and row["temporary_bytes"] > 0
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(64,)))
    assert [row["status"] for row in records.read(tmp_path)] == ["skipped", "measured"]


def test_a_failing_cell_leaves_the_others_and_shows_in_the_exit_code(tmp_path, monkeypatch):
    calls, seconds = [], timing.seconds_of

    def fail(call):
        calls.append(call)
        if len(calls) == 4:  # the second call of the second kernel
            raise MemoryError("no more")
        return seconds(call)

    with monkeypatch.context() as failing:
        failing.setattr(timing, "seconds_of", fail)
        assert run.run(settings(tmp_path, lengths=(16,))) == 1
    assert [row["status"] for row in records.read(tmp_path)] == ["measured", "failed"]
    assert records.read(tmp_path)[1]["reason"] == "MemoryError: no more"
    assert run.run(settings(tmp_path, lengths=(16,))) == 0
    assert [row["status"] for row in records.read(tmp_path)] == ["measured", "failed", "measured"]


def test_kernels_of_one_length_take_turns():
    order = []
    ready = [({"repeats": 2, "cell_budget": 9.0}, lambda name=name: order.append(name)) for name in "ab"]
    assert [row["status"] for row in timing.take_turns(ready, 2)] == ["measured"] * 2
    assert "".join(order) == "ababab"


def test_plug_ins_that_cannot_be_counted_or_have_a_bug_do_not_stop_the_others(tmp_path):
    assert run.run(settings(tmp_path, kernels=(Looping(), Broken(), Softmax()), lengths=(16, 32))) == 1
    rows = {(row["name"], row["length"]): row for row in records.read(tmp_path)}
    assert rows["Looping", 32]["status"] == "measured" and rows["Looping", 32]["flops"] is None
    assert rows["Looping", 32]["predicted_seconds"] > 0
    assert rows["Broken", 16]["status"] == "failed" and rows["Broken", 16]["reason"].startswith("TypeError")
    assert rows["softmax", 32]["status"] == "measured"


def test_constant_tokens_make_smaller_batches(tmp_path):
    chosen = settings(tmp_path, tokens=128)
    assert [chosen.batch_at(length) for length in chosen.lengths] == [8, 4, 2]
    for tokens in (32, 96, 0):
        with pytest.raises(ValueError, match=f"--tokens={tokens} is no multiple of length"):
            settings(tmp_path, tokens=tokens)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0), ("heads", 0), ("num_kv_heads", 0), ("head_dim", -1), ("cell_budget", 0.0),
        ("cell_budget", math.nan), ("cell_budget", math.inf), ("repeats", 4), ("seed", -1), ("seed", 2**32),
        ("out", " "),
    ],
)  # fmt: skip
def test_settings_refuse_what_means_nothing(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"--{name}"):
        settings(**({"out": tmp_path} | {name: value}))


def test_a_dry_run_predicts_and_leaves_nothing(tmp_path, capsys):
    chosen = settings(tmp_path / "out", kernels=(Softmax(), Nystrom(landmarks=4)), is_causal=True, dry_run=True)
    assert run.run(chosen) == 0
    assert capsys.readouterr().out.count("refused") == 3
    assert not (tmp_path / "out").exists()


def test_settings_are_not_mixed():
    def row(heads, length, seconds):
        same = {"name": "linear", "kernel": "Linear()", "pass": "forward", "status": "measured", "batch": 1}
        rest = {"num_kv_heads": 1, "head_dim": 8, "dtype": "float32", "is_causal": False, "platform": "cpu"}
        times = {"median": seconds, "seconds": [seconds], "temporary_bytes": 1, "device": "one", "cores": 1}
        return same | rest | times | {"heads": heads, "length": length}

    rows = [row(heads, length, heads * length) for length in (16, 32, 64) for heads in (1, 4)]
    entries = analysis.summarise(rows)
    assert [entry["lengths"] for entry in entries] == [[16, 32, 64]] * 2
    assert "setting" in analysis.table(entries)[0]
    assert "setting" not in analysis.table(entries[:1])[0]


def test_an_interrupt_leaves_whole_rows_and_the_rest_can_follow(tmp_path):
    words = ["--kernels=softmax, linear", "--lengths=16:4096", "--passes=forward", "--heads=1", f"--out={tmp_path}"]
    command = [sys.executable, "-m", "experiments.scaling", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(records.read(tmp_path)) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "finished rows are kept" in errors
    rows = records.read(tmp_path)
    assert 2 <= len(rows) < 18
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    after = records.read(tmp_path)
    assert after[: len(rows)] == rows and len(after) == 18


def test_exponents_of_powers():
    lengths = [256, 512, 1024, 2048]
    found = analysis.exponent(lengths, [3e-9 * n**1.7 for n in lengths])
    assert math.isclose(found.value, 1.7) and found.high - found.low < 1e-6
    rng = np.random.default_rng(0)
    noisy = analysis.exponent(lengths, [n**1.7 * math.exp(0.05 * rng.normal()) for n in lengths])
    assert noisy.low < 1.7 < noisy.high
    assert analysis.exponent([256, 512], [1.0, 2.0]) is None


def test_crossings():
    lengths = [256, 512, 1024, 2048]
    repeat = lambda times: [[t * (1 + 0.01 * i) for i in range(5)] for t in times]
    reference = repeat([n**2 / 1e6 for n in lengths])
    found = analysis.crossing(lengths, repeat([0.7e-3 * n for n in lengths]), reference)
    assert abs(found.value - 700) < 1 and found.low <= found.value <= found.high < 720
    assert analysis.crossing(lengths, repeat([1e-6 * n for n in lengths]), reference).value == 0
    assert analysis.crossing_text(analysis.crossing(lengths, repeat([1e-6] * 4), reference), lengths) == "before 256"
    never = analysis.crossing(lengths, repeat([99.0] * 4), reference)
    assert analysis.crossing_text(never, lengths) == "beyond 2,048"
