"""The scaling experiment, small and whole: rows, what is missing, what did not fit, and what is concluded."""

import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from attnzoo import Nystrom, SlidingWindow, Softmax
from experiments import figures, records
from experiments.scaling import analysis, run


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
    assert [row["status"] for row in rows] == ["measured"] * 6
    assert all(len(row["seconds"]) == 5 and row["flops"] > 0 and row["compile_seconds"] > 0 for row in rows)
    assert all(row["quartiles"][0] <= row["median"] <= row["quartiles"][1] for row in rows)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"time_forward.{suffix}").stat().st_size > 5000
    run.run(settings(tmp_path))
    assert records.read(tmp_path) == rows
    run.run(settings(tmp_path, lengths=(16, 32, 64, 128)))
    assert [row["length"] for row in records.read(tmp_path)[6:]] == [128, 128]


def test_what_cannot_be_is_a_row_with_its_reason(tmp_path):
    run.run(settings(tmp_path, kernels=(Softmax(), Nystrom(landmarks=4)), lengths=(16,), is_causal=True))
    refused = records.read(tmp_path)[1]
    assert refused["status"] == "refused" and "Nystrom cannot honour `is_causal`" in refused["reason"]


def test_what_would_take_too_long_is_predicted_and_skipped(tmp_path):
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(16,)))
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(16, 64), cell_budget=1e-9))
    skipped = records.read(tmp_path)[-1]
    assert skipped["status"] == "skipped" and "the budget is" in skipped["reason"]
    assert skipped["predicted_seconds"] > 0
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(16, 64)))
    assert records.read(tmp_path)[-1]["status"] == "measured"


def test_what_would_not_fit_in_memory_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "free_memory", lambda: 1000.0)
    monkeypatch.setattr(run, "times", None)
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(64,)))
    (row,) = records.read(tmp_path)
    assert row["status"] == "skipped" and "GiB" in row["reason"] and row["temporary_bytes"] > 0


def test_a_failing_cell_leaves_the_others_and_shows_in_the_exit_code(tmp_path, monkeypatch):
    times = run.times

    def fail(function, repeats):
        if len(records.read(tmp_path)) == 0:
            raise MemoryError("no more")
        return times(function, repeats)

    monkeypatch.setattr(run, "times", fail)
    assert run.run(settings(tmp_path, lengths=(16,))) == 1
    assert [row["status"] for row in records.read(tmp_path)] == ["failed", "measured"]
    assert run.run(settings(tmp_path, lengths=(16,))) == 0


def test_constant_tokens_make_smaller_batches(tmp_path):
    chosen = settings(tmp_path, tokens=128)
    assert [chosen.batch_at(length) for length in chosen.lengths] == [8, 4, 2]
    with pytest.raises(ValueError, match="--tokens=32 is no multiple of length 64"):
        settings(tmp_path, tokens=32)


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


def test_labels_that_would_meet_are_moved_apart():
    places = figures.apart([0.5, 0.51, 0.1, 0.52], gap=0.05)
    assert places[2] == 0.1
    assert np.diff(sorted(places)).min() > 0.05 - 1e-9
    assert [places[0] < places[1], places[1] < places[3]] == [True, True]
