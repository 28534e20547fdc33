"""What the documents show is run: Python blocks, commands, and the examples in docstrings."""

import doctest
import functools
import importlib
import os
import pathlib
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import attnzoo
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Band
from attnzoo.engines import recurrence, streaming
from attnzoo.engines.gathered import Order
from attnzoo.engines.schedule import Layout, Schedule
from attnzoo.engines.state import Channels, Write
from experiments.bench.settings import parsed
from tests.few import few

ROOT = pathlib.Path(__file__).parent.parent

# Of whose names those that they define are for users.
ROOMS = ("attnzoo.testing", "attnzoo.models", "attnzoo.positions", "attnzoo.nnx", "attnzoo.linen")
# What BUILD.md tells authors of kernels to write a fast route with.
ENGINES = (
    *(streaming.over_heads, streaming.part, Layout, Schedule, Band, Call, Order),
    *(recurrence.attend, recurrence.start, recurrence.step, recurrence.Rule, Write, Channels),
)


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def modules() -> list[str]:
    found = pkgutil.walk_packages(attnzoo.__path__, "attnzoo.")
    return ["attnzoo", *sorted(module.name for module in found)]


@pytest.mark.parametrize("document", few(["README.md", "BUILD.md", "docs/coming_from.md"], ["docs/coming_from.md"]))
def test_python_blocks_run(document, tmp_path):
    script = tmp_path / "document.py"
    script.write_text("\n".join(blocks(document, "python")))
    assert script.stat().st_size
    runpy.run_path(str(script))


# Whatever a command starts finds this module first, and no network.
OFFLINE = """
import socket
from tests.few import few
def refuse(self, address, *rest):
    raise OSError(f"the network is not for tests: {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
"""


# What makes this suite compile quickly.
QUICK = {name: x for name, x in os.environ.items() if name.startswith(("JAX_", "XLA_"))}


# What trains is shown with as many steps as it takes to learn, and lengths with as many as make a figure, which is not
# what is tested here.
SHORTER = {
    "experiments.accuracy": (
        *("--steps=2", "--seeds=1", "--eval_lengths=32", "--layers=1", "--jobs=1", "--isolate=false"),
    ),
    "experiments.scaling": ("--lengths=128", "--passes=forward"),
    "experiments.suites": ("--dry_run",),
}


def commands() -> list[str]:
    """What README tells its readers to run."""
    return [line for block in blocks("README.md", "bash") for line in joined(block) if line.startswith("python -m")]


def test_readme_commands_are_understood():
    assert commands()
    for command in commands():
        _, _, module, *words = shlex.split(command)
        flags = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
        known = importlib.import_module(f"{module}.__main__").Settings
        parsed(known, **{name: value or "true" for name, value in flags.items()})


@pytest.mark.slow
def test_readme_commands_run_without_a_network(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    for command in commands():
        words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, *words[1:], *SHORTER.get(words[2], ())],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"} | QUICK,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def joined(block: str) -> list[str]:
    """Lines of a shell block, those that end in a backslash joined with the next."""
    return block.replace("\\\n", " ").splitlines()


def public() -> list:
    """Classes and functions that users of the package, and authors of kernels, are told to call."""
    rooms = [importlib.import_module(room) for room in ROOMS]
    own = [x for room in rooms for x in vars(room).values() if getattr(x, "__module__", "").startswith(room.__name__)]
    named = [x for x in (*(getattr(attnzoo, name) for name in attnzoo.__all__), *own) if callable(x)]
    return list({f"{x.__module__}.{x.__qualname__}": x for x in (*named, *ENGINES) if x.__name__[0] != "_"}.values())


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name):
    given = {key: getattr(attnzoo, key) for key in attnzoo.__all__} | {"jax": jax, "jnp": jnp}
    result = doctest.testmod(importlib.import_module(name), globs=given, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_public_names_have_examples():
    found = [test for name in modules() for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    shown = {test.name for test in found if test.examples}
    assert [name for x in public() if (name := f"{x.__module__}.{x.__qualname__}") not in shown] == []


DOCUMENTS = ("README.md", "BUILD.md", "CONTRIBUTING.md", "docs/design.md", "docs/coming_from.md", "results/README.md")
# What a reader of BUILD.md makes.
TO_BE_MADE = {"attnzoo/kernels/sigmoid.py", "tests/oracles/sigmoid.py", "dist/"}
PATH = r"[\w./-]*\w(?:\.py|/)"


@functools.cache
def standing() -> set[str]:
    """Files and folders of the repository, each by all ends of its path, such as `engines/state.py` and `state.py`."""
    rooms = [ROOT / room for room in ("attnzoo", "experiments", "tests", "results")]
    found = [path for room in rooms for path in (room, *room.rglob("*"))]
    parts = [(*path.relative_to(ROOT).parts, "")[: None if path.is_dir() else -1] for path in found]
    return {"/".join(whole[start:]) for whole in parts for start in range(len(whole))}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_named_in_backticks_or_linked_exists(document):
    text = (ROOT / document).read_text()
    linked = re.findall(r"\]\(([^):]+)\)", text)
    assert [path for path in linked if not (ROOT / document).parent.joinpath(path).exists()] == []
    assert set(re.findall(f"`({PATH})`", text)) - TO_BE_MADE - standing() == set()


def test_the_house_is_as_it_is_listed():
    listing = re.search(r"## The house\n\n(.*?)\n\n(?=\S)", (ROOT / "docs/design.md").read_text(), re.DOTALL)[1]
    folders, missing = [(0, ROOT)], []
    for line in listing.splitlines():
        indent = len(line) - len(line.lstrip())
        while folders[-1][0] >= indent:
            folders.pop()
        first, *others = re.findall(rf"(?<![\w./]){PATH}(?!\w)", line)
        stands = folders[-1][1] / first
        missing += [first] * (not stands.exists()) + [path for path in others if path not in standing()]
        folders += [(indent, stands)] * stands.is_dir()
    assert missing == []
