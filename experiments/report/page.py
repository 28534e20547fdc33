"""Rows and figures to one HTML page; rows and files are read, nothing is run."""

from __future__ import annotations

import base64
import html
import pathlib

from experiments import records, statistics

SECTIONS = {
    "scaling": "What does each kernel cost, in time and memory, as the sequence grows?",
    "accuracy": "What does each kernel lose, on real text, as the sequence grows?",
}
COMMAND = "command.txt"
ENVIRONMENT = ("python", "jax", "jaxlib", "flax", "numpy", "platform", "device", "cores", "commit", "dirty")

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
img { max-width: 100%; background: white; border: 1px solid var(--line); }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; opacity: .8; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right; vertical-align: top; }
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child { text-align: left; } th { cursor: pointer; }
td:not(:last-child) { white-space: nowrap; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; white-space: pre-wrap; } .table { overflow-x: auto; }
@media print { body { max-width: none; } h2 { break-before: page; } }
"""
# Sort a table by the column whose head is clicked: numbers as numbers, the rest as text.
SCRIPT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex, down = head.dataset.down !== "1";
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const number = text => parseFloat(text.replaceAll(",", ""));
  const order = (a, b) => number(a) - number(b) || a.localeCompare(b);
  head.dataset.down = down ? "1" : "0";
  body.append(...[...body.rows].sort((a, b) => order(value(a), value(b)) * (down ? 1 : -1)));
};
"""


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
    page = "\n".join(
        [_head(), *parts, _support(found), _environment(every), f"<script>{SCRIPT}</script></body></html>"]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    return out


def _head() -> str:
    title = "Attention kernels compared"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        "<p>Which attention to use, what it costs, and what it loses. Every figure and table here is drawn from rows that "
        "the commands below wrote.</p>"
    )


def _section(name: str, rows: list[dict], folder: pathlib.Path) -> str:
    parts = [f"<h2>{html.escape(SECTIONS[name])}</h2>"]
    command = folder / COMMAND
    if command.exists():
        parts.append(f"<pre>{html.escape(command.read_text().strip())}</pre>")
    parts += [_figure(path) for path in sorted(folder.glob("*.png"))]
    parts.append({"scaling": _scaling, "accuracy": _accuracy}[name](rows))
    return "\n".join(parts)


def _figure(path: pathlib.Path) -> str:
    encoded = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem.replace("_", " "))
    return f'<figure><img alt="{name}" src="data:image/png;base64,{encoded}"></figure>'


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
    return text + table(*analysis.table(analysis.summarise(rows))) + _details("All cells", [*header, "reason"], lines)


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
    from experiments.accuracy.run import latest

    rows = list(latest(rows).values())
    measured = [row for row in rows if row["status"] == "measured"]
    unigram = f"{measured[0]['unigram_bits']:.2f}" if measured else "unknown"
    text = (
        f"<p>Bits per byte of files that the model has not seen, lower is better. Chance is 8 bits, the frequency of bytes "
        f"alone gives {unigram}. Corpus: SHA-256 <code>{html.escape(rows[0]['corpus'])}</code>, the standard library of "
        f"Python {html.escape(rows[0]['python'])}.</p>"
    )
    header = [
        "kernel",
        "positions",
        "objective",
        "length",
        "seed",
        "status",
        "bits per byte",
        "parameters",
        "train s",
        "reason",
    ]
    lines = [
        [
            row["kernel"],
            row["positions"],
            row["objective"],
            f"{row['length']:,}",
            str(row["seed"]),
            row["status"],
            f"{row['bits']:.4f}" if "bits" in row else "",
            f"{row['parameters']:,}" if "parameters" in row else "",
            f"{row['train_seconds']:.1f}" if "train_seconds" in row else "",
            row.get("reason", ""),
        ]
        for row in rows
    ]
    return text + table(*analysis.table(analysis.summarise(rows))) + _details("All cells", header, lines)


def table(header: list[str], lines: list[list[str]]) -> str:
    """A table whose cells are escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _details(title: str, header: list[str], lines: list[list[str]]) -> str:
    return f"<details><summary>{html.escape(title)} ({len(lines)})</summary>{table(header, lines)}</details>"


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
