"""The page: one file, nothing fetched, everything escaped, whatever lies in the folder."""

import csv
import json
import pathlib
import re

import pytest

from attnzoo import Dims
from experiments.bench import command_log, locks, records
from experiments.report import at, export, page, run, sections, settings, words
from experiments.report.page import HEAVY, write
from experiments.show import statistics, tables, units, webpage
from experiments.train.sweep import analysis as sweep
from experiments.train.sweep import convergence
from tests import test_calls

RESULTS = pathlib.Path(__file__).parent.parent / "results"
HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"


def row(**changes):
    return {"kernel": "Softmax()", "law": "shape", "status": "obeyed", "platform": "cpu", "device": "x"} | changes


def keep(folder, found):
    """Rows of several folders below one."""
    for name, rows in found.items():
        (folder / name).mkdir(parents=True)
        for each in rows:
            records.append(folder / name, each)


def page_of(folder, *rows):
    for each in rows:
        records.append(folder, each)
    return write(folder, folder / "page.html").read_text()


def test_the_page_stands_alone(tmp_path):
    page = write(RESULTS, tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(RESULTS.rglob("*.png")))
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    for part in ("&#39;--kernels=softmax, ", "support no claim", "time exponent", "MQAR", "jaxlib"):
        assert part in page
    assert "SlidingWindow(left=7" in page and "warning" not in page[page.index("<body>") :]
    assert page.index("What does each kernel cost") < page.index("What does each kernel lose")
    assert page.count('<a href="#') == len({path.parent for path in RESULTS.rglob(records.PARTS)})
    assert len(page) < HEAVY
    assert "4,096 tokens, causal: which attention to use" in page and "★" in page


TIMED = {"experiment": "scaling", "batch": 1, "heads": 2, "num_kv_heads": 2, "head_dim": 4, "dtype": "float32",
         "is_causal": True, "platform": "cpu", "device": "x", "cores": 2, "pass": "forward", "status": "measured",
         "length": 64, "temporary_bytes": 8, "state_bytes": 8, "repeats": 5}  # fmt: skip
TRAINED = {"experiment": "accuracy", "task": "MQAR(pairs=8)", "positions": "Rotary()", "width": 8, "length": 64,
           "metric": "accuracy", "status": "measured", "baselines": {}, "parameters": 9, "is_causal": True,
           "steps": 100, "learning_rate": 0.01, "eval_lengths": [], "by_length": {}, "seed": 0}  # fmt: skip


def named(kernel):
    return {"kernel": kernel, "name": kernel.partition("(")[0].lower()}


def timed(kernel, seconds, spread=0.0, **changes):
    """A row of scaling, of repetitions up to a share away from their median."""
    low, high = seconds * (1 - spread), seconds * (1 + spread)
    repeated = {"median": seconds, "quartiles": [low, high], "seconds": [low, low, seconds, high, high]}
    return TIMED | named(kernel) | repeated | changes


def trained(kernel, scores, **changes):
    """Rows of accuracy, a seed each."""
    own = TRAINED | named(kernel) | changes
    return [own | {"seed": seed, "score": score, "validation": -score} for seed, score in enumerate(scores)]


def lines_of(table):
    return {line[0]: dict(zip(table.header, line, strict=True)) for line in table.lines}


def seen(view):
    """Cells of a view by kernel and head."""
    heads = [head for head, _ in view.header]
    return {line.kernel: dict(zip(heads, line.cells, strict=True)) for line in view.lines}


