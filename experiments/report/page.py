"""Rows and figures to one HTML page; rows and files are read, nothing is run."""

from __future__ import annotations

import html
import pathlib

from experiments import records, statistics
from experiments.webpage import details, document, figure, table

SECTIONS = {
    "scaling": "What does each kernel cost, in time and memory, as the sequence grows?",
    "accuracy": "What does each kernel lose, as the sequence grows?",
}
COMMAND = "command.txt"
TITLE = "Attention kernels compared"
INTRODUCTION = (
    "Which attention to use, what it costs, and what it loses. Every figure and table here is drawn from rows that the "
    "commands below wrote."
)
ENVIRONMENT = ("python", "jax", "jaxlib", "flax", "numpy", "platform", "device", "cores", "commit", "dirty")


def write(folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Write the page of `folder` to `out`.

    Raises:
      ValueError: no experiment has left rows in the folder.
    """
    found = {name: records.read(folder / name) for name in SECTIONS}
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        expected = " or ".join(str(folder / name / records.ROWS) for name in SECTIONS)
        raise ValueError(f"no rows to report: expected {expected}")
    parts = [_section(name, rows, folder / name) for name, rows in found.items()]
    every = [row for rows in found.values() for row in rows]
    page = document(TITLE, INTRODUCTION, [*parts, _support(found), _environment(every)])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    return out


def _section(name: str, rows: list[dict], folder: pathlib.Path) -> str:
    parts = [f"<h2>{html.escape(SECTIONS[name])}</h2>"]
    command = folder / COMMAND
    if command.exists():
        parts.append(f"<pre>{html.escape(command.read_text().strip())}</pre>")
    parts += [figure(path) for path in sorted(folder.glob("*.png"))]
    parts.append({"scaling": _scaling, "accuracy": _accuracy}[name](rows))
    return "\n".join(parts)


def _scaling(rows: list[dict]) -> str:
    from experiments.scaling import analysis
    from experiments.scaling.run import KEY

    rows = list(records.latest(rows, KEY).values())
    text = (
        "<p>Exponents are slopes of straight lines through the logarithms of the last four lengths, with 95% intervals. "
        '"Faster than softmax from" is where median times cross, with a bootstrap interval over repetitions: "before" the '
        'first length and "beyond" the last are answers.</p>'
    )
    header = ["kernel", "pass", "length", "status", "median ms", "quartiles ms", "compile s", "temporary MiB", "GFLOP"]
    lines = [_scaling_line(row) for row in rows]
    return text + table(*analysis.table(analysis.summarise(rows))) + details("All cells", [*header, "reason"], lines)


def _scaling_line(row: dict) -> list[str]:
    def shown(name, form, factor=1.0):
        return "" if row.get(name) is None else form.format(row[name] * factor)

    quartiles = row.get("quartiles")
    return [
        row["kernel"],
        row["pass"],
        f"{row['length']:,}",
        row["status"],
        shown("median", "{:,.2f}", 1e3) or shown("predicted_seconds", "predicted {:,.0f}", 1e3),
        " to ".join(f"{value * 1e3:,.2f}" for value in quartiles) if quartiles else "",
        shown("compile_seconds", "{:.2f}"),
        shown("temporary_bytes", "{:,.1f}", 2.0**-20),
        shown("flops", "{:,.2f}", 1e-9),
        row.get("reason", ""),
    ]


def _accuracy(rows: list[dict]) -> str:
    from experiments.accuracy import analysis
    from experiments.accuracy.cells import KEY

    rows = list(records.latest(rows, KEY).values())
    text = (
        "<p>Scores on examples that the model has not seen: bits of each target, where lower is better, or the share of "
        "answers that are right. Differences to exact attention are paired by seed. Data: "
        + ", ".join(f"{html.escape(task)} {_digest(digest)}" for task, digest in _data(rows))
        + ".</p>"
    )
    names = ("kernel", "positions", "task", "length", "width", "learning_rate", "seed", "status")
    header = [
        *(name.replace("_", " ") for name in names),
        "score",
        "bits",
        "parameters",
        "best step",
        "train s",
        "reason",
    ]
    lines = [[*(_plain(row[name]) for name in names), *_accuracy_numbers(row)] for row in rows]
    return text + table(*analysis.table(analysis.summarise(rows))) + details("All cells", header, lines)


def _accuracy_numbers(row: dict) -> list[str]:
    forms = {"score": ".4f", "bits": ".4f", "parameters": ",", "best_step": ",", "train_seconds": ".1f"}
    return [*(format(row[name], form) if name in row else "" for name, form in forms.items()), row.get("reason", "")]


def _plain(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _data(rows: list[dict]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["task"], row["digest"]) for row in rows))


def _digest(digest: str) -> str:
    return f"SHA-256 <code>{html.escape(digest)}</code>" if digest else "made up from seeds"


def _support(found: dict[str, list[dict]]) -> str:
    """What may be concluded from this page, and what may not."""
    points = ["Times and memory are those of one machine; ratios carry over better than seconds."]
    if "scaling" in found:
        points.append("Operands are random: kernels whose work depends on data are not in this catalogue yet.")
    if "accuracy" in found:
        seeds = len({row["seed"] for row in found["accuracy"]})
        few = f"{seeds} seed(s) for each cell: fewer than {statistics.CLAIM} support no claim about which kernel is better."
        points.append(few if seeds < statistics.CLAIM else f"{seeds} seeds for each cell, 95% Student t intervals.")
        points.append(
            "The models are small and briefly trained: they show that each kernel learns, not how far it can."
        )
    return "<h2>What this supports</h2><ul>" + "".join(f"<li>{html.escape(point)}</li>" for point in points) + "</ul>"


def _environment(rows: list[dict]) -> str:
    kinds = dict.fromkeys(tuple(str(row.get(name)) for name in ENVIRONMENT) for row in rows)
    return "<h2>Environment</h2>" + table(list(ENVIRONMENT), [list(kind) for kind in kinds])
