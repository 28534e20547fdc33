"""Suites: what is published is what is listed, every command means something, and scores are the paper's means."""

import functools
import itertools
import json
import pathlib

import pytest

from attnzoo import catalogue
from experiments import tasks
from experiments.bench import parsing, records
from experiments.bench.settings import parsed
from experiments.reproduce import trainings
from experiments.suites import forecast, run, score, settings
from experiments.suites.catalogue import SUITES
from experiments.suites.mad import TASKS
from experiments.suites.score import CHOSEN, Setting
from experiments.suites.suite import MODEL, SCALES
from experiments.tasks import mqar
from experiments.tasks.wrapped import Epochs, Shuffled
from experiments.train import children
from experiments.train.sweep import models, prediction
from experiments.train.sweep.cells import cells
from tests.few import few

TRAININGS = [
    pytest.param(suite, training, id=f"{scale}-{name}-{training.name}")
    for name, suite in SUITES.items()
    for scale in SCALES
    for training in suite.trainings(scale)
    if scale == "small" or name != "mad" or training.flags["weight_decay"] == 0
]


def test_flags_name_every_suite():
    assert tuple(SUITES) == settings.NAMES
    for suite in SUITES.values():
        for scale in SCALES:
            names = [training.name for training in suite.trainings(scale)]
            assert names and len(set(names)) == len(names)


@pytest.mark.parametrize("scale", SCALES)
def test_every_training_names_its_positions(scale):
    trainings = [(name, training) for name, suite in SUITES.items() for training in suite.trainings(scale)]
    assert [(name, training.name) for name, training in trainings if "positions" not in training.flags] == []


@pytest.mark.parametrize(("suite", "training"), TRAININGS)
def test_a_command_has_models_and_examples_at_every_length(suite, training):
    asked = run.sweep(training, suite.kernels)
    assert {cell.task for cell in cells(asked)} == set(asked.tasks)
    for task in asked.tasks:
        if task.folder is not None:
            continue
        for length in asked.lengths:
            assert len(task.batch("train", 0, asked.steps, 1, length).inputs) == 1
        for length in (*asked.lengths, *asked.eval_lengths):
            assert task.batch("test", 0, 0, 1, length).weights.sum() > 0


def asked(name, training=None):
    """The settings and the task of a published training."""
    found = {each.name: each for each in SUITES[name].published}
    sweep = run.sweep(found[training] if training else next(iter(found.values())), "softmax, linear")
    return sweep, sweep.tasks[0]


def test_mqar_is_as_published():
    kinds = {"attending": catalogue.parse_positions("learned"), "recurrent": catalogue.parse_positions("none")}
    assert len(SUITES["mqar_2023"].published) == 2 * len(mqar.PUBLISHED) == 8
    for (length, pairs), (kind, positions) in itertools.product(mqar.PUBLISHED, kinds.items()):
        sweep, task = asked("mqar_2023", f"mqar-{length}-{kind}")
        assert list(sweep.positions) == positions
        assert task.inner == mqar.MQAR(pairs, 8192) and task.examples == 100_000 and sweep.test_examples == 3000
        assert sweep.steps * sweep.tokens == 64 * 100_000 * length and sweep.lengths == (length,)
        assert sweep.widths == (64, 128, 256, 512) and len(sweep.learning_rates) == 4 and sweep.weight_decay == 0.1
        assert (min(sweep.learning_rates), max(sweep.learning_rates)) == (1e-4, 1e-2)
    sweep, task = asked("mqar_2026", "mixed-256-recurrent")
    assert sweep.widths == (64, 128, 256) and sweep.heads == 2 and list(sweep.positions) == kinds["recurrent"]
    sweep, task = asked("mqar_2026", "mixed-256-attending")
    assert sweep.widths == (32, 64, 128) and sweep.heads == 2 and list(sweep.positions) == kinds["recurrent"]
    assert task == Epochs("mixed_mqar", 180_000) and sweep.steps * 256 == 32 * 180_000 and sweep.conv_width == 3
    assert {*sweep.lengths, *sweep.eval_lengths} == {length for length, _ in task.inner.tested}


def test_mad_is_as_published():
    assert {part: len(found) for part, (_, found) in TASKS.items()} == {
        "recall": 11,
        "noisy_recall": 14,
        "fuzzy_recall": 11,
        "selective_copy": 13,
        "compression": 11,
        "memorization": 6,
    }
    assert len(SUITES["mad"].published) == 2 * 2 * 66
    for training in SUITES["mad"].published:
        sweep = run.sweep(training, "softmax, linear")
        assert sweep.heads == {"softmax": 16, "linear": 8}[training.kernels("softmax, linear")]
        [task], [length] = sweep.tasks, sweep.lengths
        assert sweep.tokens == 128 * length and sweep.steps * 128 == 200 * task.examples and sweep.widths == (128,)
        assert sweep.learning_rates == (1e-4, 5e-4, 1e-3) and sweep.test_examples == 1280
    sweep, task = asked("mad", "noisy_recall-13-decay-0.1-attending")
    assert (task.inner.noise, task.inner.vocabulary, task.inner.noise_symbols) == (0.8, 32, 16)
    assert sweep.lengths == (127,) and sweep.weight_decay == 0.1 and task.examples == 12_800


