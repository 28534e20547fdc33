"""No experiment makes anything of a kernel that breaks a law of the place that it is to stand in."""

import dataclasses
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import Dims, Kernel, Linear, Softmax, catalogue
from attnzoo.models import BlockConfig, Classifier, LanguageModel
from attnzoo.testing import LawBroken, futures, probe_kernel
from attnzoo.testing.zoo import FURTHER, ZOO
from experiments.bench import asked, records, timing, trust
from experiments.bench.program import Program
from experiments.bench.settings import parsed
from experiments.claims import candidates
from experiments.claims import run as claims
from experiments.generate import run as generate
from experiments.scaling import run as scaling
from experiments.swap import run as swap
from experiments.tasks.task import Examples
from experiments.tasks.text import Text
from experiments.train import asked as of_models
from experiments.train.sweep import run as accuracy
from experiments.train.sweep.settings import Settings
from tests import broken_kernels as broken
from tests.few import few
from tests.test_claims import settings as claims_settings
from tests.test_scaling import settings as scaled

FUTURE, PADDING = "the_future_cannot_touch_the_past", "padding_changes_nothing"
LEAK = broken.SeesEverything()
TINY = {
    "lengths": 16,
    "steps": 2,
    "learning_rates": "1e-2",
    "tokens": 32,
    "widths": 8,
    "layers": 1,
    "heads": 2,
    "test_examples": 4,
}


def swept(out, kernels, **changes) -> tuple[int, list[dict]]:
    """The exit code of a small sweep, and its rows."""
    spelled = ", ".join(map(catalogue.spelled, kernels))
    code = accuracy.run(parsed(Settings, **TINY | changes | {"kernels": spelled, "isolate": False, "out": out}))
    return code, records.read(out)


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("kernel", "place", "law"),
    [
        (LEAK, {"is_causal": True}, FUTURE),
        (broken.FutureLeak(), {"is_causal": True}, FUTURE),
        (broken.PeeksMostly(), {"is_causal": True}, FUTURE),
        (broken.FirstBlock(), {"is_causal": True}, FUTURE),
        (broken.PeeksInThePart(), {"is_causal": True}, FUTURE),
        (LEAK, {"is_padded": True}, PADDING),
        (LEAK, {"is_padded": True, "is_cross": True}, PADDING),
        (broken.IgnoredKeyMask(), {"is_padded": True}, PADDING),
        (broken.BlindNaN(), {"is_padded": True}, "blind_queries_give_nothing"),
        (broken.BatchMatesMixed(), {}, "batch_mates_cannot_touch_each_other"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Kernel) else None,
)
def test_a_kernel_is_held_to_the_laws_of_its_place(kernel, place, law):
    with pytest.raises(LawBroken) as caught:
        probe_kernel(kernel, 24, **place)
    assert caught.value.law == law and trust.breach(kernel, 24, **place)["law"] == law


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("kernel", "law"),
    [
        (broken.LongLeak(), FUTURE),
        (broken.LongNaN(), "outputs_are_finite"),
        (broken.Chance(), "equal_calls_are_equal"),
        (broken.LongLaziness(), "batched_equals_head"),
        (broken.WrongGradient(), "batched_equals_head"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Kernel) else None,
)
def test_what_is_not_in_the_catalogue_is_asked_at_its_length(kernel, law):
    assert trust.breach(kernel, 400, is_causal=True)["law"] == law


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("kernel", "is_train", "law"),
    [
        (broken.PeeksMostly(), False, FUTURE),
        (broken.PeeksInThePart(), True, FUTURE),
        (broken.ThirdExample(), False, FUTURE),
        (broken.ThirdExample(), True, FUTURE),
        (broken.LearnsAhead(), True, FUTURE),
        (broken.ProbedHeads(), False, "batched_equals_head"),
        (broken.NumbEquation(), True, "gradients_are_slopes"),
        (broken.NumbFarOff(), True, "gradients_are_slopes"),
        (broken.Plain(), True, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Kernel) else None,
)
def test_the_program_that_is_timed_is_asked(kernel, is_train, law):
    batch, length, heads = (1, 400, 1) if isinstance(kernel, broken.FromALength) else (3, 40, 4)
    program = Program(kernel, Dims(batch, length, length, heads, heads, 4, 4), "float32", True, is_train)
    found = asked.breach(program, program.operands(0))
    assert (found and found["law"]) == law


