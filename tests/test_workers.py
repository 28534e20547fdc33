"""Workers: rows as they come, and how each kind of end is told."""

import fcntl
import functools
import subprocess
import sys
import threading
import time

import pytest

from experiments.bench import workers

ENDS = {
    "well": ("", None),
    "a crash": ("import os; os.abort()", "SIGABRT"),
    "an error": ("raise ValueError('too odd')", "exit code 1: ValueError: too odd"),
    "an error with an afterword": (
        "import sys; sys.excepthook = lambda kind, error, trace: print(f'ValueError: {error}\\nFor simplicity, ..', "
        "file=sys.stderr); raise ValueError('too odd')",
        "exit code 1: ValueError: too odd",
    ),
    "no time": ("import time; time.sleep(60)", "no time left"),
    "silence": ("import time; time.sleep(60)", "ended after 3 s without a word"),
}


@pytest.mark.parametrize("end", ENDS)
def test_rows_come_until_the_end_and_the_end_is_told(end, tmp_path, monkeypatch):
    """What a worker prints besides goes to standard error, and does not stand among the rows."""
    code, told = ENDS[end]
    (tmp_path / "some_worker.py").write_text(
        "from experiments.bench import workers\n"
        "def rows(task):\n"
        "    print('chatter')\n"
        "    print('warning: it is late')\n"
        "    yield {'doubled': 2 * task['number']}\n"
        f"    {code or 'pass'}\n"
        "workers.work(rows)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    worker = workers.Worker(
        "some_worker", {"number": 4}, 3 if end == "no time" else 60, patience=3 if end == "silence" else None
    )
    assert list(worker) == [{"doubled": 8}]
    assert worker.ended is None if told is None else told in worker.ended
    assert worker.warnings == ["warning: it is late"] or end in (
        "a crash",
        "no time",
        "silence",
    )  # where it may be in a buffer


def test_a_worker_that_asks_for_more_is_told_more(tmp_path, monkeypatch):
    (tmp_path / "asking.py").write_text(
        "from experiments.bench import workers\n"
        "with workers.talk() as (hear, say):\n"
        "    while (number := hear()) is not None:\n"
        "        say({'doubled': 2 * number['number']})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    worker, found = workers.Worker("asking", {"number": 1}, 60), []
    worker.tell({"number": 2})
    for row in worker:
        found.append(row["doubled"])
        if len(found) > 1:
            worker.tell({"number": 3} if len(found) == 2 else None)
    assert found == [2, 4, 6] and worker.ended is None


def test_a_worker_that_cannot_start_is_told():
    worker = workers.Worker("experiments.no_such_worker", {}, 60)
    assert list(worker) == [] and "No module named" in worker.ended


def test_defaults_of_the_environment_are_what_it_has_not(tmp_path, monkeypatch):
    (tmp_path / "told.py").write_text(
        "import os\n"
        "from experiments.bench import workers\n"
        "workers.work(lambda task: [{name: os.environ[name] for name in task['names']}])\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    monkeypatch.setenv("CHOSEN", "by its user")
    defaults = {"CHOSEN": "by us", "LEFT": "to us"}
    worker = workers.Worker("told", {"names": list(defaults)}, 60, defaults=defaults)
    assert list(worker) == [{"CHOSEN": "by its user", "LEFT": "to us"}]


def test_a_worker_that_is_asked_to_end_before_it_starts_ends_at_its_start():
    worker = workers.Worker("experiments.no_such_worker", {}, 60)
    worker.terminate()
    assert list(worker) == [] and worker.ended.startswith("SIGTERM")


def test_a_worker_ends_with_whom_it_works_for(tmp_path, monkeypatch):
    """Which was killed, and cannot say so: what is locked by the worker is free again."""
    (tmp_path / "some_worker.py").write_text(
        "import fcntl, time\n"
        "from experiments.bench import workers\n"
        "def rows(task):\n"
        "    with open(task['lock'], 'w') as lock:\n"
        "        fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "        yield {}\n"
        "        time.sleep(60)\n"
        "workers.work(rows)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    task = {"lock": str(tmp_path / "lock")}
    code = f"from experiments.bench import workers\nfor row in workers.Worker('some_worker', {task}): print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as caller:
        caller.stdout.readline()
        caller.kill()
    start = time.monotonic()
    with open(task["lock"]) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert time.monotonic() - start < 30


def test_no_job_is_begun_after_its_caller_broke_off():
    begun, go = [], threading.Event()

    def job(number):
        begun.append(number)
        yield number
        go.wait(60)

    rows = workers.beside([functools.partial(job, number) for number in range(4)], 2)
    assert {next(rows), next(rows)} == {0, 1}
    rows.close()
    go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(60)
    assert begun == [0, 1]


def test_another_platform_is_refused():
    with pytest.raises(ValueError, match=r"--platform=gpu: .* pass --platform=cpu"):
        workers.require("gpu", {"platform": "cpu", "device": "some processor"})
