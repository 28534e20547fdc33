"""The gauge that needs no device: bounds, rows of programs, limits, and what is said where a compiler is missing."""

import dataclasses
import importlib.util
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from attnzoo import Dims, GatedLinear, Kernel, Linear, Nystrom, Performer, Softmax, Support, Synthesizer, catalogue
from attnzoo.costs import counting
from experiments.bench import records, workers
from experiments.bench.chips import CHIPS
from experiments.compiled import absent, analysis, bounds, run, worker
from tests import summaries

DIMS = Dims(2, 16, 16, 4, 2, 8, 8)
QUERY, KEY, KEPT = 2 * 16 * 4 * 8 * 2, 2 * 16 * 2 * 8 * 2, 2 * 16 * 4 * 4  # bytes, in bfloat16 and float32


@dataclasses.dataclass(frozen=True)
class Doubling(Kernel):
    """A plug-in whose loop ends when data say so."""

    supports = Support(causal=True)

    def head(self, params, draws, q, k, v, visible):
        return jax.lax.while_loop(lambda x: x.sum() < 2, lambda x: x * 2, q[:, :1] * k[:, :1] * v)


class Told:
    """What stands for a process: `found` of each cell, and how it ended."""

    found: list = []
    ended = None
    asked: list = []

    def __init__(self, module, task, seconds):
        Told.asked.append((task["row"], seconds))

    def __iter__(self):
        return iter(self.found)


@pytest.fixture
def told(monkeypatch):
    """Processes are not started, and every compiler is there."""
    monkeypatch.setattr(run, "Worker", Told)
    monkeypatch.setattr(absent, "compiler", lambda target: "a compiler 1.0")
    monkeypatch.setattr(Told, "asked", [])

    def ending(found, ended=None):
        monkeypatch.setattr(Told, "found", found)
        monkeypatch.setattr(Told, "ended", ended)

    return ending


def settings(tmp_path, **changed):
    given = {"targets": ("h100", "v5e"), "kernels": (Softmax(), Linear()), "lengths": (1024, 2048)}
    given |= {"passes": ("forward", "train"), "implementations": ("auto",), "is_causal": True}
    return run.Settings(**given | {"out": str(tmp_path)} | changed)


def row(**changed):
    cell = {"target": "h100", "implementation": "xla", "pass": "forward", "length": 16, "batch": 2, "heads": 4}
    cell |= {"num_kv_heads": 2, "head_dim": 8, "dtype": "bfloat16", "operands": "heads", "is_causal": True}
    return cell | changed


COMPILED = {
    "status": "compiled", "launches": 10, "steps": 2, "moved_bytes": 6e9, "least_bytes": 2e9, "flops": 4e12,
    "temporary_bytes": 1e9, "needed_bytes": 90e9, "capacity_bytes": 80e9, "roofline_seconds": 0.02, "bound": "bytes",
    "least_seconds": 0.01, "least_bound": "bytes", "compile_seconds": 1.0,
}  # fmt: skip


def test_what_a_fused_kernel_moves_is_operands_and_results_and_what_is_kept():
    once = 2 * QUERY + 2 * KEY
    assert bounds.least_bytes(Softmax(), DIMS, "bfloat16", False) == once
    # Forward, then operands, output, its gradient and what was kept, and three gradients.
    train = once + KEPT + (QUERY + 2 * KEY) + 2 * QUERY + KEPT + (QUERY + 2 * KEY)
    assert bounds.least_bytes(Softmax(), DIMS, "bfloat16", True) == train
    drawn = 4 * 8 * 16 * 4  # of Performer, whose features are read, and have no gradient
    extra = bounds.least_bytes(Performer(16), DIMS, "bfloat16", True) - train
    assert extra == 2 * drawn
    learned = 4 * 16 * 32 * 4  # what has no bearing on weights is not read, but its gradient is written
    dense = Synthesizer("random", rank=32)
    params = sum(x.size * 4 for x in jax.tree.leaves(jax.eval_shape(lambda: dense.init(jax.random.key(0), DIMS))))
    assert params == 2 * learned
    assert bounds.least_bytes(dense, DIMS, "bfloat16", False) == KEY + QUERY + params
    assert bounds.least_bytes(dense, DIMS, "bfloat16", True) == train - 2 * (QUERY + KEY) + 3 * params


@pytest.mark.parametrize(
    ("moved", "flops", "launches", "expected"),
    [
        (3350e6, 1e9, 10, (1e-3, "bytes")),
        (3350e3, 989e9, 10, (1e-3, "FLOPs")),
        (3350e3, None, 1000, (3e-3, "launches")),
    ],
)
def test_what_takes_longest_bounds_the_time(moved, flops, launches, expected):
    found = bounds.roofline(CHIPS["h100"], "bfloat16", moved, flops, launches)
    assert (pytest.approx(found.seconds), found.bound) == expected
    assert bounds.roofline(CHIPS["v5e"], "bfloat16", 819e6, 1.0, launches) == (1e-3, "bytes")