def test_a_length_has_one_table_whose_best_numbers_are_starred():
    both = {"is_causal": False}
    rows = [
        timed(kernel, seconds, 0.1, length=length, **both)
        for kernel, seconds in (("Softmax()", 3.0), ("Linear()", 1.0))
        for length in (64, 256)
    ]
    skipped = {"status": "skipped", "reason": "would take 9 s. More", "length": 256, "state_bytes": None}
    rows += [TIMED | both | named("Additive()") | skipped | {"pass": passed} for passed in ("forward", "train")]
    for kernel, heads, seconds in (("GatedDelta()", 2, 0.5), ("Softmax()", 2, 4.0), ("Delta()", 4, 0.1)):
        rows.append(timed(kernel, seconds, length=256, heads=heads))
    found = at.opening(rows, 200).table
    causal, both = "time forward, causal, 256", "time forward, 256"
    assert found.header[1:4] == ["state, 256", causal, both]
    lines = lines_of(found)
    assert set(lines) == {"Softmax", "Linear", "Additive", "GatedDelta"}
    assert lines["Linear"][both].startswith(at.BEST) and lines["Linear"]["code"].endswith("Linear())")
    assert lines["GatedDelta"][causal].startswith(at.BEST) and lines["GatedDelta"][both] == "refused"
    assert lines["Softmax"][both] and lines["Softmax"][causal] and lines["Linear"][causal] == "not measured"
    assert not any(lines["Softmax"][head].startswith(at.BEST) for head in (causal, both))
    assert lines["Softmax"]["memory forward, 256"].startswith(at.BEST)
    assert lines["Additive"]["not measured"].endswith("forward, train: skipped: would take 9 s")
    assert at.opening([], None) is None
    law = {"kernel": "Linear()", "name": "linear", "length": 64, "status": "refused", "law": "masks_hide", "reason": ""}
    for more, is_there in (([TIMED | law], False), ([TIMED | law, TIMED | law | {"status": "skipped"}], True)):
        found = lines_of(at.opening([*rows, *more], 200).table)
        assert (found["Linear"][both] != "") == is_there
        assert (found["Linear"]["not measured"] == "refused: breaks `masks_hide`") != is_there


def test_the_page_opens_with_what_kernels_cost_and_lose_where_tokens_see_the_past():
    rows = [timed("Softmax()", 4.0, 0.1), timed("Linear()", 2.0, 0.1), timed("Delta()", 3.0)]
    rows += [timed("Softmax()", 9.0, **{"pass": "train"}), timed("Linear()", 3.0, **{"pass": "train"})]
    rows += [timed("Softmax()", 5.0, is_causal=False)]
    rows += [*trained("Softmax()", 5 * [1.0]), *trained("Linear()", [0.9, 0.8, 0.9, 0.8, 0.9])]
    causal, both = at.opening(rows, 64).views
    assert causal.is_causal and not both.is_causal and [line.kernel for line in both.lines] == ["Softmax"]
    heads = ["time forward", "recall minus exact", "time with gradients", "memory", "state"]
    assert [head for head, _ in causal.header] == heads
    assert [line.kernel for line in causal.lines] == ["Softmax", "Linear", "Delta"]
    linear = seen(causal)["Linear"]
    assert linear["time forward"][:2] == ("2 [1.8, 2.2] s", "2 [1.64, 2.44]") and linear["time forward"].is_best
    assert linear["recall minus exact"].text.startswith("-14.0 [-20.8, -7.2]")
    assert linear["recall minus exact"].below.startswith("86.0 [")
    assert linear["time with gradients"].below == "3 [3, 3]" and linear["state"].text == "8 B"
    assert causal.lines[1].is_chosen and causal.lines[1].code == at._code("Linear()", rows, set(), True)
    delta = seen(causal)["Delta"]
    assert delta["recall minus exact"].text == "not trained" and delta["recall minus exact"].is_empty
    assert delta["time with gradients"].text == "not measured"
    assert dict(causal.told) == {
        "Time and memory": "64 tokens, batch 1, 2 heads of 4, float32; x, 2 cores; medians of 5 with quartiles",
        "Recall": "of 8 pairs, over 64 tokens, by models of width 8 trained on 64, 5 seeds",
    }


def test_a_length_at_which_nothing_was_timed_is_said_first(tmp_path):
    rows = [timed("Softmax()", 4.0, length=length) for length in (32, 64)]
    assert at.opening(rows, 64).views[0].notice == ""
    nothing = "Nothing was timed at 16,384 tokens; these times are of 64, the nearest."
    assert at.opening(rows, 16384).views[0].notice == nothing
    step = {"experiment": "decoding", "context": 16384, "status": "measured", "median": 1.0}
    keep(tmp_path, {"steps": [step], "times": rows})
    page = write(tmp_path, tmp_path / "page.html", 16384).read_text()
    assert page.index(nothing) < page.index("<table")
    [anchor] = re.findall(r'there are rows in\s*<a href="#([^"]*)">steps</a>', page)
    assert f'<h3 id="{anchor}">16,384 tokens (steps)</h3>' in page


