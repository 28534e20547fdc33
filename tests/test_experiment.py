"""The runner that all experiments share, on a toy: what is tried again, what a cell that raises leaves, and flags."""

import dataclasses
import subprocess
import sys

import pytest

from experiments.bench import locks, memory, outcome, parsing, records, settings
from experiments.bench.experiment import Cell, Experiment, one_by_one
from experiments.bench.settings import flag, parsed
from experiments.report import sections


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Of the toy."""

    numbers: tuple[int, ...] = flag("1,2", "Some numbers.", parsing.lengths, name="number")
    word: str = flag("one", "A word.", choices=("one", "two"))
    budget: float = flag(1.0, "Seconds.", at_least=0.5)
    rates: tuple[float, ...] = flag("1,2", "Some rates.", parsing.numbers, at_least=0.1)
    limit: int | None = flag(None, "A limit; none unless given.", at_least=1)
    out: str = flag("runs/toy", "A folder.")
    list: bool = flag(False, "List, and run none.")
    unseen: int = 7


class Toy(Experiment):
    """Squares, each found as `finds` says."""

    name = "toy"
    key = ("number",)
    columns = ("number", "square")
    listing = "list"

    def __init__(self, finds=lambda number: {"status": "measured", "square": number**2}):
        self.finds, self.drawn = finds, []

    def cells(self, settings):
        yield [Cell({"number": number, "cell_budget": settings.budget}, number) for number in settings.numbers]

    def measure(self, settings, todo, run):
        return one_by_one(todo, lambda cell: self.finds(cell.subject))

    def describe(self, row):
        return f"{row['number']}: {row['status']}"

    def draw(self, settings, rows, out):
        self.drawn.append([row["number"] for row in rows])

    def summaries(self, rows):
        return []

    def list_cells(self, settings):
        print(*(cell.subject for cell in self.todo(settings)[1]))
        return 0


def asked(out, **changes):
    return Settings(**{"numbers": (1, 2, 3), "out": str(out)} | changes)


def statuses(out):
    return [(row["number"], row["status"]) for row in records.read(out)]


def test_what_is_missing_is_measured_kept_drawn_and_not_repeated(tmp_path, capsys):
    toy = Toy()
    assert toy.run(asked(tmp_path, numbers=(2,))) == toy.run(asked(tmp_path)) == toy.run(asked(tmp_path)) == 0
    assert [row["square"] for row in records.read(tmp_path)] == [4, 1, 9]
    assert toy.drawn == [[2], [1, 2, 3], [1, 2, 3]]
    said = capsys.readouterr().out
    assert "toy: 2 of 3 cells to do" in said and f"rows and figures: {tmp_path}" in said


def test_rows_tell_whose_they_are_and_where_they_were_made(tmp_path):
    Toy().run(asked(tmp_path, numbers=(1,)))
    [row] = records.read(tmp_path)
    assert (row["experiment"], row["schema"]) == ("toy", 1) and row["jax"] and row["cores"] and "commit" in row


@pytest.mark.parametrize(
    ("row", "again"),
    [
        ({"status": "measured"}, False),
        ({"status": "obeyed"}, False),
        ({"status": "diverged"}, False),
        ({"status": "refused"}, False),
        ({"status": "obeyed", "law": "shape"}, False),
        ({"status": "refused", "law": "shape"}, True),
        ({"status": "broken", "law": "shape"}, True),
        ({"status": "failed"}, True),
        ({"status": "missing"}, True),
        ({"status": "not run"}, True),
        ({"status": "skipped", "limit": "budget", "cell_budget": 1.0}, False),
        ({"status": "skipped", "limit": "budget", "cell_budget": 2.0}, True),
        ({"status": "skipped", "limit": "memory", "needed_bytes": 2}, True),
        ({"status": "skipped", "limit": "memory", "needed_bytes": 2**80}, False),
        ({"status": "skipped", "limit": "memory"}, False),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_one_rule_says_what_is_tried_again(tmp_path, monkeypatch, row, again):
    monkeypatch.setattr(memory, "free_memory", lambda: 2.0**40)
    records.append(tmp_path, {"number": 1} | row)
    _, todo = Toy().todo(asked(tmp_path, numbers=(1,)))
    assert len(todo) == again
    assert Toy().run(asked(tmp_path, numbers=(1,))) == int(not again and row["status"] in ("diverged", "refused"))
    assert len(records.read(tmp_path)) == 1 + again


def test_the_last_row_of_a_cell_counts(tmp_path):
    for status in ("failed", "measured", "failed", "measured"):
        records.append(tmp_path, {"number": 1, "status": status})
    assert Toy().todo(asked(tmp_path, numbers=(1,)))[1] == []


def test_rows_of_another_experiment_are_left_alone(tmp_path):
    records.append(tmp_path, {"number": 1, "status": "measured", "experiment": "other"})
    toy = Toy()
    toy.is_cumulative = True
    assert toy.run(asked(tmp_path, numbers=(1, 2))) == 0
    assert statuses(tmp_path) == [(1, "measured")] * 2 + [(2, "measured")] and toy.drawn == [[1, 2]]


def test_a_cell_that_raises_is_a_row_and_the_others_go_on(tmp_path):
    def finds(number):
        if number == 1:
            raise RuntimeError("it broke\nhere")
        if number == 2:
            raise NotImplementedError("it has none")
        return {"status": "measured"}

    assert Toy(finds).run(asked(tmp_path)) == 1
    assert statuses(tmp_path) == [(1, "failed"), (2, "refused"), (3, "measured")]
    assert [row.get("reason") for row in records.read(tmp_path)] == ["RuntimeError: it broke", "it has none", None]
    assert Toy().run(asked(tmp_path)) == 0
    assert statuses(tmp_path)[3:] == [(1, "measured")]


@pytest.mark.parametrize(
    ("found", "code"),
    [("measured", 0), ("missing", 0), ("skipped", 0), ("failed", 1), ("diverged", 1), ("broken", 1), ("refused", 1)],
)
def test_exit_codes(tmp_path, found, code):
    assert Toy(lambda number: {"status": found, "reason": ""}).run(asked(tmp_path, numbers=(1,))) == code


def test_one_refusal_among_others_is_no_failure_and_cells_of_others_do_not_count(tmp_path):
    records.append(tmp_path, {"number": 9, "status": "failed"})
    finds = lambda number: {"status": "refused" if number == 1 else "measured", "reason": ""}
    assert Toy(finds).run(asked(tmp_path)) == 0
    assert Toy(finds).run(asked(tmp_path, numbers=(1,))) == 1


def test_a_run_that_is_stopped_keeps_what_it_has_and_goes_on(tmp_path, capsys):
    def finds(number):
        if number == 2:
            raise outcome.Stopped
        return {"status": "measured"}

    toy = Toy(finds)
    assert toy.run(asked(tmp_path)) == outcome.STOPPED == 75
    assert statuses(tmp_path) == [(1, "measured")] and toy.drawn == []
    assert "the same command goes on from here" in capsys.readouterr().out
    assert Toy().run(asked(tmp_path)) == 0 and len(records.read(tmp_path)) == 3


def test_lists_are_measured_one_after_another_and_asked_for_then(tmp_path):
    class Twice(Toy):
        def cells(self, settings):
            yield [Cell({"number": 1}, 1)]
            yield [Cell({"number": 10 + row["number"]}, 2) for row in records.read(tmp_path)]

    assert Twice().run(asked(tmp_path)) == 0
    assert [row["number"] for row in records.read(tmp_path)] == [1, 11]


def test_a_folder_that_is_written_into_is_refused(tmp_path):
    with locks.writing(tmp_path), pytest.raises(ValueError, match="another run is writing into"):
        Toy().run(asked(tmp_path))


def test_what_follows_may_end_a_run_before_it_is_shown(tmp_path):
    toy = Toy()
    for further, code, drawn in ((0, 0, 1), (1, 1, 2), (75, 75, 2)):
        toy.more = lambda settings, further=further: further
        assert toy.run(asked(tmp_path)) == code and len(toy.drawn) == drawn


def test_without_matplotlib_rows_are_left_all_the_same(tmp_path, capsys):
    def draw(settings, rows, out):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    toy = Toy()
    toy.draw = draw
    assert toy.run(asked(tmp_path)) == 0 and len(records.read(tmp_path)) == 3
    assert "no figure: No module named 'matplotlib'" in capsys.readouterr().out


def test_a_list_runs_none(tmp_path, capsys):
    assert Toy().run(asked(tmp_path / "out", list=True)) == 0
    assert capsys.readouterr().out == "1 2 3\n" and not (tmp_path / "out").exists()


def test_flags_are_those_of_the_dataclass():
    chosen = parsed(Settings, number="1:4", word="two", limit=3)
    assert (chosen.numbers, chosen.word, chosen.limit, chosen.rates) == ((1, 2, 4), "two", 3, (1.0, 2.0))
    assert parsed(Settings) == Settings() and Settings().numbers == (1, 2) and Settings().unseen == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.1}, r"--budget=0.1: expected at least 0.5"),
        ({"budget": float("nan")}, r"--budget=nan: expected at least 0.5"),
        ({"rates": (1.0, 0.0)}, r"--rates=0.0: expected at least 0.1"),
        ({"limit": 0}, r"--limit=0: expected at least 1"),
    ],
    ids=str,
)
def test_bounds_are_those_of_the_dataclass(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


CODE = """
import dataclasses, sys, types
from experiments.bench import command_line, parsing, settings
from experiments.bench.settings import flag

