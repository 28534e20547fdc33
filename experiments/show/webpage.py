"""Self-contained HTML pages by templates: figures and tables inside them, nothing fetched, all text escaped.

That nothing is fetched is a property of a page: its Content-Security-Policy allows images inside it and the one style
and script beside this file, which are named by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
import pathlib

import jinja2

from experiments.show.units import Shown

HERE = pathlib.Path(__file__).parent
STYLE, SCRIPT = ((HERE / name).read_text() for name in ("webpage.css", "webpage.js"))
WIDE = 40  # characters, beyond which a cell may be broken into lines
PNG, END = b"\x89PNG\r\n\x1a\n", b"IEND"
SCREEN, DOTS = 96, 150  # dots of an inch: of a browser, and of figures, whose letters so have one size


def render(template: str, **given) -> str:
    """The page of a template, named by its path below `experiments`, such as `report/page.html`."""
    return TEMPLATES.get_template(template).render(given)


def table(header: list[str], lines: list[list[str]], title: str = "") -> str:
    """A table alone, as templates take it: whoever has cells of unknown kinds learns here whether they can be shown."""
    return TEMPLATES.get_template("show/parts.html").module.table(header, lines, title)


def _policy() -> str:
    allowed = f"default-src 'none'; img-src data:; style-src {_digest(STYLE)}; script-src {_digest(SCRIPT)}"
    return f"{allowed}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _picture(path: pathlib.Path) -> dict | None:
    """The attributes of an image; None for a PNG that is not whole."""
    content = path.read_bytes()
    if not content.startswith(PNG) or END not in content[-12:]:
        return None
    pixels = int.from_bytes(content[16:20])  # the width, as the header of a PNG has it
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"alt": path.stem.replace("_", " "), "width": round(pixels * SCREEN / DOTS), "src": source}


def _numeric(header: list[str], lines: list[list[str]]) -> list[bool]:
    """Of each column, whether a cell of it knows its number."""
    return [any(isinstance(line[column], Shown) for line in lines) for column in range(len(header))]


def _number(cell: str) -> str | None:
    """The number that a cell knows, as JavaScript reads it."""
    if not isinstance(cell, Shown):
        return None
    return repr(cell.value) if math.isfinite(cell.value) else "Infinity" if cell.value > 0 else "-Infinity"


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE.parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"style": STYLE, "script": SCRIPT, "policy": _policy(), "wide": WIDE}
TEMPLATES.globals |= {"picture": _picture, "numeric": _numeric, "number": _number}
