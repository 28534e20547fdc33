"""The ledger of published results: the rule, one verdict for each, commands that can be run, and a small run."""

import dataclasses
import pathlib
import shlex
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import pytest

import attnzoo
from attnzoo import Kernel, Softmax
from experiments.bench import memory as machine
from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.report import sections
from experiments.reproduce import analysis, ledger, page, presets, public, run, stepping, trainings, verdict
from experiments.reproduce.published import TABLES, Published, ratio, results
from experiments.reproduce.settings import Sizes
from experiments.reproduce.verdict import Reason, Verdict
from experiments.show import statistics
from experiments.show.statistics import Mean
from experiments.train import children
from experiments.train.sweep.cells import KEY as TRAINED
from experiments.train.sweep.cells import cells
from experiments.train.sweep.settings import Settings as Training

RESULTS = pathlib.Path(__file__).parents[1] / "results"
TINY = Sizes(width=8, heads=2, layers=1, feed_forward=8, shrink=125)


def settings(out, **changes):
    given = {"only": ("speed", "memory"), "models": ("softmax", "linear"), "lengths": (1000,)}
    return run.Settings(**given | {"batch": 1, "repeats": 5, "out": str(out), "sizes": TINY} | changes)


def published(table, task, model, length=None) -> Published:
    [found] = [
        result
        for result in results()
        if (result.table, result.task, result.model) == (table, task, model) and length in (None, result.length)
    ]
    return found


def entries(rows=None, out="o"):
    empty = {name: [] for name in (ledger.STEPS, *trainings.TRAININGS)}
    return [ledger.entry(result, empty | (rows or {}), out) for result in results()]


# The rule.


@pytest.mark.parametrize(
    ("value", "found"),
    [(88.99, "differs"), (89.01, "reproduced"), (97.99, "reproduced"), (98.01, "differs"), (93.5, "reproduced")],
)
def test_an_accuracy_is_within_the_interval_widened_by_a_point(value, found):
    assert verdict.of_accuracy(value, Mean(93.5, 90.0, 97.0)).verdict.value == found


def test_one_seed_decides_nothing():
    judged = verdict.of_accuracy(50.0, Mean(50.0, None, None))
    assert (judged.verdict, judged.reason) == (Verdict.NOT_COMPARABLE, Reason.NO_NUMBER)
    assert "one seed" in judged.detail


@pytest.mark.parametrize("published_ratio", [0.1, 1.0, 8.0])
def test_a_ratio_is_within_a_quarter_whichever_way_it_is_written(published_ratio):
    for factor, found in [(0.79, "differs"), (0.81, "reproduced"), (1.24, "reproduced"), (1.26, "differs")]:
        ours = factor * published_ratio
        assert verdict.of_ratio(published_ratio, ours).verdict.value == found
        assert verdict.of_ratio(1 / published_ratio, 1 / ours).verdict.value == found


def test_ratios_of_medians_have_an_interval_that_a_seed_decides():
    times, others = [2.0, 2.1, 1.9, 2.2, 30.0], [1.0, 1.1, 0.9, 1.0, 1.0]
    found = statistics.ratio(times, others)
    assert found.value == 2.1 and found.low < 2.1 < found.high
    assert found == statistics.ratio(times, others)


# The published results.


def test_every_published_result_is_there_once():
    counts = Counter(result.table for result in results())
    assert [counts[table] for table in TABLES] == [55, 21, 36, 14, 1] and len(results()) == 127
    assert len({(result.table, result.task, result.length, result.model) for result in results()}) == 127
    assert {result.task for result in results() if result.is_ratio} == {"text"}
    assert ratio(published("speed", "text", "performer", 4000)) == pytest.approx(8.0 / 1.4)
    assert ratio(published("memory", "text", "softmax", 4000)) == 1


def test_without_a_run_everything_is_not_comparable_for_one_of_five_reasons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judged = [entry.judgement for entry in entries()]
    assert len(Reason) == 5
    assert {one.verdict for one in judged} == {Verdict.NOT_COMPARABLE} and None not in {one.reason for one in judged}
    found = Counter((entry.result.table, entry.judgement.reason.name) for entry in entries())
    assert found["speed", "REFERENCE"] == found["memory", "REFERENCE"] == 4
    assert found["mqar", "NOT_RUN"] == 1
    for entry in entries():
        if not entry.result.is_ratio:
            is_here = entry.result.task in ("listops", "mqar")
            ready = Reason.NOT_RUN if is_here else Reason.NO_DATA
            assert entry.judgement.reason is (ready if entry.preset.faithful else Reason.OTHER_FORM), entry.result


