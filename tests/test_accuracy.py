"""The accuracy experiment, small and whole: cells, limits, learning rates, statistics, and what a rerun does."""

import dataclasses
import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from scipy import stats

from attnzoo import ALiBi, GatedDelta, LearnedPositions, Linear, Linformer, Nystrom, Rotary, SlidingWindow, Softmax
from experiments.bench import compile_cache, locks, outcome, records, workers
from experiments.bench.settings import parsed
from experiments.report.page import write
from experiments.show import figures, statistics, tables
from experiments.tasks import text
from experiments.tasks.induction import Induction
from experiments.tasks.listops import ListOps
from experiments.tasks.mqar import MQAR
from experiments.tasks.needle import Needle
from experiments.tasks.retrieval import FILES, Retrieval
from experiments.tasks.text import MaskedText, Text
from experiments.train import language, steps
from experiments.train.sweep import analysis, matching, models, plot, run
from experiments.train.sweep.cells import cells, heard
from experiments.train.sweep.settings import Settings


def settings(out, **changes):
    chosen = {
        "tasks": (Text(), MaskedText()),
        "kernels": (Softmax(), Nystrom(landmarks=4)),
        "positions": (LearnedPositions(),),
        "lengths": (16,),
        "widths": (8,),
        "learning_rates": (1e-2,),
        "seeds": 1,
        "steps": 3,
        "tokens": 64,
        "layers": 1,
        "heads": 2,
        "feed_forward": 0,
        "norm": "before",
        "pooling": "mean",
        "dropout": 0.0,
        "warmup": 1,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "dtype": "float32",
        "test_examples": 8,
        "eval_lengths": (),
        "validate_every": 0,
        "match": "none",
        "save_every": 0,
        "minutes": 0.0,
        "memory": 0.0,
        "isolate": False,
        "shard": None,
        "out": str(out),
    }
    return Settings(**(chosen | changes))


@dataclasses.dataclass(frozen=True)
class Größe(Linear):
    """A kernel of someone else's, with a name that is no name for a folder."""


