"""The page: one file, nothing fetched, everything escaped."""

import re

import pytest

from attnzoo import Softmax
from experiments import records
from experiments.report.page import write
from experiments.tasks.text import MaskedText
from tests import test_accuracy, test_scaling


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    test_scaling.run.run(test_scaling.settings(out / "scaling"))
    test_accuracy.run.run(test_accuracy.settings(out / "accuracy", tasks=(MaskedText(),), kernels=(Softmax(),)))
    (out / "scaling" / "command.txt").write_text("python -m experiments.scaling --kernels='<all>'\n")
    return out


def test_the_page_stands_alone(folder):
    page = write(folder, folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    for part in ("&lt;all&gt;", "support no claim", "time exponent", "MaskedText", "SlidingWindow(left=7", "jaxlib"):
        assert part in page


def test_names_are_escaped(folder, tmp_path):
    row = records.read(folder / "scaling")[0] | {"kernel": "<script>alert(1)</script>", "length": 17}
    (tmp_path / "scaling").mkdir()
    records.append(tmp_path / "scaling", row)
    page = write(tmp_path, tmp_path / "page.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
