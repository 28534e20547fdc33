"""Rows survive what happens to files, and one run at a time writes them."""

import json

import pytest

from experiments.bench import locks, provenance, records


def test_rows_come_back(tmp_path):
    rows = [{"kernel": "Softmax()", "length": 8}, {"kernel": "Linear()", "length": 16}]
    for row in rows:
        records.append(tmp_path, row)
    assert records.read(tmp_path) == rows
    assert records.read(tmp_path / "nothing") == []


def test_a_torn_line_is_skipped_and_then_cut_off(tmp_path, capsys):
    records.append(tmp_path, {"n": 1})
    path = tmp_path / records.ROWS
    path.write_bytes(path.read_bytes() + b'{"n": 2, "torn')
    assert records.read(tmp_path) == [{"n": 1}]
    assert "skipped 1 damaged line" in capsys.readouterr().err
    records.append(tmp_path, {"n": 3})
    assert path.read_text().splitlines() == [json.dumps({"n": 1}), json.dumps({"n": 3})]


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
