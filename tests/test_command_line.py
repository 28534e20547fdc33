"""Flags become values, and what is wrong is said in one line."""

import subprocess
import sys

import pytest

from experiments import command_line


def run(*words):
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=120)


def test_ranges_double():
    assert command_line.lengths("256:2048") == (256, 512, 1024, 2048)
    assert command_line.lengths("64, 256:512,64") == (64, 256, 512)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("256,", "empty item"),
        ("", "empty item"),
        ("256:1000", "a range doubles from 256, and does not meet 1000"),
        ("512:256", "does not meet 256"),
        ("0", "expected a whole number >= 1"),
        ("-5", "expected a whole number >= 1"),
        ("many", "'many'"),
    ],
)
def test_bad_lengths(text, message):
    with pytest.raises(ValueError, match=message):
        command_line.lengths(text)


def test_words_are_of_the_choices():
    assert command_line.words("train, forward", ("forward", "train"), "passes") == ("train", "forward")
    with pytest.raises(ValueError, match="--passes has 'backward': expected some of forward, train"):
        command_line.words("backward", ("forward", "train"), "passes")


@pytest.mark.parametrize("name", ["scaling", "accuracy", "report", "compare"])
def test_help_shows_the_flags_without_jax(name):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"experiments.{name}", "--help"], capture_output=True, text=True
    )
    assert "--out" in done.stdout
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not modules & {"jax", "attnzoo", "matplotlib", "numpy"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiments.scaling", "--is_causal", "false"], "'false' belongs to no flag"),
        (["experiments.scaling", "--kernel=softmax"], "Unknown command line flag 'kernel'"),
        (["experiments.scaling", "--kernels=sofmax"], "did you mean 'softmax'"),
        (["experiments.scaling", "--kernels=softmax", "--lengths=64,"], "empty item"),
        (["experiments.scaling", "--kernels=softmax", "--batch=1", "--tokens=9999"], "exclude each other"),
        (["experiments.scaling", "--kernels=softmax", "--num_kv_heads=3"], "does not divide --heads=8"),
        (["experiments.scaling", "--kernels=softmax", "--repeats=2"], "--repeats=2: expected a number of at least 5"),
        (["experiments.scaling", "--kernels=softmax", "--batch=0"], "--batch=0: expected a number of at least 1"),
        (
            ["experiments.scaling", "--kernels=softmax", "--num_kv_heads=0"],
            "--num_kv_heads=0: expected a number of at least 1",
        ),
        (["experiments.accuracy", "--task=images"], "images"),
        (["experiments.accuracy", "--heads=3"], "does not divide --width=64"),
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
