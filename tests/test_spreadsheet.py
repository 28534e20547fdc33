"""What a spreadsheet opens is text and numbers, and no formula."""

import csv

import pytest

from experiments.show import spreadsheet


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_formulas_become_text(start):
    assert spreadsheet.cell(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"


@pytest.mark.parametrize("number", ["-1", "+0.5", "-.5e-3", -1.5, 7, 1e-9])
def test_numbers_stay_numbers(number):
    assert float(spreadsheet.cell(number)) == float(number)


def test_other_values():
    assert [spreadsheet.cell(value) for value in (None, True, [1, "=a"], {"a": 1})] == [
        "",
        "true",
        '[1, "=a"]',
        '{"a": 1}',
    ]
    assert spreadsheet.cell("-1+cmd|' /C calc'!A0") == "'-1+cmd|' /C calc'!A0"


def test_rows_come_back(tmp_path):
    rows = [{"kernel": "=evil()", "note": 'a "b", c\nd'}, {"kernel": "Softmax()", "=head": 1}]
    spreadsheet.write(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [
        {"'=head": "", "kernel": "'=evil()", "note": 'a "b", c\nd'},
        {"'=head": "1", "kernel": "Softmax()", "note": ""},
    ]
