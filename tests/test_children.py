"""A command that consists of others hands SIGTERM on to the one at work, and waits for it."""

import fcntl
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.bench import outcome
from experiments.compare import run as compare
from experiments.suites import run as suites
from experiments.suites import settings
from experiments.train import children

PARENT = "import sys; from experiments.train import children; sys.exit(children.run(['-c', sys.argv[1], sys.argv[2]]))"
HOLDS = """
import fcntl, os, signal, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
"""
SAVES = """
def saves(*_):
    lock.write("saved")
    lock.flush()
    os._exit(75)
signal.signal(signal.SIGTERM, saves)
"""
WAITS = """
print(flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("child", "left"), [(HOLDS + SAVES + WAITS, "saved"), (HOLDS + WAITS, "")])
def test_sigterm_reaches_the_child_which_ends_first(child, left, tmp_path):
    words = [sys.executable, "-c", PARENT, child, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == outcome.STOPPED
        with open(tmp_path / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert lock.read() == left


def test_a_child_has_its_exit_code_and_that_of_shells_where_it_was_killed():
    assert [children.run(["-c", f"raise SystemExit({code})"]) for code in (0, 1, 7)] == [0, 1, 7]
    assert children.run(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]) == 128 + signal.SIGKILL


def test_what_breaks_off_leaves_no_child(monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            started.append(self)
            if len(started) == 1:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        children.run(["-c", "import time; time.sleep(60)"])
    assert started[0].returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_a_list_of_commands_ends_with_the_one_that_was_stopped(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(children, "run", lambda words: started.append(words) or outcome.STOPPED)
    assert compare.run(SimpleNamespace(preset="full", out=tmp_path)) == outcome.STOPPED
    assert suites.run(settings.Settings(out=str(tmp_path), suites=("mad",))) == outcome.STOPPED
    assert [words[1] for words in started] == ["experiments.scaling", "experiments.accuracy"]
