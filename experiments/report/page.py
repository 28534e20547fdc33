"""Rows and figures of all folders to one HTML page; rows and files are read, nothing is run."""

from __future__ import annotations

import html
import pathlib
import sys
from collections import Counter
from typing import NamedTuple

from experiments.bench import command_log, provenance, records
from experiments.report import sections
from experiments.report.sections import Found
from experiments.show import statistics, tables
from experiments.show.webpage import details, document, figure, table, warning

TITLE = "Attention kernels compared"
INTRODUCTION = (
    "Which attention to use, what it costs, and what it loses. Every figure and table here is drawn from rows that the "
    "commands below wrote. The head of a column sorts by it."
)
HEAVY = 10 * 2**20  # bytes, above which a page is slow to open and to send


def write(folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Write the page of `folder` to `out`.

    Raises:
      ValueError: no experiment has left rows in the folder, or below it.
    """
    parts = sorted((part for place in places(folder) for part in _parts(place, folder)), key=lambda part: part.place)
    if not parts:
        raise ValueError(f"no rows to report: expected {records.ROWS} in {folder}, or in folders below it")
    page = document(TITLE, INTRODUCTION + _cost(folder), _numbered(parts))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8", errors="replace")
    if len(page) > HEAVY:
        print(f"warning: {out} has {len(page) / 2**20:.0f} MiB: report parts of {folder} apart", file=sys.stderr)
    return out


def _cost(folder: pathlib.Path) -> str:
    minutes = command_log.total(folder)
    return f" Those that tell their processor time took {minutes:,.0f} minutes of it." if minutes >= 1 else ""


def places(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folder and all below it that have rows."""
    return sorted({path.parent for path in folder.rglob(records.PARTS)})


class Part(NamedTuple):
    """A section: its place among others, its title, the folder that it is about, and its body as HTML."""

    place: int
    title: str
    folder: str
    body: str


def _parts(place: pathlib.Path, root: pathlib.Path) -> list[Part]:
    """The sections of a folder; its figures stand in the first."""
    rows, damaged = records.whole(place)
    name = place.relative_to(root).as_posix() if place != root else place.resolve().name
    head = [f'<p class="from">Folder <code>{html.escape(name)}</code></p>', *_commands(place, root)]
    head += [warning(f"{count} damaged line(s) of {path.name} were skipped.") for path, count in damaged.items()]
    figures = [figure(path) for path in sorted(place.glob("*.png"))]
    found = []
    for each in sections.split(rows):
        title = (
            sections.question(each.experiment)
            if each.experiment
            else "Rows of an experiment without a section of its own"
        )
        found.append(Part(sections.place(each.experiment), title, name, "\n".join([*head, *figures, *_body(each)])))
        figures = []
    return found or [Part(sections.place(None), "No rows", name, "\n".join([*head, *figures]))]


def _commands(place: pathlib.Path, root: pathlib.Path) -> list[str]:
    """The commands of the folder, or of the nearest above it that tells its own: one run may fill several."""
    for near in (place, *place.parents):
        command = near / command_log.COMMAND
        if command.is_file():
            return [f"<pre>{html.escape(command.read_text(errors='replace').strip())}</pre>"]
        if near == root:
            break
    return []


def _body(found: Found) -> list[str]:
    statuses = Counter(str(row["status"]) for row in found.rows if "status" in row)
    counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    parts = [
        f"<p>{len(found.rows):,} cell{'s' * (len(found.rows) > 1)}{': ' if counts else ''}{html.escape(counts)}.</p>",
        *_summaries(found),
    ]
    same, every = tables.cells(found.rows)
    shared = f"<p>In all of them: {html.escape(', '.join(f'{name} {value}' for name, value in same.items()))}.</p>"
    folded = details("All cells", every.header, every.lines)
    parts.append(folded.replace("</summary>", f"</summary>{shared}", 1) if same else folded)
    points = "".join(f"<li>{html.escape(point)}</li>" for point in _support(found))
    parts += [f"<h3>What this supports</h3><ul>{points}</ul>"] * bool(points)
    return [*parts, _environment(found.rows)]


def _summaries(found: Found) -> list[str]:
    """What the experiment says; rows that it does not understand, such as those of another version, are shown as they are."""
    if found.experiment is None:
        return []
    try:
        return [table(each.header, each.lines, each.title) for each in found.summaries()]
    except Exception as error:  # rows come from files: what one of them lacks must not take the page with it
        why = f"{type(error).__name__}: {error}"
        return [
            warning(f"experiments.{found.experiment.name} could not summarise these rows ({why}); all cells are below.")
        ]


def _support(found: Found) -> list[str]:
    """What may be concluded from these rows, and what may not."""
    points = list(found.experiment.caveats) if found.experiment else []
    trained = [row for row in found.rows if "train_seconds" in row and row.get("status") == "measured"]
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
    return f"{fewest} seeds for each trained cell, 95% Student t intervals."


def _environment(rows: list[dict]) -> str:
    kinds = dict.fromkeys(tuple(tables.text(name, row.get(name)) for name in provenance.ENVIRONMENT) for row in rows)
    return details("Environments", list(provenance.ENVIRONMENT), list(map(list, kinds)))


def _numbered(parts: list[Part]) -> list[str]:
    """Sections, after a list of them where there are several."""
    titles = [html.escape(part.title) for part in parts]
    named = [f"{title} <code>{html.escape(part.folder)}</code>" for title, part in zip(titles, parts, strict=True)]
    links = "".join(f'<li><a href="#s{number}">{name}</a></li>' for number, name in enumerate(named))
    bodies = [f'<h2 id="s{number}">{titles[number]}</h2>\n{part.body}' for number, part in enumerate(parts)]
    return [f"<nav><ol>{links}</ol></nav>"] * (len(parts) > 1) + bodies