@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    numbers: tuple[int, ...] = flag("1,2", "Some numbers.", parsing.lengths, name="number")
    word: str = flag("one", "A word.", choices=("one", "two"))
    budget: float = flag(1.0, "Seconds.", at_least=0.5)
    is_so: bool = flag(True, "Whether it is.")

sys.modules["home"] = types.SimpleNamespace(run=lambda asked: print(asked) or 1)
command_line.run(Settings, "home")
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--number=2:8", "--nois_so"], 1, "Settings(numbers=(2, 4, 8), word='one', budget=1.0, is_so=False)"),
        (["--help"], 0, "--[no]is_so: Whether it is."),
        (["--numbers=1"], 2, "error: Unknown command line flag 'numbers'"),
        (["--number=0"], 2, "error: --number has '0': expected a whole number"),
        (["--word=three"], 2, "error: flag --word=three: value should be one of <one|two>"),
        (["--budget=much"], 2, "error: flag --budget=much: expected a number >= 0.5"),
        (["--budget=0"], 2, "error: --budget=0.0: expected at least 0.5"),
        (["more"], 2, "error: 'more' belongs to no flag"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_line_is_that_of_the_dataclass(words, code, said):
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert code != 2 or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("experiment", sections.known(), ids=lambda each: each.name)
def test_what_identifies_a_cell_is_said_once_and_not_whose_it_is(experiment):
    assert experiment.key and len(set(experiment.key)) == len(experiment.key)
    assert not set(records.OWNER) & set(experiment.key)
