"""A new kernel is its file and a line in the one list: nothing else needs to know its name."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = ("docs", "README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md")
FILES = ("attnzoo", "experiments", "tests", "results", *DOCUMENTS, "setup.cfg", "pyproject.toml")
# Where tests ask every kernel of the catalogue, or tell how many there are.
ASKED = ("tables", "figures", "oracles", "layers", "cost", "bad_input", "package")


@pytest.fixture
def grown(tmp_path):
    """A copy of the project, with the kernel of BUILD.md in its catalogue."""
    for name in FILES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "BUILD.md").read_text(), re.DOTALL)
    equation = next(block for block in blocks if "class Sigmoid" in block)
    (tmp_path / "attnzoo/kernels/sigmoid.py").write_text(f'"""Attention by sigmoids."""\n\n{equation}')
    one_list = tmp_path / "attnzoo/kernels/__init__.py"
    before, rest = one_list.read_text().split("\nKERNELS")
    one_list.write_text(f"{before}from attnzoo.kernels.sigmoid import Sigmoid as Sigmoid\n\nKERNELS{rest}")
    run(tmp_path, "tests.tables")
    return tmp_path


def run(folder, *words):
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


def test_all_that_knows_kernels_knows_it(grown):
    assert "| `sigmoid` | `Sigmoid(shift=-4.0)` |" in (grown / "README.md").read_text()
    files = [f"tests/test_{name}.py" for name in ASKED]
    told = run(grown, "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", "igmoid or tables or style or star")
    assert "no oracle" in told  # it is skipped, and says so
    assert int(re.search(r"(\d+) passed", told).group(1)) > 5


@pytest.mark.slow
def test_the_whole_suite_passes_with_it(grown):
    run(grown, "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "-m", "not slow")
