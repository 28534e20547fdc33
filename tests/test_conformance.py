"""Laws on a device: decided once, and a process that dies takes its own law alone with it."""

import pytest

from attnzoo import Linear, Softmax
from experiments.bench import records, workers
from experiments.conformance import run
from tests import summaries

LAWS = ("shape_and_dtype_are_kept", "masks_hide", "biases_add_to_scores")


def settings(tmp_path, **changed):
    given = {"kernels": (Softmax(),), "laws": LAWS[:1], "platform": "cpu", "minutes": 2.0, "processes": 2}
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