def test_what_was_refused_is_told_with_its_reason():
    """By the catalogue, where no row says so; a kernel that it does not know was not measured."""
    rows = [timed(kernel, 2.0, is_causal=False) for kernel in ("Softmax()", "Linformer()", "my.module.Mine()")]
    rows += [timed(kernel, 1.0) for kernel in ("Softmax()", "GatedDelta()", "Delta()")]
    found = at.opening(rows, 64)
    causal, both = found.views
    [(name, reason)] = causal.refused
    assert name == "Linformer" and reason.startswith("cannot honour `is_causal`: its keys are mixed")
    [(names, reason)] = both.refused
    assert names == "Delta, GatedDelta" and "in the order of time" in reason
    lines = lines_of(found.table)
    assert lines["Linformer"]["time forward, causal, 64"] == lines["Delta"]["time forward, 64"] == "refused"
    assert "forward, causal: refused: Linformer cannot honour" in lines["Linformer"]["not measured"]
    assert lines["my.module.Mine"]["time forward, causal, 64"] == "not measured"


def test_sizes_that_read_alike_are_starred_alike():
    sizes = {"Softmax()": 2**20, "Linear()": 2**20 + 8, "Delta()": 2**21}
    rows = [timed(kernel, 1.0, temporary_bytes=size) for kernel, size in sizes.items()]
    starred = {name: cells["memory"].is_best for name, cells in seen(at.opening(rows, 64).views[0]).items()}
    assert starred == {"Softmax": True, "Linear": True, "Delta": False}


def test_a_model_that_still_learned_is_marked():
    curve = [[step, 5 / (1 + step)] for step in range(10)]
    rows = [*trained("Softmax()", 5 * [1.0]), *trained("Linear()", 5 * [0.9], curve=curve)]
    view = at.opening([*rows, timed("Softmax()", 2.0), timed("Linear()", 1.0)], 64).views[0]
    assert seen(view)["Linear"]["recall minus exact"].below.endswith("; still learning")
    assert "learning" not in seen(view)["Softmax"]["recall minus exact"].below
    assert view.takes[0][1].endswith("points of recall (still learning)")


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("MQAR(pairs=8, vocabulary=64, is_noisy=False)", "recall of 8 pairs"),
        ("TwoSided(task='recall(count=8, symbols=16)')", "recall of 8 symbols, seen whole"),
        ("Epochs(task='text', examples=6400)", "the next byte of text, 6,400 examples again and again"),
        ("ModularArithmetic(trained=40, modulus=7)", "ModularArithmetic(trained=40, modulus=7)"),
        ("my.module.Task(size=3)", "my.module.Task(size=3)"),
        ("MQAR(pairs=", "MQAR(pairs="),
    ],
)
def test_tasks_are_told_in_words(task, told):
    assert words.task(task) == told


def test_headings_tell_sections_apart_and_so_does_the_navigation(tmp_path):
    asked = {"far/recall": 8, "more": 4}
    keep(tmp_path, {name: trained("Softmax()", [1.0], task=f"MQAR(pairs={n})") for name, n in asked.items()})
    page = write(tmp_path, tmp_path / "page.html").read_text()
    headings = re.findall(r'<h3 id="[^"]*">([^<]*)</h3>', page)
    assert headings == ["Recall of 8 pairs (far/recall)", "Recall of 4 pairs (more)"]
    assert re.findall(r'<a href="#[^"]*">([^<]*)</a>', page) == headings
    assert page.count("<h2>What does each kernel lose") == 1


def test_differences_never_read_as_minus_nothing():
    """Digits tell whether an end of an interval is 0, and nothing is written with a sign that it does not have."""
    text = lambda *found: sweep.mean_text("accuracy", statistics.Mean(*found), "+")
    assert text(-0.004, -0.007, -0.0004) == "-0.40 [-0.70, -0.04]"
    assert text(-0.004, -0.007, 0.0) == "-0.4 [-0.7, 0]" and text(-0.0, -0.0, 0.0) == "0 [0, 0]"
    assert sweep.mean_text("bits", statistics.Mean(0.0822, 0.1648, -0.0004), "+") == "+0.0822 [+0.1648, -0.0004]"
    assert sweep.mean_text("accuracy", statistics.Mean(0.0, 0.0, 0.0001)) == "0.0 [0.0, 0.0]"