def test_data_that_are_there_are_told_from_those_to_be_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = published("accuracy", "image", "softmax")
    reason = lambda result: ledger.entry(result, {name: [] for name in trainings.TRAININGS}, "o").judgement.reason
    assert reason(image) is Reason.NO_DATA
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert reason(image) is Reason.NOT_RUN
    assert {trainings.folder(setting) for setting in trainings.TRAININGS} == {
        None, "aclImdb", "cifar-10-batches-bin", "pathfinder32", "tsv_data",
    }  # fmt: skip


def test_every_result_has_a_command():
    assert all(entry.command for entry in entries())


def test_pictures_are_learned_by_models_of_the_sizes_that_the_public_code_gives_them():
    given = {
        model: trainings.TRAININGS[trainings.name(published("accuracy", "image", model))]
        for model in ("softmax", "longformer")
    }
    assert [given["softmax"][name] for name in trainings.SIZED] == [32, 1, 1, 64, "0.3", "cls", "0"]
    assert given["longformer"]["layers"] == 4 and given["longformer"]["steps"] == 35_000
    small = published("accuracy, small", "pathfinder", "softmax")
    assert trainings.name(small) == small.group == "pathfinder-small"
    assert set(trainings.DEVIATIONS) == {result.group for result in results() if not result.is_ratio}
    assert "block_size=64" in presets.preset(published("accuracy", "pathfinder", "local")).faithful


@pytest.mark.parametrize(("experiment", "its"), [("accuracy", Training), ("reproduce", run.Settings)])
def test_every_command_is_understood_by_the_flags_that_it_is_for(experiment, its):
    commands = {entry.command for entry in entries() if f"-m experiments.{experiment} " in entry.command}
    assert len(commands) > 10
    for command in commands:
        _, _, _, *words = shlex.split(command)
        parsed(its, **dict(word.removeprefix("--").split("=", 1) for word in words))


def test_the_kernels_of_presets_are_in_the_catalogue():
    texts = {text for result in results() for text in presets.preset(result) if text}
    assert len(texts) > 15 and all(presets.kernel(text) is not None for text in texts)


def test_what_the_public_code_ran_stands_beside_what_the_paper_means():
    of = lambda *names: presets.preset(published(*names))
    assert of("accuracy", "listops", "performer") == ("performer(features=2)", "performer(features=256)")
    assert "relu" in of("speed", "text", "performer", 1000).faithful
    assert "strided" in of("speed", "text", "local", 1000).faithful
    assert of("accuracy", "text", "sinkhorn").faithful is None and of("speed", "text", "sinkhorn", 1000).faithful
    assert of("accuracy", "text", "softmax").faithful == "softmax"
    assert "CausalSparse" in of("accuracy", "listops", "sparse_transformer").faithful
    assert "contiguous" in of("speed", "text", "local", 1000).corrected
    assert "chunk_size=300" in of("speed", "text", "reformer", 3000).faithful