@pytest.mark.parametrize(("cross", "is_causal"), [(True, True), (True, False), (False, True)])
def test_long_programs_are_asked_in_part(monkeypatch, cross, is_causal):
    monkeypatch.setattr(asked, "PAIRS", 400)  # as of sequences that are long for the equation
    supports = dataclasses.replace(broken.PLAIN, cross=cross)
    for kind, law in ((broken.Plain, None), (broken.ProbedHeads, "batched_equals_head")):
        kernel = type(kind.__name__, (kind,), {"supports": supports})()
        program = Program(kernel, Dims(1, 40, 40, 4, 4, 4, 4), "bfloat16", is_causal, False)
        found = asked.breach(program, program.operands(0))
        assert (found and found["law"]) == law


def test_cuts_are_all_that_there_are_or_far_apart():
    assert set(futures.drawn(20, 2, 2).ravel()) == set(range(1, 20))
    for length in (0, 1):
        assert futures.drawn(length, 2).size == 0
    few = np.sort(futures.drawn(1000, 2).ravel())
    assert few.size == 32 and (few[0], few[-1]) == (1, 999) and np.diff(few).max() < 2 * 1000 / 32


def test_what_gives_no_numbers_is_not_timed():
    row = {"repeats": 5, "cell_budget": 9.0}
    [found] = timing.take_turns([(row, lambda: jnp.array([1.0, jnp.nan]))], 5)
    assert found["status"] == "failed" and "not finite" in found["reason"]


RIGHT = [*ZOO, *FURTHER, broken.Plain()]


@pytest.mark.parametrize("kernel", few(RIGHT, [Linear()]), ids=repr)
def test_what_is_right_passes_in_each_place(kernel):
    probe_kernel(kernel, 24, is_causal=kernel.supports.causal, is_tested=kernel != broken.Plain())
    if kernel.supports.bidirectional:
        probe_kernel(kernel, 24, is_padded=True, is_tested=True)


def test_what_a_place_does_not_need_is_not_asked():
    assert trust.breach(broken.IgnoredKeyMask(), 24) is None


def test_a_probe_is_made_once():
    trust.breach(Softmax(), 20, is_causal=True)
    with mock.patch.object(trust, "probe_kernel", side_effect=AssertionError):
        assert trust.breach(Softmax(), 20, is_causal=True) is None


def test_a_leak_is_a_refused_row_and_is_asked_again(tmp_path):
    code, rows = swept(tmp_path, [Softmax(), LEAK], task="text")
    assert code == 0 and [row["status"] for row in rows] == ["measured", "refused"]
    assert rows[1]["law"] == FUTURE and FUTURE in rows[1]["reason"]
    _, again = swept(tmp_path, [Softmax(), LEAK], task="text")
    assert [row["status"] for row in again[2:]] == ["refused"]  # it may have been mended, and so it is asked each time


def test_programs_that_are_timed_or_tested_are_asked_at_each_length(tmp_path):
    leak = broken.LeakOfALength()
    timed = scaled(tmp_path / "timed", kernels=(leak,), lengths=(16, 24, 32), passes=("forward",), is_causal=True)
    scaling.run(timed)
    rows = records.read(tmp_path / "timed")
    assert {row["length"]: row.get("law") for row in rows} == {16: None, 24: FUTURE, 32: None}
    swept(tmp_path / "tested", [leak], task="text, parity", eval_lengths="24,32")
    rows = records.read(tmp_path / "tested")
    assert [row["law"] for row in rows] == [FUTURE] * 2 and all("24" in row["reason"] for row in rows)


def test_models_are_asked_as_they_learn_and_of_all_their_examples(tmp_path):
    kernels = broken.Plain(), broken.LearnsAhead(), broken.ThirdExample()
    _, rows = swept(tmp_path, kernels, task="text", tokens=64, dropout=0.1)
    assert [row.get("law") for row in rows] == [None, FUTURE, FUTURE] and rows[0]["step_flops"] > 0


def test_models_are_asked_once_more_when_they_have_learned(tmp_path):
    changes = {"task": "text", "steps": 40, "learning_rates": "1.0", "warmup": 1}
    _, rows = swept(tmp_path, [broken.LeakOfTheLoud()], **changes)
    assert [row.get("law") for row in rows] == [FUTURE] and rows[0]["status"] == "refused"


