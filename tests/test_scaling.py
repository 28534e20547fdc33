"""The scaling experiment, small and whole: rows, what is missing, what did not fit, and what is concluded."""

import dataclasses
import json
import math
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from attnzoo import Dims, Kernel, Nystrom, Retention, SlidingWindow, Softmax, Support
from experiments.bench import memory, mesh, records, splitting, timing
from experiments.bench import settings as declared
from experiments.scaling import analysis, devices, prediction, run
from tests import summaries

ROOT = pathlib.Path(__file__).parent.parent


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
        "mesh": (),
        "seed": 0,
        "out": str(out),
    }
    return run.Settings(**(chosen | changes))


def test_a_run_measures_draws_and_is_not_repeated(tmp_path):
    assert run.run(settings(tmp_path)) == 0
    rows = records.read(tmp_path)
    assert "Median time, forward" in summaries.of(tmp_path)
    assert [row["status"] for row in rows] == ["measured"] * 6
    assert not {"mesh", "devices", "sent", "sent_bytes"} & set().union(*rows)
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


def test_kernels_that_have_no_other_form_are_causal(tmp_path):
    run.run(settings(tmp_path, kernels=(Softmax(), Retention()), lengths=(16,)))
    rows = {row["name"]: row for row in records.read(tmp_path)}
    assert {name: (row["status"], row["is_causal"]) for name, row in rows.items()} == {
        "softmax": ("measured", False),
        "retention": ("measured", True),
    }
    assert [entry["crossing"] for entry in json.loads((tmp_path / run.SUMMARY).read_text())] == [None, None]
    labels = [analysis.label(row, list(rows.values())) for row in rows.values()]
    assert sorted(labels) == ["Retention (causal)", "Softmax"] and "causal" in run.EXPERIMENT.describe(
        rows["retention"]
    )
    assert "causal" not in analysis.shared_text(list(rows.values()))


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


def test_a_pass_with_gradients_is_predicted_by_what_the_kernel_takes_without(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "PROBE_FLOPS", 1.0)
    monkeypatch.setattr(prediction, "probe", lambda *_: 1.0)
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(64,), passes=("forward", "train"), cell_budget=60.0))
    forward, train = records.read(tmp_path)
    assert forward["predicted_seconds"] == 1.0  # nothing was known
    assert train["predicted_seconds"] == pytest.approx(forward["median"] * train["flops"] / forward["flops"])


def test_what_would_not_fit_in_memory_is_not_run_until_it_fits(tmp_path, monkeypatch):
    with monkeypatch.context() as tiny:
        tiny.setattr(memory, "free_memory", lambda: 1000.0)
        tiny.setattr(timing, "_called", None)
        for _ in range(2):
            run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(64,)))
            (row,) = records.read(tmp_path)
        assert row["limit"] == "memory" and "GiB" in row["reason"] and row["temporary_bytes"] > 0
    run.run(settings(tmp_path, kernels=(Softmax(),), lengths=(64,)))
    assert [row["status"] for row in records.read(tmp_path)] == ["skipped", "measured"]


def test_a_failing_cell_leaves_the_others_and_shows_in_the_exit_code(tmp_path, monkeypatch):
    calls, called = [], timing._called

    def fail(call):
        calls.append(call)
        if len(calls) == 4:  # the second call of the second kernel
            raise MemoryError("no more")
        return called(call)

    with monkeypatch.context() as failing:
        failing.setattr(timing, "_called", fail)
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


@pytest.mark.slow
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
    assert analysis.exponent(lengths, [1139248] * 4) == (0.0, 0.0, 0.0)


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


def test_rows_of_before_there_were_meshes_are_the_same_cells():
    rows = records.read(ROOT / "results/compare/scaling")
    made = {name: rows[0][name] for name in ("platform", "device")}
    given = {"kernels": "all", "lengths": "512:4096", "passes": "forward,train", "repeats": 5, "cell_budget": 6}
    chosen = declared.parsed(run.Settings, **given)
    [cells] = run.EXPERIMENT.cells(chosen)
    assert {run.EXPERIMENT.identity(cell.row | made) for cell in cells} >= set(run.EXPERIMENT.last(rows))


def scaling(*words):
    """The command, with what any of its processes prints."""
    command = [sys.executable, "-m", "experiments.scaling", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_devices_share_a_call(tmp_path):
    words = [
        "--mesh=sequence={1,4}", "--kernels=softmax, local(block_size=2)", "--lengths=8,30,32", "--passes=forward",
        "--heads=2", "--head_dim=4", f"--out={tmp_path}",
    ]  # fmt: skip
    listed = scaling(*words, "--dry_run")
    assert listed.returncode == 0 and listed.stdout.count("sequence=4") >= 6 and not records.read(tmp_path), listed
    done = scaling(*words)
    assert done.returncode == 0, done
    rows = {(row["name"], row["length"], row["devices"]): row for row in records.read(tmp_path)}
    assert len(rows) == 12
    for (name, length, count), row in rows.items():
        assert row["mesh"] == f"sequence={count}"
        if length % count:
            assert row["status"] == "refused" and "length=30 into 4 parts" in row["reason"]
            continue
        part = length * 2 * 4 * 4 / count
        assert row["sent_bytes"] == (2 * (count - 1) * part if name == "softmax" and count > 1 else 0), row
        assert row["sent"].keys() == ({"collective-permute"} if row["sent_bytes"] else set())
        assert len(row["seconds"]) == 7 and row["flops"] == rows[name, length, 1]["flops"]
    alone, shared = (rows["softmax", 32, count]["temporary_bytes"] for count in (1, 4))
    assert shared < alone
    assert (tmp_path / "devices_forward.png").stat().st_size > 5000
    for text in ("Strong scaling, 32 tokens in all", "Weak scaling, 8 tokens on each device", "say nothing about"):
        assert text in " ".join(done.stdout.split()) and text in summaries.of(tmp_path)


def test_what_scales_strongly_and_weakly():
    def row(length, count, status):
        found = {"mesh": f"sequence={count}", "devices": count, "length": length, "batch": 1, "status": status}
        return found if status == "failed" else found | {"temporary_bytes": 1}

    rows = [row(length, count, "skipped") for length in (64, 128, 256) for count in (4, 2, 1)]
    rows += [row(512, 1, "measured"), row(512, 8, "failed")]
    pairs = lambda series: [(each["length"], each["devices"]) for each in series.rows]
    assert pairs(devices.strong(rows)) == [(256, 1), (256, 2), (256, 4)]
    assert pairs(devices.weak(rows)) == [(64, 1), (128, 2), (256, 4)]
    assert devices.strong(rows[:1]) is None and devices.weak(rows[:3]) is None


def test_what_devices_cannot_share_equally_is_refused():
    dims = Dims(2, 12, 12, 4, 2, 8, 8)
    assert splitting.refusal("data=2, model=2, sequence=4", dims) is None
    for named, text in (("data=4", "--batch=2"), ("sequence=8", "length=12"), ("model=4", "--num_kv_heads=2")):
        assert text in splitting.refusal(named, dims) and named in splitting.refusal(named, dims)


def test_meshes_of_as_many_devices_have_runs_of_their_own(tmp_path):
    with pytest.raises(ValueError, match="both of 4 devices"):
        settings(tmp_path, mesh=mesh.several("data=4, sequence={1,2}") + mesh.several("data=2, sequence=2"))


def test_devices_that_a_cpu_is_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1000.0)
    assert memory.fits(100) and memory.fits(100, devices=8) and not memory.fits(100, devices=9)
    assert "on each of 9 devices" in memory.does_not_fit({"needed_bytes": 100, "devices": 9})["reason"]
