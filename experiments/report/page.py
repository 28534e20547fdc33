"""Rows and figures of all folders to one HTML page; rows and files are read, nothing is run."""

from __future__ import annotations

import pathlib
import sys
from collections import Counter
from typing import NamedTuple

from experiments.bench import command_log, provenance, records
from experiments.report import at, sections
from experiments.report.sections import Found
from experiments.show import statistics, tables, webpage
from experiments.show.tables import Table

TITLE = "Attention kernels compared"
INTRODUCTION = "Which attention to use, what it costs, and what it loses: all from rows that the commands below wrote."
UNKNOWN = "Rows of an experiment without a section of its own"
HEAVY = 10 * 2**20  # bytes, above which a page is slow to open and to send


def write(folder: pathlib.Path, out: pathlib.Path, length: int | None = None) -> pathlib.Path:
    """Write the page of `folder` to `out`, which opens with what is known at one length.

    Args:
      length: that length; the longest that was timed unless given.

    Raises:
      ValueError: no experiment has left rows that are whole in the folder, or below it.
    """
    found = sorted((each for place in places(folder) for each in _sections(place, folder)), key=lambda each: each.place)
    if not any(each.content for each in found):
        raise ValueError(f"no rows to report: expected {records.ROWS} with some in {folder}, or in folders below it")
    told = {"title": TITLE, "introduction": INTRODUCTION, "sections": found, "cost": command_log.total(folder)}
    page = webpage.render("report/page.html", **told, opening=_opening(folder, length, found))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8", errors="replace")
    if len(page) > HEAVY:
        print(f"warning: {out} has {len(page) / 2**20:.0f} MiB: report parts of {folder} apart", file=sys.stderr)
    return out


def _opening(folder: pathlib.Path, length: int | None, found: list[Section]) -> str:
    """What is known at one length as HTML; nothing where rows are of another version, which their sections tell."""
    try:
        known = at.of_folder(places(folder), length)
        if known is None:
            return ""
        elsewhere = [(each.anchor, each.folder) for each in found if known.asked in each.timed_at]
        return webpage.render("report/opening.html", **known._asdict(), elsewhere=elsewhere)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""


def places(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folder and all below it that have rows."""
    return sorted({path.parent for path in folder.rglob(records.PARTS)})


class Content(NamedTuple):
    """What is said of rows of one experiment: `summaries` are tables as HTML, `shared` is the same in all rows."""

    counts: str
    summaries: list[str]
    problem: str
    shared: str
    cells: Table
    points: list[str]
    environments: Table


class Section(NamedTuple):
    """What is shown of rows of one experiment in one folder.

    Attributes:
      place: among other experiments.
      question: which it asks.
      subject: what the rows are about, which may be empty.
      folder: where they are.
      timed_at: lengths in tokens, at which something was timed.
    """

    place: int
    question: str
    subject: str
    timed_at: frozenset[int]
    folder: str
    command: str
    damages: list[str]
    figures: list[pathlib.Path]
    content: Content | None

    @property
    def heading(self) -> str:
        """What it is about, and its folder, such as `Recall of 8 pairs (accuracy/recall)`."""
        return f"{self.subject[0].upper()}{self.subject[1:]} ({self.folder})" if self.subject else self.folder

    @property
    def anchor(self) -> str:
        """What it is linked by."""
        return f"{self.place}-{self.folder}".replace(" ", "_")


def _sections(place: pathlib.Path, root: pathlib.Path) -> list[Section]:
    """The sections of a folder; its figures stand in the first. What is damaged is said, there and on the terminal."""
    rows, damaged = records.whole(place)
    records.tell(damaged)
    folder = place.relative_to(root).as_posix() if place != root else place.resolve().name
    damages = [f"{count} damaged line(s) of {path.name} were skipped." for path, count in damaged.items()]
    figures, told = sorted(place.glob("*.png")), (folder, _command(place, root), damages)
    found = []
    for each in sections.split(rows):
        question = sections.question(each.experiment) if each.experiment else UNKNOWN
        about = question, sections.subject(each.rows), sections.timed_at(each.rows)
        found.append(Section(sections.place(each.experiment), *about, *told, figures, _content(each)))
        figures = []
    return found or [Section(sections.place(None), "No rows", "", frozenset(), *told, figures, None)]


def _command(place: pathlib.Path, root: pathlib.Path) -> str:
    """The commands of the folder, or of the nearest above it that tells its own: one run may fill several."""
    for near in (place, *place.parents):
        command = near / command_log.COMMAND
        if command.is_file():
            return command.read_text(errors="replace").strip()
        if near == root:
            break
    return ""


def _content(found: Found) -> Content:
    same, every = tables.cells(found.rows)
    shared = ", ".join(f"{name} {value}" for name, value in same.items())
    return Content(
        _counts(found.rows),
        *_summaries(found),
        f"In all of them: {shared}." if same else "",
        every,
        _support(found),
        _environments(found.rows),
    )


def _counts(rows: list[dict]) -> str:
    statuses = Counter(str(row["status"]) for row in rows)
    counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    return f"{len(rows):,} cell{'s' * (len(rows) > 1)}: {counts}."


def _summaries(found: Found) -> tuple[list[str], str]:
    """What the experiment says, and why not: rows that it does not understand, such as those of another version."""
    if found.experiment is None:
        return [], ""
    try:
        return [webpage.table(each.header, each.lines, each.title) for each in found.summaries()], ""
    except Exception as error:  # rows come from files: what one of them lacks must not take the page with it
        why = f"{type(error).__name__}: {error}"
        return [], f"experiments.{found.experiment.name} could not summarise these rows ({why}); all cells are below."


def _support(found: Found) -> list[str]:
    """What may be concluded from these rows, and what may not."""
    points = list(found.experiment.caveats) if found.experiment else []
    trained = [row for row in found.rows if "train_seconds" in row and row["status"] == "measured"]
    if trained:
        points.append(_seeds(trained, found.experiment.key if found.experiment else ("kernel",)))
    machines = {tuple(str(row.get(name)) for name in ("platform", "device", "cores")) for row in found.rows}
    if len(machines) > 1:
        points.append(f"Rows are of {len(machines)} machines: compare those of one.")
    return points


def _seeds(trained: list[dict], key: tuple[str, ...]) -> str:
    """How many seeds the cell with the fewest has."""
    without = tuple(name for name in key if name != "seed")
    seeds: dict[tuple, set] = {}
    for row in trained:
        seeds.setdefault(records.cell(row, without), set()).add(records.cell(row, ("seed",)))
    fewest = min(map(len, seeds.values()))
    if fewest < statistics.CLAIM:
        few = f"fewer than {statistics.CLAIM} support no claim about which kernel is better"
        return f"{fewest} seed(s) for a trained cell: {few}."
    return f"{fewest} seeds for each trained cell, 95% intervals over seeds."


def _environments(rows: list[dict]) -> Table:
    kinds = dict.fromkeys(tuple(tables.text(name, row.get(name)) for name in provenance.ENVIRONMENT) for row in rows)
    return Table("", list(provenance.ENVIRONMENT), list(map(list, kinds)))