def test_code_runs_a_kernel_as_it_was_timed_and_says_of_which_form_scores_are():
    timed = {"status": "measured", "is_causal": True, "heads": 2, "head_dim": 8, "length": 24, "dtype": "float32"}
    of = lambda kernel, name, **more: timed | {"kernel": kernel, "name": name} | more
    rows = [
        of("SlidingWindow()", "sliding_window"),
        of("SlidingWindow()", "sliding_window", is_causal=False),
        of("Linformer()", "linformer", is_causal=False),
        of("GatedDelta()", "gated_delta", width=16, head_dim=None),
        of("tests.broken_kernels.Plain()", "Plain"),
    ]
    window = "SlidingWindow(left=15, right=0)"
    lines = {row["name"]: at._code(row["kernel"], rows, {row["kernel"], window}, True) for row in rows}
    for line in lines.values():
        test_calls.run(line, Dims(1, 24, 24, 2, 2, 8, 8))
    call = "import attnzoo; out = attnzoo.attend(query, key, value, kernel=attnzoo.SlidingWindow(), is_causal=True)"
    assert lines["sliding_window"] == f"{call}  # scores are of {window}"
    assert "causal" not in lines["linformer"] and "(x, is_causal=True)" in lines["gated_delta"]
    assert "#" not in at._code("Linear()", [of("Linear()", "linear")], {"Linear()"}, True)
    assert "from tests.broken_kernels import Plain; " in lines["Plain"]


def test_what_is_lost_is_told_of_the_nearest_length_that_models_were_tested_on():
    rows = [row for row in records.read(RESULTS / "compare/recall") if row["status"] == "measured"]
    [recall] = [head for head in at.opening(rows, 500).table.header if head.startswith("recall")]
    assert recall == "recall of 8 pairs, 512 (trained on 64)"
    shown = {line[0].partition("(")[0]: line[1] for line in at.opening(rows, 500).table.lines}
    for kernel, name in (("Softmax", "softmax"), ("SlidingWindow", "sliding_window")):
        shares = [row["by_length"]["512"] for row in rows if row["name"] == name]
        assert f"{100 * sum(shares) / len(shares):.1f} [" in shown[kernel]


def test_what_is_lost_is_of_one_setting_and_of_another_is_said_to_be():
    """Of the one with the most kernels, or rates, whichever rows come last."""
    learned = lambda lengths, rates, **scores: [
        row | {"eval_lengths": lengths, "by_length": dict.fromkeys(lengths, 0.5), "validation": rate - score}
        for name, score in scores.items()
        for rate in rates
        for row in trained(f"{name}()", [score], learning_rate=rate)
    ]
    tuned = learned(["128"], [0.01, 0.02], Softmax=0.9, Linear=0.8)
    once = learned(["256"], [0.01], Softmax=0.99, Delta=0.97)
    for rows in ([*tuned, *once], [*once, *tuned]):
        found = at.opening(rows, 64)
        shown = {line[0]: line[1] for line in found.table.lines}
        assert "90.0" in shown["Softmax"] and "80.0" in shown["Linear"]
        assert shown["Delta"].startswith("97.0") and shown["Delta"].endswith(", trained otherwise")
        cell = seen(found.views[0])["Delta"]["recall minus exact"]
        assert cell.text == "97.0 %" and cell.below == "trained otherwise" and not cell.is_best
    whole = [row | {"is_causal": False, "task": "TwoSided(task='recall')"} for row in tuned]
    heads = [head for head in at.opening([*tuned, *whole], 64).table.header if head.startswith("recall")]
    assert [head.split(", 64")[0] for head in heads] == ["recall of 8 pairs", "recall of 8 symbols, seen whole"]


