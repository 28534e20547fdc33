"""The batch script of BUILD.md, with stand-ins for Slurm: what its time ends goes back into the queue, and goes on."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys

import pytest

from experiments.bench import records
from tests.test_accuracy import COMMAND, saved, wait_for
from tests.test_docs import ROOT, blocks

OUT = "--out=runs/mqar"
STAND_INS = {
    "srun": """
"$@" &
echo $! > task
trap 'kill -KILL $(cat task)' TERM  # which srun does, in place of handing it on
wait $!
""",
    "scontrol": 'echo "$@" >> told',
}


@pytest.fixture
def submitted(tmp_path):
    """Starts the script as Slurm does, with what makes its command short."""
    for name, script in STAND_INS.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{script}")
        path.chmod(0o755)
    [script] = [block for block in blocks("BUILD.md", "bash") if "#SBATCH --array" in block]
    assert OUT in script
    given = {"SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": str(ROOT)}
    given["PATH"] = f"{tmp_path}:{pathlib.Path(sys.executable).parent}:/usr/bin:/bin"

    def submit(*words):
        shorter = script.replace(OUT, shlex.join([OUT, *COMMAND, "--seeds=1", "--steps=160", *words]))
        (tmp_path / "sweep.sh").write_text(shorter)
        return subprocess.Popen(["bash", "sweep.sh"], cwd=tmp_path, env=os.environ | given)

    # Whom Slurm signals: with `B:` the batch shell alone, and otherwise tasks of its steps.
    submit.signalled = lambda shell: shell.pid if "--signal=B:" in script else int((tmp_path / "task").read_text())
    return submit


@pytest.mark.slow
def test_what_the_time_ends_is_put_back_into_the_queue_and_goes_on(submitted, tmp_path):
    shell, out, told = submitted(), tmp_path / "runs" / "mqar", tmp_path / "told"
    wait_for(lambda: saved(out))
    os.kill(submitted.signalled(shell), signal.SIGTERM)
    assert shell.wait(90) == 0
    assert told.read_text() == "requeue 41_0\n"
    assert saved(out) and records.read(out) == []
    assert submitted().wait(180) == 0
    assert told.read_text() == "requeue 41_0\n"
    assert [row["status"] for row in records.read(out)] == ["measured"] and not saved(out)


def test_what_ends_otherwise_stays_out_of_the_queue(submitted, tmp_path):
    assert submitted("--steps=1").wait(60) == 2
    assert not (tmp_path / "told").exists()