SLOPES, EQUATION, STEPS = "gradients_are_slopes", "batched_equals_head", "stepping_equals_the_whole"


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("kernel", "is_learned", "law"),
    [
        (broken.ProbedHeads(), False, EQUATION),
        (broken.ProbedHeads(), True, EQUATION),
        (broken.NumbEquation(), True, SLOPES),
        (broken.Plain(), True, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Kernel) else None,
)
def test_models_are_held_to_their_equation_and_to_slopes(kernel, is_learned, law):
    """With dropout, whose masks all calls share."""
    config = BlockConfig(width=8, num_heads=4, dropout_rate=0.1)
    model = LanguageModel(257, config, max_length=12, num_layers=1, attention=kernel, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    found = of_models.breach(model, [kernel], Text(), 12, 3, is_learned)
    assert (found and found["law"]) == law
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.Param), before)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("kernel", "law"), [(broken.ProbedHeads(), EQUATION), (broken.Plain(), None)])
def test_classifiers_are_held_to_their_equation(kernel, law, count):
    config = BlockConfig(width=8, num_heads=4)
    model = Classifier(257, 2, config, max_length=12, num_layers=1, attention=kernel, rngs=nnx.Rngs(0))
    batch = Examples(np.arange(12 * count).reshape(count, 12), np.arange(count) % 2, np.ones(count, np.float32))
    found = of_models.of_batches(model, [kernel], [batch, batch])
    assert (found and found["law"]) == law


@pytest.mark.parametrize(("kernel", "law"), [(broken.Forgetful(), STEPS), (broken.Stepping(), None)])
def test_models_that_speak_step_as_they_see_the_whole(kernel, law):
    model = LanguageModel(
        257, BlockConfig(width=8, num_heads=1), max_length=12, num_layers=1, attention=kernel, rngs=nnx.Rngs(0)
    )
    said = lambda: of_models.require(model, [kernel], np.arange(12), is_stepped=True)
    if law is None:
        return said()
    with pytest.raises(ValueError, match=law):
        said()


@pytest.mark.slow
def test_claims_are_of_models_that_are_asked(tmp_path):
    kernel = broken.ProbedHeads()
    given = {"claims": ("speed", "recall"), "kernels": (kernel,), "lengths": (16,), "distances": (4,), "heads": 4}
    claims.run(claims_settings(tmp_path, **given))
    own = [row for row in records.read(tmp_path) if row["name"] == "ProbedHeads"]
    assert [row["law"] for row in own] == [EQUATION] * 2


@pytest.mark.slow
def test_programs_of_a_mesh_are_asked(tmp_path):
    """In a process that has two devices."""
    kernels = ", ".join(map(catalogue.spelled, (broken.Plain(), broken.LeakOfALength())))
    words = (
        f"--lengths=24,32 --passes=forward --heads=2 --head_dim=4 --batch=2 --is_causal --mesh=data=2 --out={tmp_path}"
    )
    command = [sys.executable, "-m", "experiments.scaling", f"--kernels={kernels}", *words.split()]
    subprocess.run(command, timeout=300)
    found = {(row["kernel"].split(".")[-1], row["length"]): row["status"] for row in records.read(tmp_path)}
    assert len(found) == 4
    assert {at: status for at, status in found.items() if status != "measured"} == {("LeakOfALength()", 24): "refused"}


def test_where_all_are_refused_the_exit_code_says_so(tmp_path):
    assert swept(tmp_path, [LEAK], task="text") == (1, records.read(tmp_path))


@pytest.mark.slow
def test_padding_is_asked_for_where_a_task_has_it(tmp_path):
    task = "listops(min_length=None, max_length=None), masked_text"
    _, rows = swept(tmp_path, [broken.IgnoredKeyMask()], task=task, lengths=64, tokens=64)
    assert [row.get("law") for row in rows] == [PADDING, None]


@pytest.mark.slow
def test_what_exchanges_or_times_a_leak_refuses_it(tmp_path, capsys):
    swept(tmp_path / "trained", [Softmax()], task="text")
    given = {"checkpoint": str(tmp_path / "trained"), "test_examples": 4, "out": str(tmp_path / "swap")}
    swap.run(swap.Settings(kernels=(LEAK, broken.ThirdExample()), **given))
    assert [row.get("law") for row in records.read(tmp_path / "swap")] == [None, FUTURE, FUTURE]
    said = {"prompt": "a", "tokens": 1, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "samples": 1, "seed": 0}
    with pytest.raises(ValueError, match=FUTURE):
        generate.run(generate.Settings(given["checkpoint"], **said, attention=(LEAK,)))
    timed = scaled(tmp_path / "scaling", kernels=(LEAK,), lengths=(16,), passes=("forward",))
    assert scaling.run(timed) == 1
    assert [row["law"] for row in records.read(tmp_path / "scaling")] == [FUTURE]
    assert candidates.refusal(LEAK, 16)["law"] == FUTURE and candidates.refusal("gru", 16) is None