def test_which_to_use_is_told_by_what_is_lost(monkeypatch):
    """In the form that was trained, and where tokens see alike; not what a faster kernel answers as well as."""
    seconds = {"Softmax()": 4.0, "Delta()": 3.0, "Linear()": 2.0, "Performer(features=8)": 1.5, "Local()": 1.0}
    recalled = {"Softmax()": 1.0, "Delta()": 0.992, "Linear()": 0.995, "Performer(features=32)": 0.999, "Local()": 0.1}
    rows = [timed(kernel, each) for kernel, each in seconds.items()]
    rows += [row for kernel, score in recalled.items() for row in trained(kernel, 5 * [score])]
    chosen = lambda rows: [line.kernel for line in at.opening(rows, 64).views[0].lines if line.is_chosen]
    found = at.opening(rows, 64).views[0]
    assert chosen(rows) == ["Linear", "Local"]
    assert found.takes == [
        ("Local", "4 [4, 4] times as fast as exact attention; loses 90.0 [90.0, 90.0] points of recall")
    ]
    assert [line.place for line in found.lines] == ["", "unbeaten by recall", "unbeaten by recall", "", ""]
    faster = [row | timed("Delta()", 1.9) if row.get("pass") and row["name"] == "delta" else row for row in rows]
    assert chosen(faster) == ["Linear", "Delta", "Local"]
    others = [row | {"is_causal": row["experiment"] == "accuracy"} for row in rows]
    assert chosen(others) == []
    bits = [row | {"metric": "bits", "score": 8 * (1 - row["score"])} if "score" in row else row for row in rows]
    assert not at.opening(bits, 64).views[0].takes  # exact attention still learned
    monkeypatch.setattr(convergence, "doubt", lambda metric, rows: "")
    assert chosen(bits) == ["Linear", "Local"]
    assert at.opening(bits, 64).views[0].takes[0][1].endswith("; 7.200 [7.200, 7.200] bits more")


def test_what_cannot_be_told_apart_is_said_to_be():
    """From exact attention, beside which nothing slower counts, and from each other, in time and in answers both."""
    answers = {"Softmax()": [1.0, 0.99, 1.0, 0.99, 1.0], "Delta()": [0.99, 1.0, 1.0, 0.98, 1.0],
               "Linear()": [1.0, 0.98, 0.99, 0.99, 1.0], "Retention()": [0.7, 0.8, 0.7, 0.8, 0.7]}  # fmt: skip
    rows = [row for kernel, scores in answers.items() for row in trained(kernel, scores)]
    rows += [timed("Softmax()", 4.0, 0.1), timed("Delta()", 2.0, 0.1), timed("Linear()", 2.1, 0.1)]
    found = at.opening([*rows, timed("Retention()", 3.9, 0.1)], 64).views[0]
    places = {line.kernel: line.place for line in found.lines}
    assert places == {"Softmax": "", "Delta": "unbeaten by recall", "Linear": "≈ Delta", "Retention": ""}
    [(name, told)] = found.takes
    assert name == "Delta" and told.startswith("2 [1.64, 2.44] times as fast as exact attention; ")
    assert "no difference in recall seen, -0.2 [" in told
    found = at.opening([*rows, timed("Retention()", 0.1)], 64).views[0]
    assert [name for name, _ in found.takes] == ["Delta", "Retention"]
    assert "loses 25.6 [" in found.takes[1][1]
    slow = [row for row in rows if row.get("pass") is None] + [
        timed(kernel, 4.0 - 0.1 * place, 0.1) for place, kernel in enumerate(answers)
    ]
    exact = [("Softmax", "none of those that were trained as they were timed is seen faster")]
    assert at.opening(slow, 64).views[0].takes == exact
    little = [row | {"score": 0.9996} if row.get("name") == "delta" and "score" in row else row for row in rows]
    little = [row | {"score": 1.0} if row.get("name") == "softmax" and "score" in row else row for row in little]
    assert "loses 0.04 [0.04, 0.04] points" in at.opening(little, 64).views[0].takes[0][1]


