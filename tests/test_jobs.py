"""Cells beside each other: what each is given, how they end, and that they leave the rows of one after another."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import types

import jax
import pytest

from attnzoo import Linear, Nystrom, Softmax
from experiments.bench import experiment, outcome, placement, records
from experiments.tasks.text import Text
from experiments.train.sweep import models, run
from experiments.train.sweep.cells import cells
from experiments.train.sweep.waiting import Waiting
from tests.test_accuracy import saved, settings, started, wait_for


def test_a_device_is_given_where_the_fewest_are_at_work():
    devices = placement.Pool([0, 1, 2])
    given = [devices.one() for _ in range(8)]
    assert [one.__enter__().number for one in given[:5]] == [0, 1, 2, 0, 1]
    given[3].__exit__(None, None, None)
    given[4].__exit__(None, None, None)
    given[1].__exit__(None, None, None)
    assert [one.__enter__().number for one in given[5:]] == [1, 0, 1]


def test_a_process_takes_one_device():
    code = "import jax; from experiments.bench import placement as here; here.take(here.Place(2)); "
    code += "print(len(jax.devices()))"
    several = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | several, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a system without affinities")
def test_processes_beside_each_other_share_the_cores_of_a_cpu():
    code = "import os; from experiments.bench import placement as here; cores = sorted(os.sched_getaffinity(0)); "
    code += "here.take(here.Place(%d, 2)); print(os.sched_getaffinity(0) == set(cores[%d::2] or cores[:1]))"
    for number in (0, 1):
        done = subprocess.run([sys.executable, "-c", code % (number, number)], capture_output=True, text=True)
        assert done.stdout == "True\n", done.stderr


def test_gpus_are_taken_by_their_numbers(monkeypatch):
    updated = {}
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    placement.take(placement.Place(3))
    assert updated["jax_cuda_visible_devices"] == updated["jax_rocm_visible_devices"] == "3"


def test_devices_that_one_process_has_alone_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(platform="tpu")])
    with pytest.raises(ValueError, match=r"--jobs=2: expected .* platform 'tpu', .* pass --jobs=1 --noisolate"):
        run.run(settings(tmp_path, isolate=True, jobs=2))


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch):
    gpus = [types.SimpleNamespace(platform="gpu", local_hardware_id=number) for number in (4, 6)]
    monkeypatch.setattr(jax, "local_devices", lambda: gpus)
    with placement.found(2).one() as first, placement.found(1).one() as alone:
        assert first.number == alone.number == 4
    with pytest.raises(ValueError, match=r"--jobs=3: .* one for each GPU, .* jax finds 2 here: pass --jobs=2"):
        run.run(settings(tmp_path, isolate=True, jobs=3))


def test_shares_done_are_summed_over_cells_at_work_and_each_has_a_device(tmp_path, monkeypatch):
    kernels = Softmax(), Linear()
    chosen = settings(tmp_path, tasks=(Text(),), kernels=kernels, isolate=True, jobs=2, steps=4)
    both, given, reached = threading.Barrier(2), [], []

    def half(settings, waiting, termination, told, device):
        place = waiting.first()[0]
        waiting.done(place)
        given.append(device)
        both.wait(60)
        told(place, 2)
        both.wait(60)
        yield place, {"status": "refused", "reason": ""}

    monkeypatch.setattr(run, "_of_program", half)
    monkeypatch.setattr(placement, "found", lambda jobs: placement.Pool([0, 1]))
    todo = [experiment.Cell(cell.row(chosen), cell) for cell in cells(chosen)]
    assert len(list(run.EXPERIMENT.measure(chosen, todo, experiment.Run([], reached.append)))) == 2
    assert sorted(given) == [(0, 1), (1, 1)]
    assert max(reached) == 1.0 and reached[-2:] == [0.5, 0.0]


@pytest.mark.parametrize(("jobs", "places"), [(1, [[0, 2], [1, 3]]), (2, [[0, 2], [1, 3]]), (3, [[0], [2], [1], [3]])])
def test_cells_of_a_program_share_a_process_where_jobs_do_not_want_more(jobs, places):
    every = list(cells(settings("", tasks=(Text(),), kernels=(Softmax(), Linear()), seeds=2)))
    assert [list(own) for own in run._processes(every, jobs)] == places


def test_what_a_process_without_work_takes_over_is_the_later_half_of_what_is_not_begun():
    waiting = Waiting(dict(enumerate("abcdefg")))
    assert waiting.spared() == {4: "e", 5: "f", 6: "g"}
    waiting.done(0)
    assert waiting.first() == (1, "b") and waiting.spared() == {3: "d"}
    assert waiting.spared() == {} and len(waiting) == 2
    assert waiting.dropped() == [1, 2] and not waiting


def test_who_has_no_program_left_helps_with_another(tmp_path, monkeypatch):
    """Linear attention is at its first cell until another process is at its last."""
    begun, is_helped = [], threading.Event()  # seeds of each process

    class Process:
        def __init__(self, module, task, seconds, defaults):
            self.ended, self.code, self.warnings, self.cells = None, 0, [], []
            begun.append(self.cells)

        def tell(self, cell):
            self.cell = cell

        def __iter__(self):
            while self.cell is not None:
                kernel, seed = self.cell["kernel"], self.cell["seed"]
                self.cells.append(seed)
                if kernel.startswith("linear"):
                    is_helped.set() if seed == 3 else is_helped.wait(60)
                yield {"row": {"status": "refused", "reason": f"{kernel} {seed}"}}

        def renew(self):
            pass

    monkeypatch.setattr(run, "Worker", Process)
    kernels = Softmax(), Linear()
    chosen = settings(tmp_path, tasks=(Text(),), kernels=kernels, seeds=4, isolate=True, jobs=2)
    todo = [experiment.Cell(cell.row(chosen), cell) for cell in cells(chosen)]
    rows = list(run.EXPERIMENT.measure(chosen, todo, experiment.Run([], lambda done: None)))
    assert sorted((row["name"], row["seed"]) for row in rows) == [
        (name, seed) for name in ("linear", "softmax") for seed in range(4)
    ]
    assert all(row["reason"].startswith(row["name"]) and row["reason"].endswith(str(row["seed"])) for row in rows)
    assert [0, 1, 2, 3] in begun and [3] in begun


def test_where_nothing_is_left_to_do_nobody_helps(tmp_path):
    """As where a run goes on behind the seeds that tried all rates."""
    chosen = settings(tmp_path, isolate=True, jobs=2)
    assert list(run.EXPERIMENT.measure(chosen, [], experiment.Run([], lambda done: None))) == []


def test_cells_of_a_refused_program_are_refused_once(tmp_path):
    """Nobody helps with them."""
    chosen = settings(tmp_path, tasks=(Text(),), kernels=(Nystrom(),), seeds=9, isolate=True, jobs=2)
    todo = [experiment.Cell(cell.row(chosen), cell) for cell in cells(chosen)]
    rows = list(run.EXPERIMENT.measure(chosen, todo, experiment.Run([], lambda done: None)))
    assert sorted(row["seed"] for row in rows) == list(range(9))
    assert {row["status"] for row in rows} == {"refused"}


@pytest.mark.slow
def test_a_cell_that_fails_beside_another_leaves_it(tmp_path, monkeypatch):
    refusal = models.refusal
    broken = lambda settings, one: refusal(settings, one) if one.kernel == Softmax() else 1 / 0
    monkeypatch.setattr(models, "refusal", broken)
    assert run.run(settings(tmp_path, tasks=(Text(),), kernels=(Linear(), Softmax()), isolate=True, jobs=2)) == 1
    assert {row["name"]: row["status"] for row in records.read(tmp_path)} == {"linear": "failed", "softmax": "measured"}


SHORTER = ("--seeds=3", "--steps=160")


def both_saved(out):
    return len({path.parent.parent for path in saved(out)}) == 2


@pytest.mark.slow
def test_sigterm_reaches_all_at_work_and_they_go_on_to_the_rows_of_one_after_another(tmp_path):
    process = started(tmp_path / "stopped", *SHORTER, "--jobs=2")
    wait_for(lambda: both_saved(tmp_path / "stopped"))
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=90)[0]
    assert process.returncode == outcome.STOPPED, said
    assert records.read(tmp_path / "stopped") == [] and both_saved(tmp_path / "stopped")
    for name, words in (("stopped", ["--jobs=2"]), ("whole", ["--isolate=false", "--save_every=0"])):
        process = started(tmp_path / name, *SHORTER, *words)
        said = process.communicate(timeout=180)[0]
        assert process.returncode == 0, said
    found, whole = ({row["seed"]: row for row in records.read(tmp_path / name)} for name in ("stopped", "whole"))
    assert set(found) == set(whole) == {0, 1, 2}
    for name in ("bits", "score", "curve", "validations", "best_step"):
        assert [found[seed][name] for seed in whole] == [row[name] for row in whole.values()]
    assert not saved(tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_an_interrupt_leaves_no_process(tmp_path):
    process = started(tmp_path, *SHORTER, "--jobs=2")
    wait_for(lambda: both_saved(tmp_path))
    threads = pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [pathlib.Path("/proc", child) for path in threads for child in path.read_text().split()]
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 130, said
    assert not any(child.exists() for child in children)
