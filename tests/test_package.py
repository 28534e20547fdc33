"""What an installed attnzoo is: light to import, free of flags, and nothing but itself."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import setuptools

ROOT = pathlib.Path(__file__).parent.parent


def output_of(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_import_brings_no_flax_and_defines_no_flag():
    code = """
import sys
from absl import flags
before = set(flags.FLAGS)
import attnzoo
print(sorted({"flax", "optax", "matplotlib", "rich", "jaxtyping", "experiments"} & set(sys.modules)))
print(sorted(set(flags.FLAGS) - before))
"""
    assert output_of(code).split("\n")[:2] == ["[]", "[]"]


def test_the_wheel_holds_attnzoo_alone():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    include = config["options.packages.find"]["include"]
    packages = setuptools.find_packages(str(ROOT), include=[include])
    assert packages
    assert all(name == "attnzoo" or name.startswith("attnzoo.") for name in packages)
    folders = {path.parent for path in (ROOT / "attnzoo").rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == set(packages)


@pytest.mark.slow
def test_an_editable_install_finds_experiments_from_anywhere(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".*", "results", "runs", "*.egg-info"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", "copy"]
    build = os.environ | {"PYTHONPATH": str(pathlib.Path(setuptools.__file__).parent.parent)}
    subprocess.run(install, check=True, cwd=tmp_path, env=build)
    found = "import experiments.scaling; print(experiments.scaling.__file__)"
    alone = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", found], capture_output=True, text=True, check=True, cwd="/", env=alone)
    assert done.stdout.startswith(str(tmp_path / "copy"))


def test_public_names_are_documented():
    code = """
import attnzoo
names = [name for name in dir(attnzoo) if not name.startswith("_")]
public = [getattr(attnzoo, name) for name in names]
print([n for n, x in zip(names, public) if callable(x) and not (x.__doc__ or "").strip()])
"""
    assert output_of(code).strip() == "[]"