def test_models_of_the_same_seeds_are_told_apart_by_their_differences(monkeypatch):
    """By intervals of each, seeds that are hard for all models would hide what is less with every seed."""
    monkeypatch.setattr(convergence, "CEILING", 0.5)
    rows = [row for row in records.read(RESULTS / "compare/recall") if row["status"] == "measured"]
    kept = [row for row in rows if row["name"] in ("softmax", "linear")]
    hard = {seed: 0.9 - 0.1 * seed for seed in range(5)}
    told = lambda less: [
        row | {"score": hard[row["seed"]] - less * (row["name"] == "linear") * (1 + row["seed"] % 2)} for row in kept
    ]
    starred = lambda rows: {line[0]: line[1].startswith(at.BEST) for line in at.opening(rows, 64).table.lines}
    assert starred(told(0.01)) == {"Softmax": True, "Linear": False}
    assert starred(told(0.0)) == {"Softmax": True, "Linear": True}
    monkeypatch.undo()
    assert "nothing is decided" in at.opening(told(0.01), 64).table.header[1] and not any(starred(told(0.01)).values())
    monkeypatch.setattr(convergence, "CEILING", 0.5)
    few = [row for row in told(0.01) if row["seed"] < 3]
    assert not any(starred(few).values()) and "3 seeds, which supports no claim" in at.opening(few, 64).table.header[1]


def test_folders_without_a_command_show_that_of_the_run_above(tmp_path):
    (tmp_path / "run" / "models").mkdir(parents=True)
    (tmp_path / command_log.COMMAND).write_text("far")
    (tmp_path / "run" / command_log.COMMAND).write_text("python -m experiments.run --kernels='<all>'\n")
    page_of(tmp_path / "run" / "models", row())
    page = write(tmp_path / "run", tmp_path / "page.html").read_text()
    assert "&lt;all&gt;" in page and "<pre>far" not in page
    (tmp_path / "run" / command_log.COMMAND).unlink()
    assert "<pre>" not in write(tmp_path / "run", tmp_path / "page.html").read_text()


@pytest.mark.parametrize("place", sorted(path.parent for path in RESULTS.rglob(records.PARTS)), ids=lambda p: p.name)
def test_committed_rows_are_known_and_summarised(place):
    rows = records.read(place)
    for each in rows:  # by the name that they tell, and older ones, which tell none, by their columns
        homes = [known.name for known in sections.known() if set(known.columns) <= each.keys()]
        assert each.get("experiment", *homes[:1]) in homes, "a row must be known to a section"
        assert "experiment" in each or len(homes) == 1, "a row must be known to no other"
    for found in sections.split(rows):
        summaries = found.summaries()
        assert summaries and all(len(line) == len(each.header) for each in summaries for line in each.lines)
        assert any(isinstance(cell, units.Shown) for each in summaries for line in each.lines for cell in line)


def test_every_section_has_what_the_page_asks_of_it():
    assert [known.name for known in sections.known()] == list(sections.ORDER)
    for known in sections.known():
        assert sections.question(known) and known.columns and "status" not in known.key


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "conformance"),
        ({"experiment": "conformance", "schema": 1}, "conformance"),
        ({"experiment": "tiles", "schema": 1}, "tiles"),  # whatever columns it has
        ({"experiment": "elsewhere", "schema": 1}, None),
        ({"experiment": "conformance", "schema": 2}, None),
        ({"experiment": ["tiles"]}, None),
    ],
    ids=str,
)
def test_a_row_is_known_by_what_it_says_and_an_old_one_by_its_columns(changes, name):
    [found] = sections.split([row(**changes)])
    assert (found.experiment and found.experiment.name) == name


def test_whose_a_row_is_stands_in_no_table(tmp_path):
    rows = [row(law=law, experiment="conformance", schema=1) for law in ("jit", "shape")]
    page = page_of(tmp_path, *rows)
    assert "2 cells: 2 obeyed" in page and "schema" not in page


def test_the_last_row_of_a_cell_is_shown(tmp_path):
    page = page_of(tmp_path, row(status="broken", law="causality", commit="a"), row(law="causality", commit="a"))
    assert "1 cell: 1 obeyed" in page


def test_an_unknown_experiment_has_all_its_scalars(tmp_path):
    page = page_of(tmp_path, *({"status": "measured", "taste": 0.5 + n, "curve": [1, 2]} for n in range(2)))
    assert "without a section" in page and ">taste</button>" in page and 'data-value="1.5"' in page
    assert "curve" not in page


def test_rows_of_another_version_are_told_and_shown(tmp_path):
    page = page_of(tmp_path, {"claim": "speed", "status": "measured", "pace": 7})
    assert "could not summarise these rows (KeyError" in page and "pace" in page