@pytest.mark.parametrize("passed", ["forward", "train"])
def test_a_program_is_compiled_and_read(monkeypatch, passed):
    monkeypatch.setattr(absent, "device", lambda target: jax.devices()[0])
    [found] = worker.rows({"row": row(**{"pass": passed}), "kernel": catalogue.spelled(Linear())})
    assert found["status"] == "compiled" and found["launches"] > 0 and found["flops"] > 0
    assert found["moved_bytes"] >= QUERY and found["temporary_bytes"] >= 0
    assert found["least_bytes"] == bounds.least_bytes(Linear(), DIMS, "bfloat16", passed == "train")
    assert found["roofline_seconds"] >= 3e-6 * found["launches"]


def test_operands_come_as_projections_leave_them(monkeypatch):
    """Heads side by side, of which the program makes [B, L, N, H], and gradients likewise."""
    program = worker._program({"row": row(), "kernel": catalogue.spelled(GatedLinear())})
    call, shapes = worker._projected(program)
    query, key, value, params, tokens = shapes
    assert [x.shape for x in (query, key, value)] == [(2, 16, 32), (2, 16, 16), (2, 16, 16)]
    assert (params, tokens["log_decay"].shape) == ((), (2, 16, 32))
    made = [jax.random.normal(jax.random.key(i), x.shape, x.dtype) for i, x in enumerate((query, key, value))]
    split = lambda x: x.reshape(2, 16, -1, 8)
    brought = -jax.random.uniform(jax.random.key(3), (2, 16, 32), "bfloat16")
    expected = program.forward(*map(split, made), (), {"log_decay": split(brought)})
    np.testing.assert_array_equal(split(call(*made, (), {"log_decay": brought})), expected)
    monkeypatch.setattr(absent, "device", lambda target: jax.devices()[0])
    [found] = worker.rows(
        {"row": row(operands="projected", **{"pass": "train"}), "kernel": catalogue.spelled(Linear())}
    )
    assert found["status"] == "compiled" and found["moved_bytes"] > found["least_bytes"] / 3


def test_values_may_be_wider_than_keys(tmp_path, told, monkeypatch):
    """What is needed follows, and a row of values as wide as keys is one of before there were others."""
    monkeypatch.setattr(absent, "device", lambda target: jax.devices()[0])
    [found] = worker.rows({"row": row(value_dim=32, **{"pass": "train"}), "kernel": catalogue.spelled(Linear())})
    dims = DIMS._replace(value_dim=32)
    assert found["least_bytes"] == bounds.least_bytes(Linear(), dims, "bfloat16", True) > 2 * (QUERY + KEY)
    told([COMPILED])
    for value_dim in (None, 64, 128):
        run.run(settings(tmp_path, targets=("h100",), lengths=(1024,), value_dim=value_dim))
    assert [row["value_dim"] for row in records.read(tmp_path)] == [None] * 4 + [128] * 4
    text = summaries.of(tmp_path)
    assert "16 heads of 64, bfloat16" in text and "16 heads of 64 beside values of 128, bfloat16" in text


def test_what_cannot_be_counted_is_none_and_said(monkeypatch):
    monkeypatch.setattr(absent, "device", lambda target: jax.devices()[0])
    [found] = worker.rows({"row": row(), "kernel": "tests.test_compiled.Doubling"})
    assert found["status"] == "compiled" and found["temporary_bytes"] >= 0 and found["flops"] is None
    assert found["launches"] is found["moved_bytes"] is found["roofline_seconds"] is None
    assert "as often as data say" in found["reason"]


def test_operations_inside_a_kernel_of_ours_are_those_of_the_call(monkeypatch):
    """A tile's loop ends where its keys do, so that the call by XLA is counted."""

    def unknown(call, *shapes):
        if not isinstance(call, worker.Program):
            raise ValueError("a while loop")
        return counting.flops(call, *shapes)

    counted = {}
    for passed in ("forward", "train"):
        program = worker._program({"row": row(implementation="pallas", **{"pass": passed}), "kernel": "softmax"})
        counted[passed] = dataclasses.replace(program, implementation="xla").counts()["flops"]
        with monkeypatch.context() as patched:
            patched.setattr(worker, "counting", types.SimpleNamespace(flops=unknown))
            assert worker._flops(program, program.forward, program.shapes()) == counted[passed]
    assert counted["train"] > 2 * counted["forward"]


def test_refusals_and_what_is_too_large_are_told_apart(monkeypatch):
    [refused] = worker.rows({"row": row(), "kernel": catalogue.spelled(Nystrom(4))})
    assert refused["status"] == "refused" and "`is_causal`" in refused["reason"]

    def full(target):
        raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20G of 16G")

    monkeypatch.setattr(absent, "device", full)
    [large] = worker.rows({"row": row(), "kernel": catalogue.spelled(Linear())})
    assert (large["status"], large["limit"]) == ("skipped", "memory") and "Used 20G of 16G" in large["reason"]


