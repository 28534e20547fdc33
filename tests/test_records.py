"""Rows survive what happens to files, and one run at a time writes them."""

import json

import pytest

from experiments.bench import locks, provenance, records


def test_rows_come_back(tmp_path):
    rows = [{"status": "measured", "length": length} for length in (8, 16)]
    for row in rows:
        records.append(tmp_path, row)
    assert records.read(tmp_path) == rows
    assert records.read(tmp_path / "nothing") == []


def test_a_torn_line_is_skipped_and_then_cut_off(tmp_path, capsys):
    first, third = ({"n": n, "status": "measured"} for n in (1, 3))
    records.append(tmp_path, first)
    path = tmp_path / records.ROWS
    path.write_bytes(path.read_bytes() + b'{"n": 2, "torn')
    assert records.read(tmp_path) == [first]
    assert "skipped 1 damaged line" in capsys.readouterr().err
    records.append(tmp_path, third)
    assert path.read_text().splitlines() == [json.dumps(first), json.dumps(third)]


@pytest.mark.parametrize("line", ['{"n": 1}', "[1]", "7", ""])
def test_a_line_that_is_no_row_is_damaged(line, tmp_path):
    """Every row tells what became of its cell."""
    path = tmp_path / records.ROWS
    path.write_text(f'{line}\n{{"status": "measured"}}\n')
    assert records.whole(tmp_path) == ([{"status": "measured"}], {path: 1})


def test_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        records.append(tmp_path, {"n": float("nan")})
    assert records.read(tmp_path) == []


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    with (
        locks.writing(tmp_path),
        pytest.raises(ValueError, match="another run is writing"),
        locks.writing(tmp_path),
    ):
        pass
    with locks.writing(tmp_path):
        pass


def test_the_last_row_of_a_cell_counts():
    rows = [{"a": [1], "b": 1}, {"a": [1], "b": 2}]
    assert records.latest(rows, ("a",)) == {((1,),): rows[1]}


def test_the_environment_names_versions_and_commit_but_no_place():
    found = provenance.environment()
    assert {"python", "jax", "flax", "platform", "device", "commit", "dirty"} <= set(found)
    assert "/" not in json.dumps({key: value for key, value in found.items() if key != "device"})