def test_torn_rows_are_told(tmp_path):
    records.append(tmp_path, row())
    with (tmp_path / "rows-0-of-2.jsonl").open("w") as file:
        file.write(json.dumps(row(law="jit")) + '\n[1]\n{"law": "to')
    page = write(tmp_path, tmp_path / "page.html").read_text()
    assert "2 damaged line(s) of rows-0-of-2.jsonl were skipped" in page and "2 cells" in page


def test_a_folder_without_rows_is_refused(tmp_path, capsys):
    for text, damaged in ("", 0), ('{"a": 1}\n{"to', 2):
        (tmp_path / records.ROWS).write_text(text)
        with pytest.raises(ValueError, match=r"expected rows\.jsonl with some in .*, or in folders below"):
            write(tmp_path, tmp_path / "page.html")
        assert (f"skipped {damaged} damaged line(s)" in capsys.readouterr().err) == (damaged > 0)
    with pytest.raises(ValueError, match="no rows to report"):
        write(tmp_path / "nowhere", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"out": "."}, r"--out=.* is a folder: expected a file to write, such as .*report\.html"),
        ({"out": "rows.jsonl/page.html"}, "File exists|Not a directory"),
        ({"csv": "rows.jsonl"}, "File exists"),
    ],
    ids=str,
)
def test_where_nothing_can_be_written_is_told_before_all_is_read(flags, error, tmp_path, monkeypatch):
    records.append(tmp_path, row())
    monkeypatch.setattr(page, "write", None)
    asked = settings.Settings(**{name: str(tmp_path / value) for name, value in flags.items()})
    with pytest.raises((ValueError, OSError), match=error):
        run.run(asked, str(tmp_path))


def test_names_are_escaped_wherever_they_stand(tmp_path):
    place = tmp_path / "<b>folder"
    place.mkdir()
    (place / command_log.COMMAND).write_text(f"python -m experiments.x --kernels={HOSTILE}")
    (place / '"onload="alert(1)<b>.png').write_bytes(webpage.PNG + b"IEND" + 8 * b"!")
    broken = row(status="broken", reason=HOSTILE, kernel=HOSTILE, law=HOSTILE)
    page = page_of(place, broken, {HOSTILE: HOSTILE, "status": HOSTILE}, {HOSTILE: 1, "status": "measured"})
    page = write(tmp_path, tmp_path / "page.html").read_text()
    body = page[page.index("<body>") : page.rindex("<script>")]
    assert "<script" not in body and "<b>" not in body and "<img src=x" not in body and "onerror=alert(1)>" not in body
    assert 'alt="&#34;onload=&#34;alert(1)&lt;b&gt;"' in body and body.count("&lt;script&gt;") > 5


def test_scripts_of_others_are_not_allowed():
    page = webpage.render("show/webpage.html", title="title", introduction="")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy and "http" not in policy


def test_cells_know_their_numbers():
    values = {"a": (900e-6, units.seconds_text), "b": (0.0012, units.seconds_text), "c": (2**20, units.size_text)}
    page = webpage.table(list(values), [[words(value) for value, words in values.values()]])
    assert re.findall(r'data-value="([^"]*)">([^<]*)', page) == [
        ("0.0009", "900 µs"),
        ("0.0012", "1.2 ms"),
        ("1048576.0", "1 MiB"),
    ]
    beyond = webpage.table(["from"], [[units.Shown("beyond 64", float("inf"))]])
    assert 'data-value="Infinity"' in beyond


def test_numbers_are_never_written_with_powers():
    assert [units.size_text(count) for count in (0, 1023 * 2**10, 1536, 5000 * 2**40)] == [
        "0 B",
        "1,023 KiB",
        "1.5 KiB",
        "5,000 TiB",
    ]
    assert [units.seconds_text(count) for count in (0.9999, 1234.5, 12.34e-3)] == ["1,000 ms", "1,234 s", "12.3 ms"]


def test_what_is_the_same_in_all_cells_is_said_once():
    rows = [{"kernel": "Softmax()", "heads": 2, "length": n, "median": 0.25 * n, "jax": "1"} for n in (1, 2)]
    same, found = tables.cells(rows)
    assert same == {"kernel": "Softmax", "heads": "2"}
    assert found.header == ["length", "median"] and found.lines == [["1", "250 ms"], ["2", "500 ms"]]


