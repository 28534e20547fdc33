"""What the documents show is run: Python blocks, commands, and the examples in docstrings."""

import doctest
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

ROOT = pathlib.Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def modules() -> list[str]:
    found = pkgutil.walk_packages(attnzoo.__path__, "attnzoo.")
    return ["attnzoo", *sorted(module.name for module in found)]


@pytest.mark.parametrize("document", ["README.md", "BUILD.md"])
def test_python_blocks_run(document, tmp_path):
    script = tmp_path / "document.py"
    script.write_text("\n".join(blocks(document, "python")))
    assert script.stat().st_size
    runpy.run_path(str(script))


# Whatever a command starts finds this module first, and no network.
OFFLINE = """
import socket
def refuse(self, address, *rest):
    raise OSError(f"the network is not for tests: {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
"""


# What makes this suite compile quickly.
QUICK = {name: x for name, x in os.environ.items() if name.startswith(("JAX_", "XLA_"))}


# What trains is shown with as many steps as it takes to learn, and lengths with as many as make a figure, which is not
# what is tested here.
SHORTER = {"experiments.accuracy": ("--steps=2", "--seeds=1"), "experiments.scaling": ("--lengths=128",)}


def test_readme_commands_run_without_a_network(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    commands = [line for block in blocks("README.md", "bash") for line in joined(block) if line.startswith("python -m")]
    assert commands
    for command in commands:
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


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name):
    names = {key: getattr(attnzoo, key) for key in dir(attnzoo) if not key.startswith("_")}
    result = doctest.testmod(importlib.import_module(name), extraglobs={"jax": jax, "jnp": jnp, **names})
    assert result.failed == 0
