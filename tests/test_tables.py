"""What README and design say of the kernels is what the kernels say."""

import pytest

from attnzoo import KERNELS
from tests import tables


@pytest.mark.parametrize("name", tables.TABLES)
def test_tables_are_those_of_the_kernels(name):
    text = (tables.ROOT / name).read_text()
    assert text == tables.renewed(text, tables.TABLES[name]()), f"{name} is stale: run python -m tests.tables"


def test_a_stale_row_is_found():
    rows = [["name", "what"], ["a", "one"], ["b", ""]]
    stale = "Before.\n\n| name | what |\n|---|---|\n| a | two |\n\nAfter.\n"
    assert tables.renewed(stale, rows) == stale.replace("| a | two |", "| a | one |\n| b | |")


@pytest.mark.parametrize("name", KERNELS)
def test_a_refusal_has_a_reason(name):
    supports = KERNELS[name].supports
    everything = all(getattr(supports, field) for field in (*tables.COLUMNS.values(), "decode"))
    assert everything or "not declared" not in supports.why