def test_others_are_as_published():
    sweep, task = asked("formal", "parity")
    assert sweep.lengths == (39,) and sweep.eval_lengths == (255,) and sweep.seeds == 3 and task.trained == 39
    assert asked("words", "s5-swaps")[1].moved == 2 and asked("words", "s5")[0].lengths == (32,)
    assert asked("flip_flop")[1].examples == 1_600_000 and asked("flip_flop")[0].lengths == (511,)
    blocks = [
        asked("locality", training.name)[1] for training in SUITES["locality"].published if "blocks" in training.name
    ]
    assert {task.block for task in blocks if isinstance(task, Shuffled)} == {1, 16, 256}


@pytest.mark.parametrize("name", few(list(SUITES), ["mqar_2023", "mad", "needle"]))
def test_every_kernel_that_a_suite_is_asked_of_unless_others_are_named_can_be_built(name):
    suite = SUITES[name]
    for scale in SCALES:
        asked = suite.asked(scale, suite.kernels)
        sweeps = [run.sweep(training, suite.kernels, {"layers": 2, "widths": 128}) for training in asked]
        assert forecast.refused(sweeps) == {}
        named = [model for training in asked for model in parsing.models(training.kernels(suite.kernels))]
        assert set(parsing.models(suite.kernels)) <= set(named)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_every_kernel_takes_a_step_on_its_suites_task(name, tmp_path):
    suite = SUITES[name]
    tried = set()
    for training in suite.asked("small", suite.kernels):
        shared = {"steps": 2, "warmup": 0, "test_examples": 4, "tokens": 512, "eval_lengths": "", "out": tmp_path}
        sweep = run.sweep(training, suite.kernels, shared)
        for cell in cells(sweep):
            if (cell.kernel, type(cell.task)) not in tried and not sweep.start_from:
                tried.add((cell.kernel, type(cell.task)))
                assert models.train(sweep, cell, lambda progress: None)["status"] == "measured"


def test_what_is_refused_is_told_before_anything_is_trained(capsys, tmp_path):
    given = {"suite": "mad", "dry_run": True, "kernels": "nystrom(landmarks=8), softmax", "out": tmp_path}
    assert run.run(parsed(settings.Settings, **given)) == 0
    said = capsys.readouterr().out
    told = [line for line in said.splitlines() if line.startswith("refused: ")]
    assert len(told) == 1 and told[0].startswith("refused: nystrom(landmarks=8): Nystrom cannot serve")
    assert "12 models by 6 commands" in said


def test_hours_are_those_of_all_models_at_the_rate_that_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "_counted", lambda sweep, cell: 10.0 if cell.length == 64 else None)
    monkeypatch.setattr(prediction.processor, "cores", lambda: 1)
    kernels = "nystrom, softmax, linear, delta"
    given = {"suite": "needle", "dry_run": True, "kernels": kernels, "out": tmp_path, "hours": True}
    assert run.run(parsed(settings.Settings, **given)) == 0
    assert f"{3 * 10 * 1000:.2g} operations" in (told := capsys.readouterr().out) and "at 10 GFLOP/s, a guess" in told
    assert "without" not in told
    assert run.run(parsed(settings.Settings, **given, scale="published")) == 0
    assert "0 operations" in (told := capsys.readouterr().out) and "without needle-1024, whose data" in told


def test_operations_of_a_step_are_counted_once_for_all_trainings_of_its_program(monkeypatch):
    counted = []
    monkeypatch.setattr(forecast, "_counted", functools.cache(lambda *program: counted.append(program) or 1.0))
    sweeps = [run.sweep(training, "softmax") for training in SUITES["mad"].asked("published", "softmax")]
    every = [forecast.trained(sweep, refused=()) for sweep in sweeps]
    assert sum(map(forecast.operations, sweeps, every)) == 3 * sum(sweep.steps for sweep in sweeps)
    assert len(counted) < len(sweeps) / 2


