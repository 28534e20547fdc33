"""Shares of a device's ceilings: what counts as useful, and every cell a row."""

import numpy as np
import pytest

from attnzoo import BigBird, Linear, Local, SlidingWindow, Softmax, SparseTransformer, attention_weights, cost_of
from experiments.bench import records
from experiments.throughput import jax_calls, run, work, worker
from tests import broken_kernels as broken
from tests import summaries

CELL = {
    "length": 16,
    "heads": 2,
    "head_dim": 8,
    "tokens": 64,
    "dtype": "bfloat16",
    "is_causal": True,
    "pass": "forward",
}


def settings(tmp_path, **changed):
    given = {"kernels": (Softmax(),), "lengths": (128,), "head_dims": (16,), "passes": ("forward", "train")}
    given |= {"implementations": ("attnzoo", "jax.nn cudnn"), "tokens": 128, "heads": 2, "dtype": "bfloat16"}
    given |= {"is_causal": True, "repeats": 5, "matmul_size": 64, "copy_bytes": 4096, "platform": "cpu"}
    return run.Settings(**given | {"minutes": 2.0, "seed": 0, "patience": 90.0, "out": str(tmp_path)} | changed)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(left=3, right=2)], ids=repr)
def test_operations_on_visible_pairs_alone_are_useful(kernel, is_causal):
    i, j = np.arange(16)[:, None], np.arange(16)[None, :]
    visible = (j <= i) | (not is_causal)
    if isinstance(kernel, SlidingWindow):
        visible = visible & (j >= i - 3) & (j <= i + 2)
    cell = CELL | {"is_causal": is_causal}
    forward = 4 * 2 * 2 * visible.sum() * (8 + 8)  # batch 4, 2 heads, a multiply-add is two
    assert work.useful_flops(kernel, cell) == forward
    assert work.useful_flops(kernel, cell | {"pass": "train"}) == 3.5 * forward
    assert work.useful_bytes(cell) == 4 * 64 * 2 * 8 * 2


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    "kernel", [SlidingWindow(5, 3), Local(8), SparseTransformer(8, 2), BigBird(8, 1, 1, 1), Softmax()], ids=repr
)
def test_patterns_are_those_of_the_kernels(kernel, is_causal):
    q = np.ones((1, 64, 2, 4), np.float32)
    shows = work.joined(kernel, 64, 2, is_causal)
    pairs = shows(np.arange(2)[:, None, None], np.arange(64)[:, None], np.arange(64)[None])
    expected = np.asarray(attention_weights(q, q, kernel=kernel, is_causal=is_causal)[0]) > 0
    np.testing.assert_array_equal(np.broadcast_to(pairs, expected.shape), expected)
    cell = CELL | {"length": 64, "is_causal": is_causal}
    assert work.useful_flops(kernel, cell) == 2 * expected.sum() * (8 + 8)  # of both heads, a multiply-add is two


def test_other_kernels_are_worth_what_is_counted():
    assert work.useful_flops(Linear(), CELL) == cost_of(Linear(), work.dims_of(CELL), is_causal=True).flops


@pytest.mark.slow
def test_every_cell_is_a_row_and_what_is_measured_is_not_repeated(tmp_path):
    assert run.run(settings(tmp_path)) == 0
    rows = records.read(tmp_path)
    assert "of matmul" in summaries.of(tmp_path)
    assert [row["status"] for row in rows] == ["measured"] * 4 + ["refused"] * 2
    matmul, copy, forward, train = rows[:4]
    assert (matmul["ceiling"], copy["ceiling"]) == ("matmul", "copy") and matmul["rate"] > 0
    assert forward["flops_per_second"] == forward["useful_flops"] / forward["median"]
    assert forward["deviation"] < 0.03 and train["useful_flops"] == 3.5 * forward["useful_flops"]
    assert "cuDNN is not detected" in rows[4]["reason"]
    assert "of matmul" in (tmp_path / "table.md").read_text() and (tmp_path / "0_softmax_train.png").exists()
    run.run(settings(tmp_path))
    assert len(records.read(tmp_path)) == 6  # what was refused stays, too


def test_outputs_that_deviate_are_not_timed(monkeypatch):
    monkeypatch.setattr(jax_calls, "outputs", lambda *_: np.zeros((1, worker.LENGTH, 2, 64), np.float32))
    cell = CELL | {"kernel": "Softmax()"}
    task = {"implementation": "attnzoo", "cells": [cell], "kernels": {"Softmax()": "softmax"}, "seed": 0, "repeats": 5}
    (row,) = worker.rows(task | {"is_causal": True, "dtype": "bfloat16"})
    assert row["status"] == "failed" and "deviate" in row["reason"] and "seconds" not in row


def test_a_kernel_of_ones_own_is_asked_at_the_sizes_of_a_cell():
    kernels = {"plain": broken.Plain(), "lazy": broken.ProbedHeads()}
    cells = [CELL | {"kernel": name, "heads": 4, "seed": 0, "dtype": "float32"} for name in kernels]
    rows = jax_calls.measured("attnzoo", cells, kernels, 5)
    assert [row.get("law", row["status"]) for row in rows] == ["measured", "batched_equals_head"]


def test_some_are_timed_before_the_next_are_compiled(monkeypatch):
    done = []
    monkeypatch.setattr(jax_calls, "COMPILING", 2)
    monkeypatch.setattr(jax_calls, "_compiled", lambda _, __, cell: done.append(("compiled", cell["length"])) or ())
    monkeypatch.setattr(jax_calls, "_measured", lambda cell, *_: done.append(("timed", cell["length"])) or {})
    list(jax_calls.measured("attnzoo", [CELL | {"kernel": "x", "length": n} for n in range(3)], {"x": None}, 5))
    order = [(what, n) for ns in ((0, 1), (2,)) for what in ("compiled", "timed") for n in ns]
    assert done[4:] == order[4:] and done[2:4] == order[2:4] and set(done[:2]) == set(order[:2])


def test_what_time_does_not_reach_is_said(tmp_path):
    given = settings(tmp_path, implementations=("attnzoo",), minutes=0.1)
    object.__setattr__(given, "minutes", 0.001)
    assert run.run(given) == 0
    assert {(row["status"], row["reason"]) for row in records.read(tmp_path)} == {("not run", "no time left")}


def test_a_cell_that_hangs_costs_itself_alone(tmp_path, monkeypatch):
    class Hanging:
        def __init__(self, module, task, seconds, patience):
            self.cells, self.ended = task["cells"], None

        def __iter__(self):
            for cell in self.cells:
                if cell.get("pass") == "forward":
                    self.ended = "ended after 90 s without a word"
                    return
                yield cell | {"status": "refused", "reason": "none"}

    monkeypatch.setattr(run, "Worker", Hanging)
    run.run(settings(tmp_path, implementations=("attnzoo",)))
    found = {row["pass"]: row["status"] for row in records.read(tmp_path) if "pass" in row}
    assert found == {"forward": "failed", "train": "refused"}
