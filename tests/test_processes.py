"""A model on a mesh, and a run in several processes: one result, whoever computes it and whatever is killed."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from experiments.bench import mesh, processes, records
from experiments.bench.settings import parsed
from experiments.train.sweep.settings import Settings
from tests.test_accuracy import COMMAND, saved, wait_for

LOOPBACK = ("0100007F", "00000000", "00000000000000000000000000000000", "0000000000000000FFFF00000100007F")


def test_a_mesh_is_said_in_one_way():
    assert mesh.parse(" sequence = 2,data=4") == "data=4, sequence=2" and mesh.parse("") == ""
    assert mesh.several("sequence={1,2}, data=2") == ("data=2, sequence=1", "data=2, sequence=2")
    assert mesh.count("data=4, sequence=2") == 8 and mesh.count("") == 1
    assert mesh.made("data=1").shape == {"data": 1, "model": 1, "sequence": 1}


@pytest.mark.parametrize("text", ["data", "data=0", "data=2, data=2", "rows=2", "data=2,"])
def test_meshes_that_mean_nothing(text):
    with pytest.raises(ValueError, match="--mesh"):
        mesh.parse(text)


def test_a_mesh_of_devices_that_are_not_there():
    with pytest.raises(ValueError, match=r"--mesh='data=99' is of 99 devices, and there (is|are) \d"):
        mesh.made("data=99")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"num_processes": 2}, "give --coordinator"),
        ({"coordinator": "here", "mesh": "data=2"}, "expected host:port"),
        ({"coordinator": "here:1", "mesh": "data=2"}, "needs --num_processes, and the --process_id"),
        ({"coordinator": "here:1", "mesh": "data=2", "num_processes": 2, "process_id": 2}, "below --num_processes=2"),
        ({"coordinator": "auto"}, "--coordinator needs --mesh"),
        ({"fsdp": True}, "--fsdp needs --mesh"),
        ({"coordinator": "auto", "mesh": "data=2", "minutes": 1}, "and no --coordinator"),
        ({"coordinator": "auto", "mesh": "data=2", "jobs": 2}, "and no --coordinator"),
        ({"mesh": "data=2", "jobs": 2}, "give one"),
        ({"mesh": "sequence=3"}, "sequence=3 does not divide --lengths=64"),
        ({"mesh": "model=3"}, "model=3 does not divide --heads=4"),
    ],
    ids=str,
)
def test_flags_that_do_not_go_together(flags, message):
    with pytest.raises(ValueError, match=message):
        parsed(Settings, **flags)


def test_kubernetes_tells_which_process_this_is(monkeypatch):
    monkeypatch.setenv(processes.INDEX, "3")
    given = {"coordinator": "here:1", "mesh": "data=4", "num_processes": 4}
    assert parsed(Settings, **given).index == 3 and parsed(Settings, **given, process_id=1).index == 1


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def begun(out, count, *words, others=()):
    """So many processes of one run, with further words for those after the first."""
    of_all = [f"--out={out}", f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}", *words]
    return [started(*of_all, f"--process_id={index}", *(others if index else ())) for index in range(count)]


def started(*words):
    command = [sys.executable, "-m", "experiments.accuracy", *COMMAND, "--steps=150", *words]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **given, env=os.environ | {"XLA_FLAGS": ""})


def ended(run):
    """What each process said, and its exit code."""
    return [(process.communicate(timeout=400)[0], process.returncode) for process in run]


def remote_addresses(pid):
    """Of the connections that a process has, as /proc writes them; loopback where both ends are this machine's."""
    sockets = {os.readlink(link) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in sockets:
                here, there = (field.partition(":")[0] for field in fields[1:3])
                found.add(LOOPBACK[0] if here == there else there)
    return found


def same_results(one, other):
    [first], [second] = (records.read(out) for out in (one, other))
    assert first["score"] == pytest.approx(second["score"], abs=1e-4)
    for name in ("curve", "validations"):
        assert [step for step, _ in first[name]] == [step for step, _ in second[name]]
        assert [x for _, x in first[name]] == pytest.approx([x for _, x in second[name]], abs=1e-4)
    return first


def alone(out):
    """One process on one device, to the end."""
    [(said, code)] = ended([started(f"--out={out}", "--noisolate")])
    assert code == 0 and "damaged" not in said, said


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_goes_on_to_the_same_result(tmp_path):
    out = tmp_path / "killed"
    run = begun(out, 2, "--mesh=data=2", "--fsdp")
    wait_for(lambda: saved(out), 150)
    addresses = set().union(*(remote_addresses(process.pid) for process in run))
    assert addresses and addresses <= set(LOOPBACK), addresses
    run[1].kill()
    start = time.monotonic()
    (said, code), _ = ended(run)
    assert code not in (0, None) and time.monotonic() - start < 60, said
    assert records.read(out) == [] and saved(out) and "could not be saved" not in said
    alone(out)
    alone(tmp_path / "whole")
    row = same_results(out, tmp_path / "whole")
    assert (row["devices"], row["mesh"], row["processes"]) == (1, "", 1)


@pytest.mark.slow
def test_processes_stop_together_and_twice_as_many_go_on_on_another_mesh(tmp_path):
    out = tmp_path / "stopped"
    run = begun(out, 2, "--mesh=data=2, sequence=2")
    wait_for(lambda: saved(out), 150)
    run[1].send_signal(signal.SIGTERM)  # to one of them
    assert [code for _, code in ended(run)] == [75, 75]
    told = ended(begun(out, 4, "--mesh=data=2, model=2", "--fsdp"))
    assert [code for _, code in told] == [0, 0, 0, 0], told
    assert all("rows and figures" not in said for said, _ in told[1:])
    alone(tmp_path / "whole")
    row = same_results(out, tmp_path / "whole")
    assert (row["devices"], row["mesh"], row["processes"]) == (4, "data=2, model=2", 4)


@pytest.mark.slow
@pytest.mark.parametrize("others", [("--seeds=2",), ("--out=elsewhere",)], ids=str)
def test_processes_that_do_not_agree_are_told(others, tmp_path, monkeypatch):
    """One of them has more to do; or writes where the first does not see it, which only rows that are there show."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    alone(tmp_path / "out")
    told = ended(begun(tmp_path / "out", 2, "--mesh=data=2", others=others))
    assert [code for _, code in told] == [2, 2], told
    assert all("processes do not agree on what is to do" in said for said, _ in told), told
