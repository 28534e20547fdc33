"""Laws on a device: decided once, and a process that dies takes its own law alone with it."""

import itertools

import jax
import numpy as np
import pytest

from attnzoo import Linear, SlidingWindow, Softmax
from attnzoo.testing import LawBroken
from experiments.bench import records, workers
from experiments.conformance import routes, run
from tests import summaries

LAWS = ("shape_and_dtype_are_kept", "masks_hide", "biases_add_to_scores")


def settings(tmp_path, **changed):
    given = {"kernels": (Softmax(),), "laws": LAWS[:1], "platform": "cpu", "minutes": 2.0, "processes": 2}
    given |= {"patterns": (Softmax(),), "routes": ()}
    return run.Settings(**given | {"out": str(tmp_path)} | changed)


def test_laws_are_decided_drawn_and_not_repeated(tmp_path):
    given = settings(tmp_path, kernels=(Softmax(), Linear()))
    assert run.run(given) == 0
    rows = records.read(tmp_path)
    assert {(row["name"], row["status"]) for row in rows} == {("softmax", "obeyed"), ("linear", "obeyed")}
    assert (tmp_path / "laws.png").stat().st_size > 5000
    assert "Softmax | 1 | 0 | 0 |" in summaries.of(tmp_path)
    run.run(given)
    assert len(records.read(tmp_path)) == 2
    assert {row["xla_flags"] for row in rows} == {""}  # which are for a GPU


def test_a_worker_is_started_with_flags_for_its_platform(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--one")
    seen = []

    def started(*_, env, **__):
        seen.append(env["XLA_FLAGS"])
        raise FileNotFoundError

    monkeypatch.setattr(workers.subprocess, "Popen", started)
    for flags in ("", run.XLA_FLAGS["gpu"]):
        with pytest.raises(FileNotFoundError):
            list(workers.Worker("experiments.conformance.worker", {}, xla_flags=flags))
    assert seen == ["--one", "--one --xla_gpu_autotune_level=0"]


def test_a_broken_law_is_a_row_with_its_reason(tmp_path):
    from tests.broken_kernels import IgnoredKeyMask

    assert run.run(settings(tmp_path, kernels=(IgnoredKeyMask(),), laws=("padding_changes_nothing",))) == 1
    (row,) = records.read(tmp_path)
    assert row["status"] == "broken" and "padding_changes_nothing" in row["reason"]


def test_a_process_that_dies_breaks_the_law_at_hand(tmp_path, monkeypatch):
    class Dying:
        ended = "SIGSEGV: no message"

        def __init__(self, module, task, seconds, xla_flags):
            self.laws = task["laws"]

        def __iter__(self):
            yield {"law": self.laws[0], "status": "started"}
            yield {"law": self.laws[0], "status": "obeyed", "seconds": 1.0}
            yield {"law": self.laws[1], "status": "started"}

    monkeypatch.setattr(run, "Worker", Dying)
    assert run.run(settings(tmp_path, laws=LAWS)) == 1
    rows = {row["law"]: row for row in records.read(tmp_path)}
    assert [rows[law]["status"] for law in LAWS] == ["obeyed", "broken", "not run"]
    assert "SIGSEGV" in rows[LAWS[1]]["reason"]


def test_implementations_are_compared_told_and_drawn(tmp_path):
    assert run.run(settings(tmp_path, laws=(), routes=("cudnn",))) == 1  # refused where there is no cuDNN, all of them
    rows = records.read(tmp_path)
    assert {(row["route"], row["status"]) for row in rows} == {("cudnn", "refused")}
    assert [row["law"] for row in rows] == list(routes.LAWS)
    assert "Softmax by cudnn | 0 | 0 | 6 |" in summaries.of(tmp_path)
    assert (tmp_path / "implementations.png").stat().st_size > 5000


@pytest.mark.parametrize("law", list(routes.LAWS)[:-1])
def test_an_implementation_that_is_right_obeys(law, monkeypatch):
    monkeypatch.setattr(routes, "LENGTH", 192)
    routes.check(SlidingWindow(left=70, right=0), "xla", law)


CALLS = itertools.count()
BROKEN = {
    "errors_are_those_of_rounding": lambda out, v: out * 1.05,
    "errors_both_ways_are_those_of_rounding": lambda out, v: out * 1.05,
    "two_calls_give_the_same_bits": lambda out, v: (
        out + jax.pure_callback(lambda: np.asarray(next(CALLS) / 8, out.dtype), jax.ShapeDtypeStruct((), out.dtype))
    ),
    "the_future_changes_no_bit": lambda out, v: out + v.mean(axis=1, keepdims=True),
    "padding_may_be_nan": lambda out, v: out + v.mean(axis=1, keepdims=True),
}


@pytest.mark.parametrize("law", BROKEN)
def test_one_that_is_wrong_does_not(law, monkeypatch):
    monkeypatch.setattr(routes, "LENGTH", 128)
    right = routes._attend

    def wrong(kernel, route, **asked):
        call = right(kernel, route, **asked)
        return (lambda q, k, v: BROKEN[law](call(q, k, v), v)) if route == "xla" else call

    monkeypatch.setattr(routes, "_attend", wrong)
    with pytest.raises(LawBroken, match=law):
        routes.check(Softmax(), "xla", law)
