"""The comparison with other implementations: pairs, what differs, what is not installed."""

import dataclasses

import numpy as np
import pytest

from attnzoo import Softmax
from experiments.bench import records
from experiments.peers import plot, run
from experiments.peers.calls import BNTH, Function, of_jax
from experiments.peers.works import WORKS, Peer, Work
from tests import summaries

JAX_NN = Peer("jax.nn", "jax", "jax_peers.jax_nn", goal=0.001)
SMALL = Work(Softmax(), 32, (JAX_NN,), is_causal=True, is_train=True)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setitem(WORKS, "small", SMALL)
    return run.Settings(works=("small",), pairs=7, seed=0, out=str(tmp_path))


def test_pairs_are_timed_drawn_and_not_repeated(settings, tmp_path):
    assert run.run(settings) == 0
    (row,) = records.read(tmp_path)
    assert row["peer"] in summaries.of(tmp_path)
    assert row["status"] == "measured" and row["deviation"] < 1e-5 and len(row["seconds"]) == 7
    assert row["ratio"] == pytest.approx(np.median(np.divide(row["their_seconds"], row["seconds"])))
    assert "small | jax.nn" in (tmp_path / plot.TABLE).read_text()
    assert (tmp_path / "ratios.png").stat().st_size > 5000
    run.run(settings)
    assert len(records.read(tmp_path)) == 1


def test_a_peer_that_is_not_installed_is_a_row_with_the_reason(settings, tmp_path, monkeypatch):
    def absent(work):
        raise ImportError("No module named 'nothing'")

    from experiments.peers import jax_peers

    monkeypatch.setattr(jax_peers, "jax_nn", absent)
    assert run.run(settings) == 0
    (row,) = records.read(tmp_path)
    assert row["status"] == "missing" and "nothing" in row["reason"]


def test_outputs_that_differ_are_not_timed(settings, tmp_path, monkeypatch):
    bidirectional = dataclasses.replace(SMALL, is_causal=False)
    from experiments.peers import jax_peers

    right = jax_peers.jax_nn
    monkeypatch.setattr(jax_peers, "jax_nn", lambda work: right(bidirectional))
    assert run.run(settings) == 1
    (row,) = records.read(tmp_path)
    assert row["status"] == "failed" and "deviate" in row["reason"] and "seconds" not in row


def test_layouts_are_undone():
    inputs = SMALL.inputs(0)
    same = of_jax(Function(lambda q, k, v: q, BNTH), inputs, inputs[0], "float32", is_train=False)
    (out,) = same.read(same.run())
    np.testing.assert_allclose(out, inputs[0], atol=1e-6)


def test_every_work_names_a_factory_that_exists():
    import pathlib

    folder = pathlib.Path(run.__file__).parent
    for work in WORKS.values():
        for peer in work.peers:
            module, _, name = peer.factory.partition(".")
            assert f"def {name}(" in (folder / f"{module}.py").read_text()