def measured(out):
    return [row for row in records.read(out) if row["status"] == "measured"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Settings of a sweep that is done."""
    chosen = settings(tmp_path_factory.mktemp("accuracy") / "accuracy")
    assert run.run(chosen) == 0
    return chosen


def softmax(out, **changes):
    return settings(out, tasks=(Text(),), kernels=(Softmax(),), **changes)


def test_a_run_measures_refuses_draws_and_is_not_repeated(ran):
    out = pathlib.Path(ran.out)
    rows = records.read(out)
    assert [row["status"] for row in rows] == ["measured", "refused", "measured", "measured"]
    assert all(4 < row["bits"] < 9 and len(row["bits_by_position"]) == 16 for row in measured(out))
    assert {path.stem for path in out.glob("*.png")} == {"score_text", "score_masked_text", "bubbles_masked_text"}
    run.run(ran)
    assert records.read(out) == rows
    page = write(out.parent, out.parent / "report.html").read_text()
    assert "MaskedText(rate=0.15)" in page and rows[0]["digest"] in page


def test_scores_are_of_all_examples_and_not_of_batches():
    chosen = settings("unused", tasks=(Induction(symbols=2),), kernels=(Softmax(),), lengths=(16,), test_examples=7)
    [only] = cells(chosen)
    model = models.build(chosen, only)
    whole, parts = (
        models.scores(dataclasses.replace(chosen, tokens=tokens), only, model, "test", 16)
        for tokens in (7 * 16, 2 * 16)
    )
    positions = parts.pop("bits_by_position"), whole.pop("bits_by_position")
    assert positions[0] == pytest.approx(positions[1])
    assert parts == pytest.approx(whole) and 0 < whole["exact_match"] < 1


def test_runs_are_repeatable_and_a_process_of_its_own_changes_nothing(ran, tmp_path):
    assert run.run(softmax(tmp_path / "again")) == 0
    assert run.run(softmax(tmp_path / "apart", isolate=True)) == 0
    first, [again], [apart] = measured(ran.out)[0], measured(tmp_path / "again"), measured(tmp_path / "apart")
    assert first["bits"] == again["bits"] and first["curve"] == again["curve"]
    assert first["needed_bytes"] == again["needed_bytes"] > 4 * first["parameters"]
    assert abs(first["bits"] - apart["bits"]) < 1e-4  # the suite compiles with fewer optimisations


def test_models_are_left_and_the_best_causal_one_of_text_is_found(ran, tmp_path):
    rows = measured(ran.out)
    assert len({row["checkpoint"] for row in rows}) == len(rows) == 3
    folder = language.find(ran.out)
    [best] = [row for row in rows if row["is_causal"]]
    assert folder.name == best["checkpoint"]
    first = next(cells(ran))
    assert models.scores(ran, first, language.load(folder)[1], "test", 16)["bits"] == best["bits"]
    with pytest.raises(ValueError, match="has neither a checkpoint nor rows of a causal model of text"):
        language.find(tmp_path / "nothing")
    exact = language.find_exact(ran.out)
    assert exact.name == best["checkpoint"] and best["kernel"] == "Softmax()"
    with pytest.raises(ValueError, match="rows of a model of text with exact attention"):
        language.find_exact(tmp_path / "nothing")


def test_a_run_that_diverges_is_a_row_and_an_exit_code(tmp_path):
    assert run.run(softmax(tmp_path, learning_rates=(1e30,), warmup=0)) == 1
    [row] = records.read(tmp_path)
    assert row["status"] == "diverged" and "was no number at step" in row["reason"]


def test_a_cell_is_told_to_another_process_and_heard():
    for one in cells(settings("", tasks=(MQAR(pairs=2), Text()), positions=(ALiBi(), LearnedPositions()))):
        assert heard(json.loads(json.dumps(one.told()))) == one


def test_names_of_folders_are_plain_and_differ():
    chosen = settings("", tasks=(MQAR(pairs=2), Text()), kernels=(Softmax(), Größe()), seeds=2, lengths=(8, 16))
    names = [one.name(chosen) for one in cells(chosen)]
    assert len(set(names)) == len(names) == 16
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) for name in names)
    assert names[0] != next(cells(dataclasses.replace(chosen, steps=4))).name(dataclasses.replace(chosen, steps=4))


LIMITS = {
    "time": ({"minutes": 1e-3, "save_every": 1}, r"took more than --minutes=0.001; what it has saved is kept"),
    "memory": ({"memory": 0.25}, r"out of memory, --memory=0.25 GiB: .* the program itself takes 0\.\d+ GiB"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_cell_beyond_its_limits_is_a_row_and_the_rest_go_on(tmp_path, limit):
    changes, message = LIMITS[limit]
    assert run.run(softmax(tmp_path, isolate=True, **changes)) == 1
    [row] = records.read(tmp_path)
    assert row["status"] == "failed"
    assert re.search(message, row["reason"])
    assert run.run(softmax(tmp_path)) == 0
    assert len(records.read(tmp_path)) == 2


@pytest.mark.parametrize(
    "ended",
    [
        "exit code 1: MemoryError",
        "exit code 1: jaxlib.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.",
        "exit code 1: OSError: [Errno 12] Cannot allocate memory",
        "exit code 127: cannot allocate memory for thread-local data: ABORT",
        "exit code 1: ImportError: /lib/libjax.so: failed to map segment from shared object",
    ],
)
def test_every_word_for_no_memory_is_understood(ended):
    """Which allocation fails first is chance: Python's, XLA's, the system's or that of the C library and its loader."""
    row = run._ended(softmax("unused"), types.SimpleNamespace(code=1, ended=ended))
    assert row["limit"] == "memory" and row["reason"] == f"out of memory: {ended}"


@pytest.mark.parametrize(
    "ended", ["SIGSEGV: no message", "exit code 1: SystemError: error return without exception set"]
)
def test_what_ends_without_a_word_is_memory_under_a_limit_alone(ended):
    row = lambda **given: run._ended(
        softmax("unused", isolate=True, **given), types.SimpleNamespace(code=1, ended=ended)
    )
    assert row(memory=1)["reason"] == f"out of memory, --memory=1 GiB: {ended}"
    assert row() == {"status": "failed", "reason": ended}


def test_a_kernel_that_breaks_before_training_leaves_the_others(tmp_path, monkeypatch):
    refusal = models.refusal
    broken = lambda settings, one: refusal(settings, one) if one.kernel == Softmax() else 1 / 0
    monkeypatch.setattr(models, "refusal", broken)
    assert run.run(settings(tmp_path, tasks=(Text(),), kernels=(Linear(), Softmax()))) == 1
    assert [row["status"] for row in records.read(tmp_path)] == ["failed", "measured"]


def test_a_score_that_is_no_number_is_divergence(tmp_path, monkeypatch):
    scores = models.scores
    monkeypatch.setattr(models, "scores", lambda *given: scores(*given) | {"bits": float("nan")})
    assert run.run(softmax(tmp_path)) == 1
    [row] = records.read(tmp_path)
    assert row["status"] == "diverged" and "score" not in row and "no number" in row["reason"]


def test_a_cell_is_forgotten_after_its_row_is_there(tmp_path, monkeypatch):
    append, kept = records.append, []
    monkeypatch.setattr(
        records,
        "append",
        lambda out, row, part: (kept.extend((out / models.RUNNING).glob("*/step_*")), append(out, row, part)),
    )
    assert run.run(softmax(tmp_path, save_every=1)) == 0
    assert kept and not list((tmp_path / models.RUNNING).iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, r"--dropout=1.0: expected a share in \[0, 1\)"),
        ({"minutes": 1.0}, "pass --isolate"),
        ({"memory": 1.0}, "pass --isolate"),
        ({"batch": 4}, "--batch=4 and --tokens=64 exclude each other"),
        ({"examples": 9}, "--examples=9 are batches of as many each"),
        ({"jobs": 2}, "--jobs=2 are processes of a cell each: pass --isolate"),
        ({"patience": 3, "schedule": "rsqrt"}, "--patience=3 with --validate_every=0 .*: expected steps between"),
        ({"patience": 3, "validate_every": 2}, "--schedule=cosine: .* and rsqrt"),
        ({"pooling": "cls"}, "--pooling=cls is of models that tell a class"),
        ({"pairing": "joined"}, "--pairing=joined is of models that meet pairs of documents"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings("unused", **changes)


def test_several_rates_need_no_other_flag():
    chosen = parsed(
        Settings,
        task="mqar",
        kernels="softmax, sliding_window(left={16,64}), performer(features={64,256})",
        lengths="64,256",
        seeds=5,
        learning_rates="3e-4,1e-3",
    )
    assert len(list(cells(chosen))) == 5 * 2 * 5 * 2
    assert next(cells(chosen)).plan(chosen).validate_every == chosen.steps


def test_one_cell_that_fails_leaves_the_others(tmp_path, monkeypatch):
    train = models.train

    def fails(settings, one, told):
        if one.seed == 0:
            raise RuntimeError("it broke\nhere")
        return train(settings, one, told)

    monkeypatch.setattr(models, "train", fails)
    chosen = softmax(tmp_path, seeds=2)
    assert run.run(chosen) == 1
    rows = records.read(tmp_path)
    assert [row["status"] for row in rows] == ["failed", "measured"]
    assert rows[0]["reason"] == "RuntimeError: it broke"
    monkeypatch.undo()
    assert run.run(chosen) == 0
    assert [row["seed"] for row in records.read(tmp_path)[2:]] == [0]


@pytest.mark.slow
def test_classes_and_answers_have_accuracies_and_baselines(tmp_path):
    tasks = (ListOps(None, None), MQAR(pairs=2, vocabulary=64), Needle(digits=1))
    chosen = {"kernels": (Softmax(),), "lengths": (48,), "validate_every": 2, "eval_lengths": (64,)}
    assert run.run(settings(tmp_path, tasks=tasks, **chosen)) == 0
    listops, mqar, needle = measured(tmp_path)
    assert listops["metric"] == mqar["metric"] == "accuracy"
    assert listops["score"] == listops["accuracy"]
    assert set(listops["baselines"]) == {"chance", "majority", "root operator"}
    assert mqar["baselines"] == {"chance": 0.5}
    assert set(mqar["by_length"]) == {"64"} and "checkpoint" in mqar and "checkpoint" not in listops
    assert [step for step, _ in mqar["validations"]] == [2, 3] and mqar["best_step"] in (2, 3)
    assert mqar["state_bytes"] == 2 * 48 * 8 * 4
    assert len(needle["probes"]) == 11 and set(needle["probes"]["0.5"]) == {"48", "64"} and not mqar["probes"]
    names = {"score_listops.png", "score_mqar.png", "score_needle.png", "probes_needle.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == names


def test_what_one_cell_ends_is_its_row_and_others_of_its_program_have_a_new_process(tmp_path, monkeypatch):
    begun = []

    class Process:
        """One that dies at seed 1, and serves all else."""

        def __init__(self, module, task, seconds, defaults):
            assert defaults == workers.HUGE_PAGES
            self.ended, self.code, self.warnings = None, 0, []
            begun.append([])

        def tell(self, cell):
            self.cell = cell

        def __iter__(self):
            while self.cell is not None:
                begun[-1].append(self.cell["seed"])
                if self.cell["seed"] == 1:
                    self.ended, self.code = "SIGSEGV: no message", -11
                    return
                yield {"step": 1}
                yield {"row": {"status": "refused", "reason": str(self.cell["seed"])}}

        def renew(self):
            pass

    monkeypatch.setattr(run, "Worker", Process)
    chosen = softmax(tmp_path, seeds=4, isolate=True)
    assert run.run(chosen) == 1 and begun == [[0, 1], [2, 3]]
    rows = records.read(tmp_path)
    assert [(row["seed"], row["status"]) for row in rows] == [
        (0, "refused"), (1, "failed"), (2, "refused"), (3, "refused")]  # fmt: skip
    assert rows[1]["reason"] == "SIGSEGV: no message"


def test_programs_are_kept_in_the_folder_unless_the_environment_names_another(tmp_path, monkeypatch):
    kept = jax.config.jax_compilation_cache_dir
    compile_cache.keep(tmp_path)
    assert jax.config.jax_compilation_cache_dir == kept and run.EXPERIMENT.keeps_programs
    updated = {}
    monkeypatch.setattr(compile_cache, "_given", lambda: None)
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    compile_cache.keep(tmp_path)
    folder = pathlib.Path(updated["jax_compilation_cache_dir"])
    assert folder.parent == tmp_path / "programs" and re.fullmatch("[0-9a-f]{12}", folder.name)


def test_parameters_are_matched_where_that_is_asked_for():
    counts = {}
    for match in ("none", "params"):
        chosen = settings("", tasks=(MaskedText(),), kernels=(Softmax(), Linformer(rank=8)), widths=(16,), match=match)
        counts[match] = [steps.parameter_count(models.build(chosen, one)) for one in cells(chosen)]
    (plain, other), (same, near) = counts.values()
    assert plain == same
    assert abs(near / same - 1) < 0.01 < other / plain - 1


def test_states_are_matched_where_that_is_asked_for(tmp_path):
    """A recurrence sets what heads of the others keep: fewer keys, or fewer heads, which are then larger."""
    kernels = (GatedDelta(), Softmax(), Linear(), SlidingWindow(left=1, right=0), Nystrom(landmarks=4))
    chosen = settings(tmp_path, tasks=(Text(),), kernels=kernels, widths=(32,), lengths=(32,), match="state", heads=1)
    each = list(cells(chosen))
    assert [heard(cell.told()) for cell in each] == each
    first, exact, linear, window, without = each
    assert (first.match[:2], exact.match[:2], linear.match[:2], without.match) == ((1, 1), (2, 1), (1, 1), None)
    wanted = 32 * 32 * 4
    rows = [cell.row(chosen) for cell in (first, exact, linear)]
    assert {(row["match"], row["heads"], row["wanted_state_bytes"]) for row in rows} == {
        ("state of 4,096 bytes", 1, wanted)
    }
    assert exact.state_bytes(chosen) == first.state_bytes(chosen) == wanted
    assert [row["matched"] for row in rows] == [f"heads={heads}, kv_heads=1" for heads in (1, 2, 1)]
    assert models.built(chosen, exact)[0].startswith("Softmax(); width=32; num_heads=2; num_kv_heads=1")
    assert matching.refusal(chosen, first) is matching.refusal(chosen, exact) is None
    reason = matching.refusal(chosen, window)
    assert "--match=state: SlidingWindow(left=1, right=0) keeps 256 B at best" in reason and "4 KiB: expected" in reason
    assert (
        "Nystrom(landmarks=4) or GatedDelta, the first of --kernels, keeps no state"
        in models.refusal(
            dataclasses.replace(chosen, tasks=(MaskedText(),)), dataclasses.replace(without, task=MaskedText())
        )["reason"]
    )
    doubled = dataclasses.replace(chosen, heads=2, conv_width=3)
    assert [cell.match[:2] for cell in list(cells(doubled))[:3]] == [(2, 2), (4, 1), (2, 2)], "convolutions count"


def test_matched_states_are_listed_and_told_beside_what_was_wanted(tmp_path, capsys, monkeypatch):
    chosen = settings(tmp_path, tasks=(Text(),), kernels=(Linear(), Softmax()), match="state", heads=1)
    monkeypatch.setattr(models, "refusal", lambda *_: None)
    monkeypatch.setattr(models, "step_flops", lambda *_: None)
    assert run.run(dataclasses.replace(chosen, dry_run=True)) == 0
    assert "heads=4, kv_heads=1" in " ".join(capsys.readouterr().out.split())
    found = {"status": "measured", "score": 4.0, "validation": 4.0, "parameters": 9, "baselines": {}}
    rows = [cell.row(chosen) | found | {"state_bytes": cell.state_bytes(chosen)} for cell in cells(chosen)]
    wanted = rows[0]["state_bytes"]
    assert rows[1]["state_bytes"] == 256 and all(row["wanted_state_bytes"] == wanted for row in rows)
    summary = analysis.summarise(rows)
    assert [entry["state_mismatch"] for entry in summary] == [0, pytest.approx(256 / wanted - 1)]
    assert summary[0]["difference"] is not None, "both are of one setting"
    header, lines = analysis.table(summary)
    assert [line[header.index("matched")] for line in lines] == ["heads=1, kv_heads=1", "heads=4, kv_heads=1"]
    with pytest.raises(ValueError, match="--kv_heads=1 with --match=state, which chooses them"):
        dataclasses.replace(chosen, kv_heads=1)


def test_shards_share_a_folder_and_are_the_whole(tmp_path, monkeypatch):
    chosen, drawn = softmax(tmp_path, seeds=3), []
    monkeypatch.setattr(plot, "draw", lambda rows, *_: drawn.append([row["seed"] for row in rows]))
    for index in (0, 1):
        assert run.run(dataclasses.replace(chosen, shard=(index, 2))) == 0
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"rows-0-of-2.jsonl", "rows-1-of-2.jsonl"}
    rows = records.read(tmp_path)
    assert [row["seed"] for row in rows] == [0, 2, 1]
    assert run.run(chosen) == 0
    assert records.read(tmp_path) == rows
    assert drawn == [[0, 2], [0, 1, 2], [0, 1, 2]]


def test_settings_are_those_of_flags_and_their_defaults():
    chosen = parsed(Settings, task="copy", lengths="16:32", seeds=3, tied=True)
    assert (chosen.lengths, chosen.seeds, chosen.tied, chosen.steps) == ((16, 32), 3, True, 200)
    assert (chosen.count(16), chosen.count(32), len(chosen.learning_rates)) == (32, 32, 4)
    assert parsed(Settings, task="copy", tokens=512, lengths="16:32").count(32) == 16
    assert parsed(Settings, task="copy", batch=8, examples=100).steps == 13
    with pytest.raises(ValueError, match="--tied is of models that predict tokens: listops"):
        parsed(Settings, task="listops", tied=True)


def test_a_second_sweep_in_a_folder_is_refused(tmp_path):
    with locks.writing(tmp_path, "0-of-2"):
        for part in ("", "0-of-2", "0-of-3", "1-of-3"):
            with pytest.raises(ValueError, match="another run is writing into"), locks.writing(tmp_path, part):
                pass
        with locks.writing(tmp_path, "1-of-2"):
            pass
    with locks.writing(tmp_path, "0-of-3"), locks.writing(tmp_path, "2-of-3"):
        pass


def test_kernels_of_one_name_are_two(tmp_path):
    """What someone else calls Softmax is not exact attention, and has a row and a checkpoint of its own."""
    other = dataclasses.dataclass(frozen=True)(type("Softmax", (Softmax,), {"__module__": "elsewhere"}))()
    chosen = softmax(tmp_path)
    ours, theirs = (dataclasses.replace(next(cells(chosen)), kernel=kernel) for kernel in (Softmax(), other))
    assert repr(ours.kernel) == repr(theirs.kernel)
    assert ours.row(chosen)["kernel"] == "Softmax()" and theirs.row(chosen)["kernel"] == "elsewhere.Softmax()"
    assert ours.name(chosen) != theirs.name(chosen)


def test_cells_are_listed_with_hours(ran, tmp_path, capsys):
    run.run(dataclasses.replace(ran, out=str(tmp_path), dry_run=True))
    out = capsys.readouterr().out
    assert "3 of 4 cells to do, 1 refused" in out and "none is measured" in out
    assert "refused: Nystrom cannot serve" in out
    run.run(dataclasses.replace(ran, seeds=2, dry_run=True))
    out = capsys.readouterr().out
    assert "3 of 8 cells to do, 1 refused" in out and "as rows here have reached" in out


COMMAND = (
    "--task=mqar(pairs=2,vocabulary=16) --kernels=softmax --lengths=16 --widths=8 --layers=1 --heads=2 --tokens=64 "
    "--test_examples=8 --validate_every=50 --steps=400 --save_every=20 --learning_rates=3e-3"
).split()


def started(out, *words):
    command = [sys.executable, "-m", "experiments.accuracy", *COMMAND, f"--out={out}", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def saved(out):
    return sorted(pathlib.Path(out).glob("running/*/step_*/about.json"))


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on_to_the_same_result(tmp_path):
    process = started(tmp_path / "stopped")
    wait_for(lambda: saved(tmp_path / "stopped"))
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=90)[0]
    assert process.returncode == outcome.STOPPED, said
    assert "the same command goes on from here" in said
    assert records.read(tmp_path / "stopped") == []
    for name in ("stopped", "whole"):
        process = started(tmp_path / name, "--isolate=false")
        said = process.communicate(timeout=180)[0]
        assert process.returncode == 0, said
    [first], [second] = (records.read(tmp_path / name) for name in ("stopped", "whole"))
    for name in ("bits", "curve", "validations", "best_step"):
        assert first[name] == second[name]
    assert not saved(tmp_path / "stopped")


@pytest.mark.parametrize("changes", [{"pooling": "cls"}, {"pairing": "joined", "tasks": (Retrieval(),)}], ids=str)
def test_the_process_of_a_cell_is_told_its_settings(changes, tmp_path):
    chosen = settings(tmp_path, **{"tasks": (ListOps(),)} | changes)
    [first, *_] = cells(chosen)
    told, cell = json.loads(json.dumps([run.handed(chosen), first.told()]))
    there = Settings(**told["settings"])
    assert (there.pooling, there.pairing, there.steps) == (chosen.pooling, chosen.pairing, chosen.steps)
    assert heard(cell) == first


@pytest.mark.slow
def test_how_pairs_are_met_makes_another_cell_and_of_other_tasks_none(tmp_path):
    for name in FILES.values():
        lines = [f"{number % 2}\tA\tB\tone {number}\ttwo {number % 2}\n" for number in range(9)]
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text("".join(lines))
    given = {"tasks": (Retrieval(str(tmp_path)), Text()), "kernels": (Linear(),), "pooling": "cls", "dropout": 0.1}
    for pairing in ("compared", "joined"):
        assert run.run(settings(tmp_path / "out", **given, pairing=pairing)) == 0
    rows = records.read(tmp_path / "out")
    assert [row["pairing"] for row in rows] == ["compared", None, "joined"]
    assert rows[0]["parameters"] - rows[2]["parameters"] == 2 * 8 * 32 and rows[0]["baselines"]["chance"] == 0.5
    assert all(row["step_flops"] > 0 for row in rows)
    header, lines = analysis.table(analysis.summarise(rows))
    assert [line[header.index("pairing")] for line in lines] == ["compared", "", "joined"]
    for row in rows:  # rows that are older than pairs
        del row["pairing"]
    chosen = settings(tmp_path / "out", **given)
    every, _ = run.EXPERIMENT.todo(chosen)
    todo = run.EXPERIMENT.missing(chosen, every, rows)
    assert [cell.subject.task for cell in todo] == [Retrieval(str(tmp_path))]


def test_windows_are_a_pure_function_and_splits_are_disjoint():
    corpus = text.load()
    parts = [text.windows(corpus, "train", 3, start, 2, 20) for start in (0, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), text.windows(corpus, "train", 3, 0, 4, 20))
    assert not np.array_equal(parts[0], text.windows(corpus, "train", 4, 0, 2, 20))
    assert {text.split_of(name) for name in text.MODULES} == set(text.SPLITS)
    inputs, tokens, hidden, *_ = text.MaskedText().batch("train", 3, 0, 4, 20)
    assert (hidden.sum(axis=1) == 3).all() and (inputs[hidden > 0] == text.MASK).all()
    np.testing.assert_array_equal(inputs[hidden == 0], tokens[hidden == 0])


def test_a_folder_without_the_library_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has 0 of .* modules of the corpus"):
        text.load(str(tmp_path))


def test_the_baseline_is_the_entropy_of_bytes():
    corpus = text.load()
    counts = np.bincount(corpus.splits["train"], minlength=256) + 1
    bits = [-np.log2(counts[byte] / counts.sum()) for byte in corpus.splits["test"][:20000]]
    assert abs(text.unigram_bits(corpus) - np.mean(bits)) < 0.15


def test_students_interval():
    found = statistics.mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.value == 3 and abs(found.high - 3 - 2.7764451052 * np.std([1, 2, 3, 4, 5], ddof=1) / 5**0.5) < 1e-9
    assert statistics.mean([2.0]) == (2.0, None, None)
    paired = statistics.paired({0: 1.0, 1: 2.5, 2: 3.0, 7: 9.0}, {0: 0.5, 1: 1.5, 2: 3.0, 3: 1.0})
    assert paired == statistics.mean([0.5, 1.0, 0.0])
    assert statistics.paired({0: 1.0}, {1: 1.0}) is None


def test_intervals_of_shares_lie_among_the_seeds():
    near = [0.999, 1.0, 0.998, 1.0, 0.97]
    assert statistics.mean(near).high > 1  # which no share is
    found = statistics.share(near)
    means = sorted(np.mean(each) for each in itertools.product(near, repeat=5))
    cut = lambda share: means[int(np.ceil(share * len(means))) - 1]
    np.testing.assert_allclose(found, (np.mean(near), cut(0.025), cut(0.975)), rtol=1e-12)
    many = statistics.share([0.0] * 10 + [1.0] * 10)
    assert 0 <= many.low < 0.35 and 0.65 < many.high <= 1 and many == statistics.share([0.0] * 10 + [1.0] * 10)
    assert statistics.share([0.7]) == (0.7, None, None) and statistics.share([0.9] * 5).low == 0.9
    ends = statistics.answered([1.0] * 5, 200)
    assert ends.value == ends.high == 1 and 0.98 < ends.low < 0.982  # as far as 200 questions tell, which all share
    told = stats.binomtest(160, 200).proportion_ci(method="wilson")
    np.testing.assert_allclose(statistics.answered([0.8] * 5, 200)[1:], (told.low, told.high), rtol=1e-12)
    apart = statistics.answered([0.2, 1.0, 1.0, 0.3, 1.0], 200)
    assert 0 < apart.low < 0.4 and 0.9 < apart.high < 1 and statistics.answered([0.7], 9) == (0.7, None, None)


def test_seeds_that_differ_in_kind_are_told_each():
    assert tables.shares_text([99.0, 98.0, 100.0], ".0f") == "99 [98, 100]"
    assert tables.shares_text([24.0, 100.0, 48.0], ".0f").endswith("], each 24, 48, 100")


def test_positions_are_an_axis_of_the_grid(tmp_path):
    chosen = settings(tmp_path, tasks=(Text(),), kernels=(Linear(),), positions=(Rotary(), ALiBi()))
    assert run.run(chosen) == 0
    rows = records.read(tmp_path)
    assert [row["status"] for row in rows] == ["measured", "refused"]
    assert "which needs `bias`" in rows[-1]["reason"]
    assert [analysis.variant(row) for row in rows] == ["Linear, Rotary", "Linear, ALiBi"]
    styles = figures.styles([row | {"kernel": analysis.variant(row)} for row in rows])
    assert len({str(style) for style in styles.values()}) == 2