@pytest.mark.parametrize("value", [None, 5, [1], {"a": {"b": [1]}}, "\0", "\ud800", 3000 * "-" + "1", "f(**x)", ""])
def test_a_row_may_hold_anything(value, tmp_path):
    claim = {"claim": "recall", "status": "measured", "train_seconds": value, "seed": value, "kernel": value}
    unknown = {"kernel": value, "status": value, "task": value, "length": value, "is_causal": value}
    page = page_of(tmp_path, row(law=value, kernel=value), claim, unknown)
    assert "1 obeyed" in page and "could not summarise" in page and "without a section" in page
    assert len(export.write(tmp_path, tmp_path / "csv")) == 3


def test_a_figure_that_is_not_whole_is_told(tmp_path):
    (tmp_path / "time.png").write_bytes(webpage.PNG + 20 * b"!")
    page = page_of(tmp_path, row())
    assert "time.png is no whole PNG" in page and "<img" not in page


def test_seeds_are_counted_by_cell(tmp_path):
    base = {"claim": "recall", "status": "measured", "train_seconds": 1.0, "accuracies": [0.5], "kernel": "gru"}
    page = page_of(tmp_path, *(base | {"distances": [d], "seed": s} for d, s in [(1, 0), (1, 1), (2, 0)]))
    assert "1 seed(s) for a trained cell" in page


def test_a_run_leaves_its_command_and_what_it_cost(tmp_path, monkeypatch):
    spent = iter([1.0, 3.5, 10.0, 10.25, 20.0, 24.0])
    monkeypatch.setattr(command_log, "_minutes", lambda: next(spent))
    command = "python -m experiments.scaling '--kernels=a, b'"
    (tmp_path / command_log.COMMAND).write_text("python -m experiments.peers\n")
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python3", "-m", "experiments.scaling", "--kernels=a, b"])
    for _ in range(2):
        with locks.writing(tmp_path):
            assert command in (tmp_path / command_log.COMMAND).read_text()
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python3", "-m", "pytest"])
    with locks.writing(tmp_path):
        pass
    told = (tmp_path / command_log.COMMAND).read_text()
    assert told == f"python -m experiments.peers\n{command}  # 2.75 CPU minutes\n"
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python3", "-m", "experiments.accuracy"])
    monkeypatch.setenv(command_log.COUNTED, "1")  # the process that waits for this one
    with locks.writing(tmp_path / "models"):
        pass
    assert (tmp_path / "models" / command_log.COMMAND).read_text() == "python -m experiments.accuracy\n"


def test_a_command_counts_once_and_what_was_started_by_hand_beside_it(tmp_path):
    told = {"a": ("x", 2), "a/inner": ("x", 1), "a/by_hand": ("y --out=a/by_hand", 3), "b/deep": ("x --out=b", 4)}
    for name, (command, minutes) in told.items():
        (tmp_path / name).mkdir(parents=True)
        line = f"python -m experiments.{command}  # {minutes}.00 CPU minutes\npython -m experiments.z\n"
        (tmp_path / name / command_log.COMMAND).write_text(line)
    assert command_log.total(tmp_path) == 9 and command_log.total(tmp_path / "a" / "inner") == 1


def test_each_section_becomes_a_spreadsheet(tmp_path):
    written = export.write(RESULTS / "compare", tmp_path / "csv")
    assert len(written) == 4 and all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", path.name) for path in written)
    with next(path for path in written if "recall" in path.name).open(newline="") as file:
        kernels = {line["kernel"] for line in csv.DictReader(file)}
    assert {"Softmax()", "SlidingWindow(left=15, right=0, dilation=1, global_tokens=0)"} < kernels


def test_folders_of_one_spelling_are_told_apart(tmp_path):
    for name in ("a-b", "a/b", "a b", "x" * 90):
        (tmp_path / name).mkdir(parents=True)
        records.append(tmp_path / name, row())
    written = export.write(tmp_path, tmp_path / "csv")
    assert len({path.name for path in written}) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", path.name) and path.parent == tmp_path / "csv" for path in written)
