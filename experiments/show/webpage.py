"""One self-contained HTML page: figures and tables inside it, nothing fetched, every cell escaped.

That nothing is fetched is a property of the page: its Content-Security-Policy allows images inside it and the one
script and style written here, which are named by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import pathlib

from experiments.show.units import Shown

WIDE = 40  # characters, beyond which a cell may be broken into lines
PNG, END = b"\x89PNG\r\n\x1a\n", b"IEND"
SCREEN, DOTS = 96, 150  # dots of an inch: of a browser, and of figures, whose letters so have one size

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 96rem; margin: 2rem auto; padding: 0 1rem; }
p, ul, ol { max-width: 60rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
img { max-width: 100%; height: auto; background: white; border: 1px solid var(--line); box-sizing: border-box; }
figure { margin: 1rem 0; } .from { font-size: .9rem; opacity: .8; }
.warning { border-left: 4px solid #d55e00; padding-left: .8rem; }
.table { overflow-x: auto; margin: 1rem 0; } caption { text-align: left; font-weight: 600; padding: .3rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { vertical-align: bottom; } td { white-space: nowrap; }
td.wide { white-space: normal; min-width: 18rem; overflow-wrap: anywhere; }
th.number, td.number { text-align: right; }
th button { font: inherit; font-weight: 600; color: inherit; text-align: inherit; cursor: pointer; }
th button { background: none; border: 0; padding: 0; }
th[aria-sort=ascending] button::after { content: " \\25b4"; }
th[aria-sort=descending] button::after { content: " \\25be"; }
tbody tr:hover { background: var(--soft); } summary { cursor: pointer; margin: .5rem 0; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { max-width: none; } h2 { break-before: page; } }
"""
# Sort a table by the column whose head is pressed, and by it in reverse when pressed again. Cells that know their
# number go by it and come before text; empty ones come last either way. Equals keep their order, so that pressing two
# heads in turn sorts by both.
SCRIPT = """
const read = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};
const rank = value => typeof value === "number" ? 0 : value === "" ? 2 : 1;
const compared = (a, b) => typeof a === "number" ? (a > b) - (a < b) : a.localeCompare(b, "en", { numeric: true });
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  const order = (a, b) => rank(a) - rank(b) || (rank(a) < 2 && compared(a, b) * (down ? -1 : 1));
  for (const each of head.parentElement.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = [...body.rows].map(row => [read(row, head.cellIndex), row]);
  body.append(...keyed.sort((a, b) => order(a[0], b[0])).map(pair => pair[1]));
};
"""


def document(title: str, introduction: str, parts: list[str]) -> str:
    """A page of parts that are HTML already; title and introduction are text."""
    allowed = f"default-src 'none'; img-src data:; style-src {_digest(STYLE)}; script-src {_digest(SCRIPT)}"
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"{allowed}; base-uri 'none'; form-action 'none'\">"
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>"
    )
    return "\n".join([head, *parts, f"<script>{SCRIPT}</script></body></html>"])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def figure(path: pathlib.Path) -> str:
    """A PNG as part of the page; one that a run was stopped in the middle of writing is told."""
    content = path.read_bytes()
    if not content.startswith(PNG) or END not in content[-12:]:
        return warning(f"{path.name} is no whole PNG: run its command again, which draws what is there.")
    pixels = int.from_bytes(content[16:20])  # the width, as the header of a PNG has it
    name = html.escape(path.stem.replace("_", " "))
    encoded = base64.b64encode(content).decode()
    width = f' width="{round(pixels * SCREEN / DOTS)}"'
    return f'<figure><img alt="{name}"{width} src="data:image/png;base64,{encoded}"></figure>'


def warning(text: str) -> str:
    """A sentence that is not to be missed."""
    return f'<p class="warning">{html.escape(text)}</p>'


def table(header: list[str], lines: list[list[str]], title: str = "") -> str:
    """A table that is sorted by its heads. Cells are escaped; those that are `Shown` are sorted by their numbers."""
    numbers = [any(isinstance(line[column], Shown) for line in lines) for column in range(len(header))]
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    head = "".join(_head(name, is_number) for name, is_number in zip(header, numbers, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, line, numbers))}</tr>" for line in lines)
    return f'<div class="table"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _head(name: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    return f'<th scope="col"{kind}><button type="button">{html.escape(name)}</button></th>'


def _cell(cell: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ' class="wide"' if len(cell) > WIDE else ""
    value = f' data-value="{_number(cell.value)}"' if isinstance(cell, Shown) else ""
    return f"<td{kind}{value}>{html.escape(cell)}</td>"


def _number(value: float) -> str:
    """A number as JavaScript reads it."""
    return repr(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def details(title: str, header: list[str], lines: list[list[str]]) -> str:
    """A table that is folded until it is asked for."""
    return f"<details><summary>{html.escape(title)} ({len(lines)})</summary>{table(header, lines)}</details>"
