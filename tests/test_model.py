"""The model of docs/scaling.md: formulas that compiled programs obey, what follows from them, and the tables."""

import math

import pytest

from attnzoo import (
    Additive,
    BigBird,
    Dims,
    Linear,
    Linformer,
    Local,
    Nystrom,
    Performer,
    Reformer,
    Sinkhorn,
    SlidingWindow,
    Softmax,
    SparseTransformer,
)
from experiments.bench.program import Program
from experiments.scaling import hardware, model, sends
from tests import on_devices, tables

SOFTMAX = model.Case(Softmax(), is_causal=False)
DOCUMENT = tables.ROOT / "docs/scaling.md"
ROWS = model.compiled_rows()
CHECKED = [
    (SlidingWindow(100, 8, 1, 2), False, 8),
    (Performer(24), True, 8),
    (Nystrom(8, 2), False, 8),
    (Sinkhorn(16), False, 4),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        (Softmax(), True, 8), (Softmax(), False, 8), (SlidingWindow(16, 0), True, 8),
        (SlidingWindow(100, 20), False, 8), (Local(16), True, 8), (SparseTransformer(16, 4), True, 8),
        (Linear(), True, 8), (Linear(), False, 8), (Performer(24), False, 8), (Linformer(16), False, 8),
        (Linformer(16, "kv"), False, 8), (BigBird(8, 1, 1, 1), True, 8), (BigBird(8, 1, 1, 1), True, 4),
        (Reformer(16), False, 8), (Reformer(16), False, 4), (Sinkhorn(16), False, 8),
    )),
]  # fmt: skip


@pytest.mark.parametrize("kernel, is_causal, num_heads", CHECKED, ids=repr)
def test_formulas_tell_what_compiled_programs_send(ask, kernel, is_causal, num_heads):
    ask(on_devices.sends_as_formulas_say, kernel, is_causal, num_heads)


@pytest.mark.parametrize("case", model.CASES, ids=repr)
def test_formulas_tell_what_programs_of_a_million_tokens_send(case):
    rows = model.of_case(ROWS, case)
    assert {(row["pass"], row["devices"]) for row in rows} == {(x, n) for x in ("forward", "train") for n in (8, 64)}
    for row in rows:
        expected = model.sent(case, row["length"], row["devices"], row["pass"] == "train", width=4)
        assert math.isclose(row["sent_bytes"], expected, rel_tol=1e-3, abs_tol=100), row


def test_no_formula_is_no_guess():
    with pytest.raises(NotImplementedError, match=r"what Additive\(.*\) sends"):
        sends.sends(Additive(), sends.Call(model.dims(64), 2))
    assert sends.sends(Additive(), sends.Call(model.dims(64), 1)) == []


@pytest.mark.parametrize("kernel, is_causal", [(SlidingWindow(4095, 0), True), (BigBird(), True)], ids=repr)
def test_operations_of_long_sequences_follow_from_short_ones(kernel, is_causal):
    case, length = model.Case(kernel, is_causal), 2**20
    counted = Program(kernel, model.dims(length), model.DTYPE, is_causal, False).counts()
    assert math.isclose(model.operations(case, False)(length), counted["flops"], rel_tol=0.01)
    assert math.isclose(model.moved(case, False)(length), counted["cost_bytes"], rel_tol=0.01)


def test_a_ring_is_hidden_from_as_many_operations_a_byte_as_the_device_does():
    """4 L^2 N H operations and 4 L N H bytes a step: their times are equal at L = operations / bytes a second."""
    for of, devices, link in ((hardware.H100, 8, 450e9), (hardware.H100, 64, 50e9), (hardware.V5P, 64, 100e9)):
        found = model.crossing(SOFTMAX, devices, of)
        assert math.isclose(found, of.share * of.flops / link, rel_tol=0.15), (of.name, devices, found)
        short, long = (model.cost(SOFTMAX, factor * found * devices, devices, of) for factor in (0.9, 1.1))
        assert short.compute < short.total == short.messages and long.messages < long.total == long.compute


def test_what_sends_nothing_is_never_kept_waiting():
    assert model.crossing(model.Case(Local(512), True), 64, hardware.H100) == 0
    assert model.crossing(model.Case(Reformer(), False), 64, hardware.H100) == math.inf


def test_heads_that_are_too_few_are_work_for_each_device():
    case = model.Case(BigBird(), True)
    few, many = (model.cost(case, 2**20, devices, hardware.V5P).compute for devices in (256, 64))
    assert math.isclose(few, 64 * many)
    assert sends.works_together(Softmax(), sends.Call(Dims(1, 512, 512, 4, 4, 8, 8), 256))


def test_links_bound_messages():
    nodes, torus = hardware.H100, hardware.V5P
    assert nodes.bandwidth("all-to-all", 8) == nodes.inside > nodes.bandwidth("all-reduce", 64) > nodes.outside
    assert math.isclose(nodes.bandwidth("all-to-all", 64), 50e9 * 63 / 56)
    assert [torus.bandwidth("all-to-all", n) for n in model.DEVICES] == [200e9, 200e9, 100e9]
    assert [torus.bandwidth("all-gather", n) for n in model.DEVICES] == [300e9, 600e9, 600e9]
    assert nodes.seconds("collective-permute", 2, 0, 64) == 2 * (nodes.start + nodes.step_outside)


QUICK = [model.figures(), model.bytes_sent(), model.compiled(ROWS), model.memory(ROWS)]


@pytest.mark.parametrize("table", QUICK, ids=lambda table: table[0][0])
def test_tables_are_those_of_the_formulas_and_rows(table):
    assert DOCUMENT.read_text() == tables.renewed(DOCUMENT.read_text(), table), (
        "run python -m tests.tables docs/scaling.md"
    )


@pytest.mark.slow
def test_tables_are_those_of_the_model():
    text = DOCUMENT.read_text()
    for table in model.everything():
        assert text == tables.renewed(text, table), "run python -m tests.tables docs/scaling.md"