def test_cells_are_compiled_drawn_and_not_repeated(tmp_path, told):
    told([COMPILED])
    assert run.run(settings(tmp_path, lengths=(1024,))) == 0
    assert len(Told.asked) == 8 and {seconds for _, seconds in Told.asked} == {600.0}
    assert run.run(settings(tmp_path)) == 0
    rows = records.read(tmp_path)
    assert len(rows) == len(Told.asked) == 16 and {row["compiler"] for row in rows} == {"a compiler 1.0"}
    text = summaries.of(tmp_path)
    assert "Moved / needed, train: H100 SXM, batch 4, 16 heads of 64, bfloat16, causal" in text
    assert "Linear | train | 2,048 | 10 | 2 | 5.59 GiB | 1.86 GiB | 3 |" in text
    assert "needs 83.8 GiB, the device has 74.5 GiB" in text
    for stem in ("h100_causal", "v5e_causal"):
        assert (tmp_path / f"{stem}.png").stat().st_size > 5000


def test_what_has_no_counts_stands_in_the_table_with_its_reason(tmp_path, told):
    none = dict.fromkeys(("launches", "steps", "moved_bytes", "roofline_seconds", "bound"))
    told([COMPILED | none | {"reason": "a loop runs as often as data say"}])
    run.run(settings(tmp_path, targets=("h100",), lengths=(1024,)))
    text = summaries.of(tmp_path)
    assert "a loop runs as often as data say" in text and "Moved / needed" not in text
    assert not (tmp_path / "h100_causal.png").exists()


def test_a_row_whose_operations_are_not_counted_tells_no_time(tmp_path, told):
    told([COMPILED | {"flops": None}])
    run.run(settings(tmp_path, targets=("h100",), lengths=(1024,), passes=("train",), kernels=(Linear(),)))
    text = summaries.of(tmp_path)
    assert f"| 3 | 954 MiB |  |  |  |  | needs 83.8 GiB, the device has 74.5 GiB; {analysis.UNCOUNTED}" in text
    assert (tmp_path / "h100_causal.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("ended", "status", "text"),
    [(workers.LATE, "skipped", "not compiled after 600 s"), ("SIGKILL: no message", "failed", "SIGKILL")],
)
def test_a_process_that_says_nothing_is_a_row_and_tried_again(tmp_path, told, ended, status, text):
    told([], ended)
    given = settings(tmp_path, targets=("v5e",), kernels=(Linear(),), lengths=(1024,), passes=("forward",))
    assert run.run(given) == (status == "failed")
    (row,) = records.read(tmp_path)
    assert row["status"] == status and text in row["reason"]
    told([COMPILED])
    assert run.run(dataclasses.replace(given, cell_budget=900.0)) == 0
    assert [row["status"] for row in records.read(tmp_path)] == [status, "compiled"]


def test_a_missing_compiler_is_said_with_what_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--targets=v5e: its compiler, libtpu, is not installed: .*\[aot\]"):
        run.run(settings(tmp_path, targets=("v5e",)))
    assert not (tmp_path / records.ROWS).exists()


def test_a_description_that_jax_does_not_take_is_refused_by_name(monkeypatch):
    def unknown(*_, **__):
        raise RuntimeError("Message type has no field named 'core_count'")

    monkeypatch.setattr(absent.topologies, "get_topology_desc", unknown)
    with pytest.raises(ValueError, match=rf"jax {jax.__version__} does not take the description of h100 .*core_count"):
        absent.device("h100")


def test_settings_refuse_what_a_target_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="--dtype=float16: v5e has no products of such numbers"):
        settings(tmp_path, dtype="float16")
    with pytest.raises(ValueError, match="--num_kv_heads=3 does not divide --heads=16"):
        settings(tmp_path, num_kv_heads=3)


def compiled_for(target, out, *words):
    """The command with such flags, where the compiler for a target is installed."""
    if not any(map(importlib.util.find_spec, absent.COMPILERS[CHIPS[target].platform])):
        pytest.skip(f"the compiler for {target} is not installed: pip install -e '.[aot]'")
    command = [sys.executable, "-m", "experiments.compiled", f"--targets={target}", *words, f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_an_absent_device_is_compiled_for(tmp_path, target):
    words = "--kernels=softmax,linear", "--lengths=256", "--passes=train", "--implementations=xla"
    compiled_for(target, tmp_path, *words, "--is_causal", "--batch=1")
    softmax, linear = records.read(tmp_path)
    assert softmax["status"] == linear["status"] == "compiled" and softmax["target"] == target
    assert linear["steps"] == 0  # chunks go side by side
    assert all(row["moved_bytes"] >= row["least_bytes"] / 3 and row["launches"] > 2 for row in (softmax, linear))


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_a_sequence_ends_where_it_ends(tmp_path, target):
    """Kernels move no more where nothing divides the length: sequences are not filled up."""
    compiled_for(
        target,
        tmp_path,
        "--kernels=sliding_window,linear",
        "--lengths=4088",
        "--implementations=pallas",
        "--operands=projected",
        "--heads=4",
    )
    for row in records.read(tmp_path):
        assert row["status"] == "compiled" and row["moved_bytes"] < 1.5 * row["least_bytes"]