def test_kernels_are_asked_by_their_kind():
    given = "softmax, linear, gla, hybrid(ratio=1), turns(kernels='linear, delta')"
    attends, recurs = SUITES["flip_flop"].published
    assert (attends.flags["positions"], recurs.flags["positions"]) == ("learned", "none")
    assert attends.kernels(given) == "softmax, hybrid(ratio=1)"
    assert recurs.kernels(given) == "linear, gla, turns(kernels='linear, delta')"
    assert SUITES["flip_flop"].asked("published", "linear, gla") == [recurs]
    assert all("--kernels=linear" in each.command("linear, softmax", pathlib.Path()) for each in [recurs])


def test_the_arena_has_its_five_tasks_each_model_in_its_own_size():
    arena = SUITES["lra"].published
    assert list(dict.fromkeys(each.part for each in arena)) == ["listops", "text", "retrieval", "image", "pathfinder"]
    for part in ("image", "pathfinder"):
        sizes = [each for each in arena if each.part == part]
        asked = {each.name: each.kernels("softmax, sliding_window, linear, cosformer") for each in sizes}
        assert {name: kernels for name, kernels in asked.items() if kernels} == {
            f"{part}-softmax": "softmax, cosformer",
            f"{part}-longformer": "sliding_window",
            f"{part}-linear": "linear",
        }
        assert {each.flags["task"] for each in sizes} == {trainings.TRAININGS[f"{part}-softmax"]["task"]}
    assert not any("seeds" in each.flags for each in arena)


def test_seeds_that_tune_are_of_trainings_with_several_rates(capsys, tmp_path):
    given = {"suite": "mad,words", "dry_run": True, "kernels": "softmax", "out": tmp_path, "seeds": 5}
    assert run.run(parsed(settings.Settings, **given, tuning_seeds=2)) == 0
    told = capsys.readouterr().out
    assert f"{6 * (2 * 2 + 3)} models by 6 commands" in told and f"{2 * 5} models by 2 commands" in told
    assert told.count("--tuning_seeds=2") == 6


@pytest.mark.slow
def test_a_model_starts_from_what_was_trained_before_it(tmp_path):
    for scale in SCALES:
        of_scale = {training.name: training for training in SUITES["pretraining"].trainings(scale)}
        first, then = of_scale["listops-inputs"], of_scale["listops-after"]
        assert list(of_scale)[:3] == ["listops-inputs", "listops-after", "listops"]
        given = dict(word.removeprefix("--").split("=", 1) for word in then.arguments("softmax", tmp_path)[2:])
        assert f"--out={given['start_from']}" in first.arguments("softmax", tmp_path)
        [task], [wanted] = run.sweep(first, "softmax").tasks, run.sweep(then, "softmax").tasks
        assert task.inner == wanted and task.hidden == 0.1


# Scores


def row(kernel="Softmax()", task="a", length=8, rate=1e-3, decay=0.0, seed=0, accuracy=0.5, validation=None, **changes):
    found = dict.fromkeys(MODEL) | dict(zip(CHOSEN, (rate, decay), strict=True)) | {"kernel": kernel, "seed": seed}
    found |= {"task": task, "length": length, "status": "measured", "score": accuracy}
    return found | {"validation": -accuracy if validation is None else validation} | changes


SETTINGS = [Setting("a", 8, "one"), Setting("a", 16, "one"), Setting("b", 8, "two")]


def test_a_score_is_a_mean_over_parts_of_means_over_settings_of_what_validation_chose():
    rows = [
        row(accuracy=0.2),
        row(accuracy=0.9, rate=1e-2, validation=-0.1),  # better on test examples, and not chosen
        row(length=16, accuracy=0.6),
        row(length=16, accuracy=0.4, decay=0.1, seed=0, validation=-0.7),
        row(length=16, accuracy=1.0, decay=0.1, seed=1),
        row(task="b", accuracy=0.8),
        row(task="c", accuracy=1.0),
        row(kernel="Linear()", accuracy=0.5),
        row(kernel="Linear()", task="b", status="diverged"),
    ]
    exact, linear = score.scores(rows, SETTINGS).values()
    assert exact.parts == pytest.approx({"one": (0.2 + 0.7) / 2, "two": 0.8}) and exact.missing == 0
    assert exact.mean == pytest.approx((0.45 + 0.8) / 2)
    assert exact.seeds == pytest.approx({0: ((0.2 + 0.4) / 2 + 0.8) / 2}), "the other seed has one setting of three"
    assert linear == score.Score({}, 2, None)


