"""Jobs end when they are told to."""

import os
import signal
import subprocess
import sys

from experiments.bench import progress

CODE = """
import os, signal
from experiments.bench import progress

class Swallowing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass

progress.remember_interrupts()
with progress.over(range(3), "three") as each:
    for item in each:
        print(item, flush=True)
        Swallowing()
"""


def test_an_interrupt_that_a_callback_swallows_ends_the_job_after_the_item_at_hand():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout.split() == ["three", "0"] and done.returncode in (1, 130, -signal.SIGINT)
    assert "Exception ignored" in done.stderr


def test_lines_tell_the_time_left_where_no_bar_does(capsys, monkeypatch):
    now = iter([0.0, 120.0, 240.0, 300.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.over("abc", "letters") as each:
        for letter in each:
            each.say(letter)
    said = capsys.readouterr().out.splitlines()
    assert said == ["letters", "a (33% done, about 4 min left)", "b (67% done, about 2 min left)", "c"]


def test_what_is_no_terminal_is_as_wide_as_columns_say():
    code = "from experiments.bench import progress; print(progress.console.width)"
    for columns, width in (("90", 90), ("", progress.WIDTH), ("wide", progress.WIDTH)):
        given = os.environ | {"COLUMNS": columns}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given)
        assert done.stdout == f"{width}\n", done.stderr
