"""Published models by name: their blocks, that they learn and speak, and that a sweep of them tells what they are."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from attnzoo import GatedDelta, Linear, Rotary, SlidingWindow, Softmax
from attnzoo.models import BlockConfig, LanguageModel, generate, presets
from attnzoo.models.presets import DeltaNet, Gemma2, GptOss, Hybrid, Longformer, Preset, Turns
from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.show import naming
from experiments.tasks.text import Text
from experiments.train import language
from experiments.train.sweep import analysis, models, run
from experiments.train.sweep.cells import cells, heard
from experiments.train.sweep.settings import PRESETS, Settings
from tests.test_accuracy import settings
from tests.test_generation import STEPS, recomputed
from tests.test_models import TOKENS, loud

CONFIG = BlockConfig(width=8, num_heads=2, num_kv_heads=1)
SMALL = [
    *presets.parse("hybrid(ratio=1), gla, mamba2, gated_deltanet, longformer(window=6), gemma2(window=3)"),
    *presets.parse("deltanet(max_beta=2), gpt_oss(window=3), turns(kernels='linear, local(block_size=3)')"),
]


def made(preset, num_layers=2, **given):
    given = {"config": preset.configs(CONFIG, num_layers), "attention": preset.attention(num_layers)} | given
    return LanguageModel(11, **given, max_length=16, num_layers=num_layers, rngs=nnx.Rngs(0))


@pytest.mark.slow
@pytest.mark.parametrize("preset", SMALL, ids=repr)
def test_a_preset_learns_and_speaks(preset):
    """Gradients reach all that it learns, two small steps lower the loss, and text is what recomputing gives."""
    model = made(preset, positions=Rotary())
    graph, state, rest = nnx.split(model, nnx.Param, ...)

    def loss(state):
        logits = nnx.merge(graph, state, rest)(TOKENS[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:]).mean()

    update, losses = jax.jit(jax.value_and_grad(loss)), []
    for _ in range(3):
        value, slopes = update(state)
        losses.append(float(value))
        blind = [jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(slopes) if not np.abs(x).max() > 0]
        assert all("bias" in path and "key" in path for path in blind)  # which adds the same to all scores of a query
        state = jax.tree.map(lambda x, slope: x - 1e-6 * slope, state, slopes)
    assert losses[2] < losses[1] < losses[0]
    nnx.update(model, state)
    loud(model)
    found = generate(model, TOKENS, STEPS, lengths=jnp.array([8, 3]))
    np.testing.assert_array_equal(found[0], recomputed(model, TOKENS[0]))
    np.testing.assert_array_equal(found[1], recomputed(model, TOKENS[1, :3]))


def test_turns_come_in_their_order():
    assert Hybrid().attention(8) == [*[GatedDelta()] * 3, Softmax()] * 2
    assert GptOss().attention(3) == [SlidingWindow(127, 0), Softmax(), SlidingWindow(127, 0)]
    assert [x.gate for x in Hybrid(1).configs(CONFIG, 2)] == ["silu", "sigmoid"]
    assert Turns("linear, softmax").attention(3) == [Linear(), Softmax(), Linear()]
    assert {(x.norm, x.soft_cap, x.logits_soft_cap) for x in Gemma2().configs(CONFIG, 2)} == {("both", 50.0, 30.0)}
    assert Gemma2().configs(dataclasses.replace(CONFIG, norm="both"), 2) == Gemma2().configs(CONFIG, 2)


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: Hybrid().attention(2), r"Hybrid\(ratio=3\) in 2 blocks: expected at least 4, in which all turns come"),
        (lambda: GptOss().configs(dataclasses.replace(CONFIG, norm_kind="rms", activation="relu"), 2),
         r"activation='relu' beside GptOss\(window=128\), in which it is 'swiglu': leave it out"),
        (lambda: Hybrid(0), r"Hybrid\(ratio=0\): ratio must be an integer >= 1"),
        (lambda: DeltaNet(max_beta=3), r"Delta\(max_beta=3\): max_beta must be 1 or 2"),
        (lambda: Longformer(window=5), r"Longformer\(window=5\): window must be even"),
        (lambda: Turns("softmix"), "unknown kernel 'softmix', did you mean 'softmax'"),
        (lambda: presets.parse("gemma3"), "unknown kernel or preset 'gemma3', did you mean 'gemma2'"),
        (lambda: presets.parse("tests.test_presets.CONFIG"), "expected a subclass of attnzoo.Kernel or attnzoo.Preset"),
    ],
)  # fmt: skip
def test_what_no_preset_is(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_names_are_those_of_the_command_line():
    assert [type(x) for x in presets.parse(PRESETS)] == [*presets.PRESETS.values()]
    for value in (*SMALL, Softmax()):
        assert presets.parse(presets.spelled(value)) == [value]
    assert naming.short(repr(Hybrid())) == "Hybrid"
    assert all(issubclass(x, Preset) and x() for x in presets.PRESETS.values())


def swept(out):
    given = {"tasks": (Text(),), "layers": 2, "kv_heads": 1, "norm_kind": "rms"}
    return settings(out, kernels=(Softmax(), Hybrid(ratio=1), Hybrid()), **given)


def test_cells_of_presets_tell_what_they_are():
    asked = swept("unused")
    exact, hybrid, other = every = list(cells(asked))
    assert [heard(cell.told()) for cell in every] == every
    assert hybrid.row(asked)["blocks"] == "kv_heads=1, norm_kind=rms" and hybrid.row(asked)["name"] == "hybrid"
    assert "expected at least 4" in models.refusal(asked, other)["reason"]
    first, second = models.built(asked, hybrid)
    assert first.startswith("GatedDelta(max_beta=1); ") and "conv_width=4" in first
    assert second.startswith("Softmax(); ") and "gate=sigmoid" in second
    heads, dim, length, width = 2, 4, 16, 4
    cache = 2 * length * dim * 4  # keys and values of one head, which both share
    assert exact.state_bytes(asked) == 2 * cache
    of_delta = heads * dim * dim * 4 + (width - 1) * (heads + 2) * dim * 4
    assert hybrid.state_bytes(asked) == of_delta + cache


@pytest.mark.slow
def test_a_sweep_of_presets(tmp_path):
    assert run.run(swept(tmp_path)) == 0
    exact, hybrid, refused = records.read(tmp_path)
    assert [x["status"] for x in (exact, hybrid, refused)] == ["measured", "measured", "refused"]
    _, [_, line, _] = analysis.table(analysis.summarise([exact, hybrid, refused]))
    assert any("%)" in str(cell) and str(cell).startswith(f"{hybrid['parameters']:,}") for cell in line)
    _, model = language.load(tmp_path / language.FOLDER / hybrid["checkpoint"])
    assert [type(block.attention.attention_kernel) for block in model.stack.blocks] == [GatedDelta, Softmax]


def test_models_are_matched():
    asked = settings(
        "unused", kernels=(Softmax(), Longformer(window=4), Gemma2()), tasks=(Text(),), layers=2, widths=(32,)
    )
    asked = dataclasses.replace(asked, match="params")
    sizes = [models._count(asked, cell, models._matched(asked, cell)) for cell in cells(asked)]
    assert max(sizes) / min(sizes) < 1.02


def test_flags_are_fields_of_blocks():
    asked = parsed(Settings, kernels="gpt_oss", conv_width=4, gate="silu", kv_heads=2, soft_cap=50)
    [cell] = list(cells(asked))[:1]
    config = cell.configs(asked)[0]
    assert (config.conv_width, config.gate, config.num_kv_heads, config.soft_cap) == (4, "silu", 2, 50.0)
    assert cell.blocks(asked) == "kv_heads=2, conv_width=4, gate=silu, soft_cap=50.0"
    assert next(cells(parsed(Settings))).blocks(parsed(Settings)) is None
    with pytest.raises(ValueError, match="--kv_heads=3 does not divide --heads=4"):
        parsed(Settings, kv_heads=3)


def test_checkpoints_of_before_still_load():
    """A description of a time when blocks had fewer fields is that of today with their defaults."""
    new = {field.name for field in dataclasses.fields(BlockConfig)} - {
        "width", "num_heads", "num_kv_heads", "feed_forward", "norm", "activation", "dropout_rate",
        "embedding_stddev", "dtype", "remat",
    }  # fmt: skip
    given = {"vocabulary": 257, "max_length": 16, "num_layers": 1, "positions": Rotary(), "is_causal": True}
    described = language.Description(BlockConfig(width=8, num_heads=2), attention=(Softmax(),), **given)
    told = json.loads(json.dumps(described.told()))
    for name in new:
        del told["config"][name]
    assert language.read(told) == described
    two = language.Description((CONFIG, dataclasses.replace(CONFIG, gate="silu")), attention=(Softmax(),), **given)
    assert language.read(json.loads(json.dumps(two.told()))) == two
