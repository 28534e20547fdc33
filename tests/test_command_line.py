"""Flags become values, and what is wrong is said in one line."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import tasks
from experiments.bench import parsing
from experiments.bench.settings import parsed
from experiments.compare.presets import PRESETS
from experiments.scaling import settings as scaling
from experiments.train.sweep import settings


def run(*words):
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=120)


def test_ranges_double():
    assert parsing.lengths("256:2048") == (256, 512, 1024, 2048)
    assert parsing.lengths("64, 256:512,64") == (64, 256, 512)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("256,", "empty item"),
        ("", "--lengths= is empty: expected a whole number >= 1, or a range such as"),
        ("256:1000", "a range doubles from 256, and does not meet 1000"),
        ("512:256", "does not meet 256"),
        ("0", "expected a whole number >= 1"),
        ("-5", "expected a whole number >= 1"),
        ("many", "'many'"),
    ],
)
def test_bad_lengths(text, message):
    with pytest.raises(ValueError, match=message):
        parsing.lengths(text)


def test_words_are_of_the_choices():
    assert parsing.words("train, forward", ("forward", "train"), "passes") == ("train", "forward")
    with pytest.raises(ValueError, match="--passes has 'backward': expected some of forward, train"):
        parsing.words("backward", ("forward", "train"), "passes")


@pytest.mark.parametrize(
    "name",
    [
        "scaling",
        "accuracy",
        "report",
        "compare",
        "decoding",
        "generate",
        "inspect",
        "swap",
        "approximation",
        "reproduce",
        "compiled",
    ],
)
def test_help_shows_the_flags_without_jax(name):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"experiments.{name}", "--help"], capture_output=True, text=True
    )
    assert f"python -m experiments.{name}" in done.stdout and "flags:" in done.stdout and done.returncode == 0
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not modules & {"jax", "attnzoo", "matplotlib", "numpy"}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_commands_that_their_experiments_know(preset):
    parts = PRESETS[preset]
    folders = [part.folder for part in parts if part.experiment == "accuracy"]
    assert len(folders) == len(set(folders)) and folders
    for part in parts:
        command = importlib.import_module(f"experiments.{part.experiment}.__main__")
        parsed(command.Settings, **part.flags)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiments.scaling", "--is_causal", "false"], "'false' belongs to no flag"),
        (["experiments.scaling", "--kernel=softmax"], "Unknown command line flag 'kernel'"),
        (["experiments.scaling", "--kernels=sofmax"], "did you mean 'softmax'"),
        (["experiments.scaling", "--heads=1e3"], "error: flag --heads=1e3: expected a whole number >= 1\n"),
        (["experiments.report"], "expected one FOLDER"),
        (["experiments.report", "/nowhere"], "no rows to report"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_bad_flags_end_with_one_line(words, message, tmp_path):
    out = [] if "report" in words[0] else [f"--out={tmp_path}"]
    done = run(*words, *out)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("known", "flags", "message"),
    [
        (scaling.Settings, {"lengths": "64,"}, "empty item"),
        (scaling.Settings, {"lengths": " "}, "--lengths= is empty: expected a whole number"),
        (scaling.Settings, {"passes": ""}, "--passes= is empty: expected some of forward, train"),
        (
            scaling.Settings,
            {"kernels": "performer(features={16,)"},
            r"^--kernels=performer\(features=\{16,\): a bracket",
        ),
        (settings.Settings, {"task": "mqar(pairs={4"}, r"^--task=mqar\(pairs=\{4: a bracket is not closed"),
        (settings.Settings, {"kernels": "hybrid(ratio={})"}, "^--kernels has .*: expected braces around items"),
        (scaling.Settings, {"batch": "1", "tokens": "9999"}, "exclude each other"),
        (scaling.Settings, {"num_kv_heads": "3"}, "does not divide --heads=8"),
        (scaling.Settings, {"repeats": "2"}, "--repeats=2: expected at least 5"),
        (scaling.Settings, {"num_kv_heads": "0"}, "--num_kv_heads=0: expected at least 1"),
        (scaling.Settings, {"kernels": ""}, "names no kernel"),
        (scaling.Settings, {"kernels": "linear(epsilom=1.0)"}, "did you mean 'epsilon'"),
        (scaling.Settings, {"passes": "forward,"}, "empty item"),
        (settings.Settings, {"task": "images"}, "images"),
        (settings.Settings, {"positions": "rotery"}, "unknown position encoding 'rotery', did you mean"),
        (settings.Settings, {"heads": "3"}, "does not divide --widths=64"),
    ],
    ids=str,
)
def test_bad_values(known, flags, message):
    with pytest.raises(ValueError, match=message):
        parsed(known, **flags)


@pytest.mark.parametrize("dry", ["", "--dry_run"])
def test_a_folder_that_cannot_be_written_is_said_in_one_line(dry, tmp_path):
    (tmp_path / "file").write_text("")
    words = ["--kernels=softmax", "--lengths=16", f"--out={tmp_path / 'file' / 'below'}"]
    done = run("experiments.scaling", *words, *dry.split())
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path / 'file'}")
    assert done.stderr.endswith("it is a file, where a folder is needed; name another\n") and not done.stdout


def test_a_folder_in_place_of_rows_is_said_in_one_line(tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    done = run("experiments.report", str(tmp_path))
    assert done.returncode == 2 and "rows.jsonl: Is a directory: it is a folder, where a file is" in done.stderr
    assert "Errno" not in done.stderr


def test_a_full_disk_is_said_and_what_to_do(tmp_path):
    (tmp_path / "summary.json").symlink_to("/dev/full")
    words = ["--kernels=linear", "--lengths=16", "--passes=forward", "--heads=1", "--head_dim=4", f"--out={tmp_path}"]
    done = run("experiments.scaling", *words)
    assert done.returncode == 2 and "No space left on device: rows so far are kept" in done.stderr
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("flag", ["--helpfull", "--helpshort", "-?"])
def test_all_kinds_of_help_are_no_failure(flag):
    assert run("experiments.report", flag).returncode == 0


def test_help_lists_every_task():
    assert [tasks.name_of(each) for each in tasks.parse_tasks(settings.TASKS)] == list(tasks.TASKS)
    assert all(name in run("experiments.accuracy", "--help").stdout for name in tasks.TASKS)


def test_help_tells_the_question_and_the_command():
    shown = run("experiments.scaling", "--help").stdout
    assert "What does each kernel cost" in shown and "python -m experiments.scaling --kernels=" in shown
    flags = (
        "kernels lengths passes batch tokens heads num_kv_heads head_dim dtype is_causal repeats cell_budget seed out"
    )
    assert all(f"--{name}" in shown or f"--[no]{name}" in shown for name in (*flags.split(), "dry_run"))


def test_a_plug_in_from_the_current_folder_is_measured(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses, attnzoo\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mean(attnzoo.Kernel):\n"
        "    width: int = 1\n"
        "    def head(self, params, draws, q, k, v, visible):\n"
        "        return visible.astype(v.dtype) @ v / self.width\n"
    )
    words = ["--kernels=mine.Mean(width=3)", "--lengths=16", "--passes=forward", "--heads=1", "--head_dim=4", "--out=o"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.scaling", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Mean(width=3)" in done.stdout