# The kernels of the public code.


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [None, [9, 5]])
def test_scores_that_are_kept_give_exact_attention_and_its_gradients(lengths):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 9, heads, 8)) for i, heads in enumerate((4, 2, 2)))
    added = jax.random.normal(jax.random.key(3), (4, 12, 12))
    lengths = None if lengths is None else np.array(lengths)

    def both(kernel, **given):
        given |= {"key_value_seq_lengths": lengths, "query_seq_lengths": lengths, "kernel": kernel}
        loss = lambda q, k, v, added: (attnzoo.attend(q, k, v, **given, **_learned(kernel, added)) ** 2).sum()
        return jax.value_and_grad(loss, (0, 1, 2))(q, k, v, added)

    exact = lambda bias: both(Softmax(), bias=bias)
    for got, expected in [
        (both(public.MaterialisedSoftmax()), exact(None)),
        (both(public.MixedSynthesizer()), exact(added[None, :, :9, :9])),
        (both(public.MixedSynthesizer(), implementation="reference"), exact(added[None, :, :9, :9])),
    ]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize(
    ("implementation", "has_class", "length", "offset"),
    [
        pytest.param(name, has_class, *place, marks=[pytest.mark.slow] * (place != (16, 3)))
        for name in (None, "reference")
        for has_class in (True, False)
        for place in ((16, 0), (16, 3), (16, -3), (1, 0))
    ],
)
def test_the_public_sparse_transformer_sees_what_its_mask_shows(implementation, has_class, length, offset):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, length, heads, 8)) for i, heads in enumerate((4, 2, 2)))
    shown = np.zeros((length, length), bool)
    for row, column in np.ndindex(length, length):
        i, j = row + offset - has_class, column - has_class
        shown[row, column] = (j <= i and (i // 4 == j // 4 or j % 4 in (0, 3))) or (has_class and min(i, j) < 0)
    kernel = public.CausalSparseTransformer(block_size=4, summary=1, has_class=has_class)

    def both(**given):
        sizes = np.array([length, min(length, 9)])
        loss = lambda q, k, v: (attnzoo.attend(q, k, v, key_value_seq_lengths=sizes, **given) ** 2).sum()
        return jax.value_and_grad(loss, (0, 1, 2))(q, k, v)

    got, expected = both(kernel=kernel, implementation=implementation, query_offset=offset), both(mask=shown)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)
    with pytest.raises(NotImplementedError, match="CausalSparseTransformer cannot honour `is_causal`"):
        both(kernel=kernel, is_causal=True)


def _learned(kernel, added) -> dict:
    return {"params": added} if isinstance(kernel, public.MixedSynthesizer) else {}


# Runs.


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    chosen = settings(tmp_path_factory.mktemp("reproduce"))
    assert run.run(chosen) == 0
    return chosen


@pytest.mark.slow
def test_steps_are_timed_beside_the_reference_and_not_again(ran):
    rows = records.read(ran.out)
    kernels = {"MaterialisedSoftmax()", "Softmax()", "Linear(feature_map='elu+1', epsilon=1e-06)"}
    assert {(row["kernel"], row["length"]) for row in rows} == {(name, 1000) for name in kernels}
    assert all(row["status"] == "measured" and len(row["reference"]["seconds"]) == 5 for row in rows)
    assert run.run(ran) == 0
    assert records.read(ran.out) == rows


@pytest.mark.slow
def test_a_run_leaves_verdicts_a_figure_and_a_ledger(ran):
    rows = run.read(ran)
    found = {(entry.result.table, entry.result.model, entry.result.length): entry for entry in entries(rows, ran.out)}
    speed, memory = found["speed", "linear", 1000], found["memory", "linear", 1000]
    [row] = [row for row in rows[ledger.STEPS] if row["name"] == "linear" and row["length"] == 1000]
    assert speed.faithful.value.value == np.median(row["reference"]["seconds"]) / np.median(row["seconds"])
    assert memory.faithful.value.value == row["needed_bytes"] / row["reference"]["needed_bytes"]
    for entry in (speed, memory):
        is_near = 0.8 <= entry.faithful.value.value / ratio(entry.result) <= 1.25
        assert entry.judgement.verdict is (Verdict.REPRODUCED if is_near else Verdict.DIFFERS)
    softmax = found["speed", "softmax", 1000]
    assert softmax.judgement.reason is Reason.REFERENCE and softmax.corrected.value.value > 0
    assert found["speed", "linear", 4000].judgement.reason is Reason.NOT_RUN
    out = run.pathlib.Path(ran.out)
    assert (out / "ratios.png").stat().st_size > 5000
    shown, written = (out / "ledger.html").read_text(), (out / "ledger.md").read_text()
    assert all(reason.value.replace("'", "&#39;") in shown for reason in Reason) and "widened" in shown
    assert written.count("| text 1,000 |") == 9 + 6 and written.count("| python -m") > 60


def test_a_run_that_was_interrupted_goes_on(ran, tmp_path, monkeypatch):
    chosen = dataclasses.replace(ran, out=str(tmp_path))
    known, append = records.read(ran.out), records.append

    def interrupted(out, row, *rest):
        append(out, row, *rest)
        if len(records.read(out)) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(stepping, "rows", lambda settings, todo: replayed(known, todo))
    monkeypatch.setattr(records, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(chosen)
    monkeypatch.setattr(records, "append", append)
    _, todo = run.EXPERIMENT.todo(chosen)
    assert len(todo) == 1 and not (tmp_path / "ledger.html").exists()
    assert run.run(chosen) == 0
    assert len(records.read(tmp_path)) == 3 and (tmp_path / "ledger.html").exists()


def replayed(known, todo):
    same = lambda row, cell: all(row[name] == cell.row[name] for name in ("kernel", "length"))
    yield from (row for cell in todo for row in known if same(row, cell))


@dataclasses.dataclass(frozen=True)
class Refusing(Kernel):
    """It has no form in which an encoder could use it."""

    supports = attnzoo.Support(bidirectional=False, causal=True)


@dataclasses.dataclass(frozen=True)
class Broken(Kernel):
    """A bug."""

    def head(self, params, draws, q, k, v, visible):
        return q + None


@pytest.mark.slow
def test_what_cannot_be_timed_is_a_row_and_no_number(tmp_path, monkeypatch):
    names = [f"{__name__}.{cls.__name__}" for cls in (Refusing, Broken)]
    monkeypatch.setitem(presets.LRA, "linear", presets.Preset(*names))
    chosen = settings(tmp_path, models=("linear",), lengths=(1000,))
    assert run.run(chosen) == 1
    assert {row["name"]: row["status"] for row in records.read(tmp_path)} == {
        "MaterialisedSoftmax": "measured",
        "Refusing": "refused",
        "Broken": "failed",
    }
    entry = ledger.entry(published("speed", "text", "linear", 1000), run.read(chosen), "o")
    assert entry.judgement.reason is Reason.NO_NUMBER and entry.judgement.detail


@pytest.mark.slow
def test_what_does_not_fit_has_its_memory_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 1.0)
    chosen = settings(tmp_path, models=("linear",), lengths=(1000,))
    assert run.run(chosen) == 0
    rows = run.read(chosen)
    speed, memory = (ledger.entry(published(table, "text", "linear", 1000), rows, "o") for table in ("speed", "memory"))
    assert speed.judgement.reason is Reason.NO_NUMBER and "GiB" in speed.judgement.detail
    assert memory.faithful.value is not None and memory.judgement.reason is None
    monkeypatch.undo()
    assert len(run.EXPERIMENT.todo(chosen)[1]) == 2


def test_trained_models_are_commands_whose_rows_are_judged(tmp_path, monkeypatch):
    monkeypatch.setitem(trainings.TRAININGS["mqar"], "learning_rates", "5e-3,1e-2")
    started = []

    def accuracy(words):
        started.append(words)
        flags = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
        out = run.pathlib.Path(flags["out"])
        out.mkdir(parents=True)
        for rate, seed in [(float(rate), seed) for rate in flags["learning_rates"].split(",") for seed in range(5)]:
            records.append(out, trained(rate, seed, score=0.995 + 0.001 * seed if rate == 5e-3 else 0.3))
        return 0

    monkeypatch.setattr(children, "run", accuracy)
    chosen = settings(tmp_path, only=("mqar",), models=("softmax",), lengths=())
    assert run.run(chosen) == 0
    [words] = started
    assert words[:2] == ["-m", "experiments.accuracy"] and "--kernels=softmax" in words
    entry = ledger.entry(published("mqar", "mqar", "softmax"), run.read(chosen), "o")
    assert entry.judgement.verdict is Verdict.REPRODUCED and entry.faithful.value.value == pytest.approx(99.7)
    half = {"mqar": run.read(chosen)["mqar"][:7]}
    [entry] = [entry for entry in entries(half) if entry.result.table == "mqar"]
    assert entry.judgement.reason is Reason.NOT_RUN and "7 of 10 models trained" in entry.judgement.detail
    for change in ({"steps": 3}, {"dropout": 0.5}, {"dtype": "bfloat16"}, {"schedule": "rsqrt"}, {"width": 8}):
        others = {"mqar": [row | change for row in run.read(chosen)["mqar"]]}
        assert {entry.judgement.reason for entry in entries(others) if entry.result.table == "mqar"} == {Reason.NOT_RUN}
    lost = {"status": "diverged", "reason": "the loss was no number", "score": None, "validation": None}
    less = {"mqar": [row | (lost if row["seed"] < 2 else {}) for row in run.read(chosen)["mqar"]]}
    [entry] = [entry for entry in entries(less) if entry.result.table == "mqar"]
    assert entry.judgement.reason is Reason.NO_NUMBER and "2 of 5 seeds" in entry.judgement.detail
    monkeypatch.setattr(children, "run", lambda words: 75)
    assert run.run(chosen) == 75


def trained(rate, seed, score) -> dict:
    """A row as the accuracy experiment leaves it."""
    chosen = parsed(Training, **trainings.TRAININGS["mqar"] | {"kernels": "softmax", "learning_rates": rate})
    row = next(cells(chosen)).row(chosen) | {"seed": seed, "status": "measured"}
    assert set(TRAINED) <= set(row)
    return row | {"score": score, "validation": -score, "baselines": {}, "parameters": 1}


def test_a_dry_run_tells_what_is_to_do_and_does_nothing(tmp_path, capsys):
    assert run.run(settings(tmp_path / "o", only=("speed", "mqar"), dry_run=True)) == 0
    shown = capsys.readouterr().out
    assert "3 steps to time" in shown and "Softmax() at 1,000" in shown
    assert "mqar: python -m experiments.accuracy" in shown
    assert not (tmp_path / "o").exists()


def test_one_form_may_be_measured_alone(tmp_path):
    both, faithful = (settings(tmp_path, forms=forms) for forms in (("faithful", "corrected"), ("faithful",)))
    assert run.steps(faithful) == [pair for pair in run.steps(both) if pair[0] != Softmax()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only=sped"], "--only has 'sped': expected some of speed, memory"),
        (["--models=transformer"], "--models has 'transformer': expected some of softmax"),
        (["--lengths=999"], "no published result is all of these"),
        (["--repeats=2"], "--repeats=2: expected at least 5"),
        (["--batch=0"], "--batch=0: expected at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_flags_end_with_one_line(words, message, tmp_path):
    command = [sys.executable, "-m", "experiments.reproduce", "--only=speed", *words, f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_table_shows_both_kernels_and_the_command():
    [entry] = [one for one in entries() if one.result == published("speed", "text", "performer", 4000)]
    header, [line] = page.table([entry])
    shown = dict(zip(header, line, strict=True))
    assert shown["published"] == "8 1/s, ratio 5.71" and shown["verdict"] == "not comparable"
    assert "relu" in shown["as the public code ran"] and "256" in shown["as the paper means it"]
    assert shown["command"] == "python -m experiments.reproduce --only=speed --models=performer --lengths=4000 --out=o"


def test_numbers_of_a_table_are_known_and_commands_measure_the_same_again():
    rows = records.latest(records.read(RESULTS / "reproduce"), stepping.KEY).values()
    _, _, speeds, memories = analysis.summaries(list(rows))
    assert len(speeds.lines) == 36 and len(memories.lines) == 14
    for line in speeds.lines + memories.lines:
        _, _, told, faithful, _, verdict, *_ = line
        shown = float(told.partition("ratio ")[2])
        assert told.value == pytest.approx(shown, abs=0.005) and faithful.value == pytest.approx(
            float(faithful.split()[0]), rel=0.01
        )
        is_near = shown / 1.25 <= faithful.value <= 1.25 * shown
        assert verdict == ("reproduced" if is_near else "differs") or "softmax" in line
    [entry] = [
        one
        for one in entries({ledger.STEPS: list(rows)})
        if one.result == published("speed", "text", "performer", 4000)
    ]
    assert "--batch=1 --repeats=5" in entry.command


def test_models_of_a_published_setting_have_a_verdict_on_the_page_and_others_none():
    rows = records.read(RESULTS / "reproduce" / "mqar")
    [table] = analysis.of_models(rows)
    [line] = table.lines
    assert "mqar" in table.title and line[:3] == ["mqar 64", "softmax", "99 %"] and "reproduced" in line
    assert analysis.of_models([row | {"weight_decay": 0.0} for row in rows]) == []
    fetched_before = [row | {"digest": "old", "score": 0.5} for row in rows]
    assert analysis.of_models(fetched_before + rows) == [table]
    [found] = sections.split(rows)
    assert table in found.summaries()