def test_a_seed_has_a_score_at_the_rates_that_all_have_and_says_where_it_still_learned():
    falls = [(step, 12.0 - step) for step in range(12)]
    own = {0: (0.2, 0.6, 0.8), 1: (0.4, 0.8, 1.0)}
    rows = [
        row(task=each.task, length=each.length, seed=seed, accuracy=score, curve=falls if seed else [])
        for seed, scores in own.items() for each, score in zip(SETTINGS, scores, strict=True)
    ]  # fmt: skip
    [found] = score.scores(rows, SETTINGS).values()
    assert found.seeds == pytest.approx({0: (0.4 + 0.8) / 2, 1: (0.6 + 1.0) / 2})
    assert found.mean == pytest.approx(0.7) and found.falling == {1}


def test_a_rate_at_which_seeds_diverged_is_taken_where_all_are_such():
    [setting] = [each for each in SETTINGS if each.part == "two"]
    lost = [row(task="b", seed=seed, rate=1e-2, status="diverged", validation=None) for seed in range(4)]
    lucky = [*lost, row(task="b", seed=4, rate=1e-2, accuracy=1.0)]
    sound = [row(task="b", seed=seed, accuracy=0.9) for seed in range(5)]
    [found] = score.scores(lucky + sound, [setting]).values()
    assert found.mean == pytest.approx(0.9) and len(found.seeds) == 5
    [found] = score.scores(lucky, [setting]).values()
    assert found.seeds == {4: 1.0}


def test_accuracy_above_chance():
    assert [score.scaled(x, 0.2) for x in (0.2, 1.0, 0.6)] == pytest.approx([0, 1, 0.5])


# The command


def test_nothing_is_run_and_all_is_told(capsys, tmp_path):
    assert run.run(parsed(settings.Settings, suite="mad,flip_flop", dry_run=True, kernels="softmax", out=tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "12 models by 6 commands" in shown and "1 models by 1 commands" in shown and "arXiv:2306.00946" in shown
    assert shown.count("python -m experiments.accuracy") == 7 and "differs:" in shown and "scaled:" in shown
    assert not list(tmp_path.iterdir())


def test_commands_are_run_one_after_another_and_the_score_is_told(monkeypatch, capsys, tmp_path):
    called = []

    def trained(words):
        called.append(words)
        given = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
        [task], folder = tasks.parse_tasks(given["task"]), tmp_path / "small" / "mad" / given["out"].rsplit("/", 1)[1]
        assert str(folder) == given["out"]
        folder.mkdir(parents=True)
        for rate, accuracy in (("1e-3", 0.25), ("3e-3", 0.75)):
            made = row(task=repr(task), length=int(given["lengths"]), rate=float(rate), accuracy=accuracy, width=64)
            records.append(folder, made | {"learning_rate": float(rate)})
        return 0

    monkeypatch.setattr(children, "run", trained)
    assert run.run(parsed(settings.Settings, suite="mad", kernels="softmax", out=tmp_path)) == 0
    assert len(called) == 6 and all("--kernels=softmax" in words for words in called)
    assert not any(word.startswith(("--seeds", "--jobs")) for words in called for word in words)
    [found] = run.scored(SUITES["mad"], "small", tmp_path / "small" / "mad", range(1)).values()
    assert found.mean == 0.75 and list(found.parts) == list(TASKS)
    assert "75.0" in capsys.readouterr().out
    [kept] = json.loads((tmp_path / "small" / "mad" / run.SCORES).read_text())
    assert kept["kernel"] == "Softmax()" and kept["seeds"] == {"0": 0.75}
    shared = parsed(settings.Settings, seeds=5, first_seed=2, jobs=2).shared
    [one] = {run.sweep(training, "softmax", shared).first_seed for training in SUITES["mad"].small}
    assert one == 2 and "--seeds=5" in SUITES["mad"].small[0].command("softmax", tmp_path, shared)
    monkeypatch.setattr(children, "run", lambda words: 137)
    assert run.run(parsed(settings.Settings, suite="mad", out=tmp_path)) == 137


def test_the_arena_scores_a_kernel_whatever_its_sizes(capsys, tmp_path):
    suite = SUITES["lra"]
    for width, each in enumerate(run.settings_of(suite.small)):
        made = row(task=each.task, length=each.length, accuracy=0.5 + width / 10, width=width, positions=f"{width}")
        (tmp_path / each.part).mkdir()
        records.append(tmp_path / each.part, made)
    [(model, found)] = run.scored(suite, "small", tmp_path, range(1)).items()
    assert model == ("Softmax()",) and found.mean == pytest.approx(0.6)
    run._told("lra", suite, {model: found})
    assert "60.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"suite": "mda"}, "mda"),
        ({"hours": True}, "--dry_run"),
        ({"kernels": "sofmax"}, "did you mean 'softmax'"),
        ({"out": " "}, "--out is empty"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": 2, "tuning_seeds": 2}, "--tuning_seeds=2 of --seeds=2"),
    ],
)
def test_flags_that_mean_nothing_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parsed(settings.Settings, **flags)
