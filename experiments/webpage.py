"""One self-contained HTML page: figures and tables inside it, nothing fetched, every cell escaped."""

from __future__ import annotations

import base64
import html
import pathlib

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


def document(title: str, introduction: str, parts: list[str]) -> str:
    """A page of parts that are HTML already; title and introduction are text."""
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>"
    )
    return "\n".join([head, *parts, f"<script>{SCRIPT}</script></body></html>"])


def figure(path: pathlib.Path) -> str:
    """A PNG as part of the page."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem.replace("_", " "))
    return f'<figure><img alt="{name}" src="data:image/png;base64,{encoded}"></figure>'


def table(header: list[str], lines: list[list[str]]) -> str:
    """A table whose cells are escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def details(title: str, header: list[str], lines: list[list[str]]) -> str:
    """A table that is folded until it is asked for."""
    return f"<details><summary>{html.escape(title)} ({len(lines)})</summary>{table(header, lines)}</details>"
