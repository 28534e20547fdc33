"""Curves for TensorBoard and Weights & Biases: every point once, whatever happens to the run."""

import pathlib
import re
import struct
import subprocess
import sys
import types

import pytest

from attnzoo import Softmax
from experiments.tasks.mqar import MQAR
from experiments.train.loop import Progress
from experiments.train.sweep import models as one
from experiments.train.sweep.cells import cells
from tests.test_accuracy import settings

REASON = "the extra `tensorboard` is not installed"
pytest.importorskip("tensorboardX", reason=REASON)
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402 - after it is known to be there
from tensorboardX.record_writer import masked_crc32c  # noqa: E402

from experiments import train  # noqa: E402
from experiments.train import tensorboard  # noqa: E402


def read(folder):
    """The events of the one file of a run; a record is a length, its checksum, the event, and its checksum."""
    [path] = folder.iterdir()
    data, found = path.read_bytes(), []
    while data:
        [length] = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        record, data = data[12 : 12 + length], data[12 + length :]
        assert struct.unpack("<I", data[:4]) == (masked_crc32c(record),)
        found.append(Event.FromString(record))
        data = data[4:]
    return found


def points(folder, tag):
    return [
        (event.step, value.simple_value) for event in read(folder) for value in event.summary.value if value.tag == tag
    ]


def near(rows):
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in rows]


def test_a_run_that_goes_on_has_every_point_once(tmp_path):
    curve = [(step, 8.0 - step) for step in range(0, 40, 10)]
    with pytest.raises(KeyboardInterrupt), tensorboard.following(tmp_path, "accuracy") as tell:
        tell(Progress(step=21, curve=curve[:3], validations=[(20, -0.5)]))
        tell(Progress(step=22, curve=curve[:3], validations=[(20, -0.5)]))
        raise KeyboardInterrupt
    assert points(tmp_path, "train/bits") == curve[:3]
    with tensorboard.following(tmp_path, "accuracy") as tell:
        for done in (2, 4):  # from a checkpoint of step 11
            tell(Progress(step=10 * done, curve=curve[:done], validations=[(20, -0.5)]))
    assert points(tmp_path, "train/bits") == curve
    assert points(tmp_path, "validation/accuracy") == [(20, 0.5)]
    first, second, *_ = read(tmp_path)
    assert first.file_version == "brain.Event:2" and second.session_log.status == SessionLog.START


@pytest.mark.slow
def test_a_cell_that_was_killed_ends_with_the_curves_of_its_row(tmp_path):
    chosen = settings(
        tmp_path,
        tasks=(MQAR(pairs=2, vocabulary=16),),
        kernels=(Softmax(),),
        steps=23,
        validate_every=7,
        save_every=9,
        tensorboard=True,
    )
    [cell] = cells(chosen)

    def die(progress):
        if progress.step == 22:
            raise MemoryError

    with pytest.raises(MemoryError):
        one.train(chosen, cell, die)
    row = one.train(chosen, cell, lambda progress: None)
    [folder] = (tmp_path / one.CURVES).iterdir()
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", folder.name)
    assert points(folder, "train/bits") == near(row["curve"]) and len(row["curve"]) == 3
    assert points(folder, "validation/accuracy") == near((step, -score) for step, score in row["validations"])


def forget():
    """Whoever asks next for the module of Weights & Biases has it with the package that is then there."""
    sys.modules.pop("experiments.train.weights_and_biases", None)
    vars(train).pop("weights_and_biases", None)


@pytest.fixture
def wandb(monkeypatch):
    """In the place of the package, which is large: what it was told, by run."""
    runs = {}

    class Run:
        def __init__(self, id, dir, mode, **given):
            self.told, self.is_done, self.given, self.mode = [], False, given, mode
            pathlib.Path(dir, "wandb", f"offline-run-{len(runs)}-{id}").mkdir(parents=True)
            self.log, self.define_metric = self.told.append, lambda *given, **how: None
            runs.setdefault(id, []).append(self)

        def finish(self):
            self.is_done = True

    package = types.ModuleType("wandb")
    package.init, package.Settings = lambda settings, **given: Run(**given), dict
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    forget()
    yield runs
    forget()


def test_weights_and_biases_is_told_the_same_and_sends_nothing(tmp_path, wandb):
    from experiments.train import weights_and_biases

    for done in (1, 2):
        with weights_and_biases.following(tmp_path, "accuracy", "attention", "cell", {"width": 8}) as tell:
            tell(Progress(step=10 * done, curve=[(0, 8.0), (10, 7.0)][:done], validations=[(10, -0.5)][: done - 1]))
    first, second = wandb["cell"]
    assert first.told == [{"train/bits": 8.0, "step": 0}] and first.is_done and first.mode == "offline"
    assert second.told == [*first.told, {"train/bits": 7.0, "step": 10}, {"validation/accuracy": 0.5, "step": 10}]
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["offline-run-1-cell"]  # no try before it
    assert second.given["project"] == "attention" and second.given["config"] == {"width": 8}


def test_weights_and_biases_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    from experiments.train import weights_and_biases

    monkeypatch.setenv("WANDB_MODE", "offline")
    with weights_and_biases.following(tmp_path, "bits", "attention", "cell", {"width": 8}) as tell:
        tell(Progress(step=1, curve=[(0, 8.0)]))
    [kept] = tmp_path.rglob("run-cell.wandb")
    assert b"train/bits" in kept.read_bytes()


@pytest.mark.parametrize(
    "flag, module, extra", [("--tensorboard", "tensorboardX", "tensorboard"), ("--wandb=mine", "wandb", "wandb")]
)
def test_flags_are_refused_without_their_extras(tmp_path, flag, module, extra):
    code = f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv[0] = 'x'\n"
    code += "runpy.run_module('experiments.accuracy', run_name='__main__')"
    words = [sys.executable, "-c", code, flag, f"--out={tmp_path / 'out'}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent.parent)
    assert done.returncode == 2 and f"pip install -e '.[{extra}]'" in done.stderr
    assert f"error: {flag.partition('=')[0]} needs {module}" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
