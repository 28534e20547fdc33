"""Shapes in the annotations of public functions are true, and would notice what is not."""

import inspect
import sys
import types
import typing

import beartype
import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import attnzoo
import attnzoo.linen
import attnzoo.nnx
from attnzoo.door import attention, decoding

SHAPES = {name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Integer")}
PAIR = tuple[jaxtyping.Float[jax.Array, "*B T N Hv"], jaxtyping.Float[jax.Array, "*B T N"]]
SIZES = {
    "batched": ((2, 6, 4, 8), (2, 6, 4, 8), (2, 6, 4, 8)),
    "unbatched": ((6, 4, 8), (6, 4, 8), (6, 4, 8)),
    "grouped heads": ((2, 6, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8)),
    "other lengths and widths": ((2, 6, 4, 8), (2, 9, 2, 8), (2, 9, 2, 5)),
    "unbatched, other lengths and widths": ((6, 4, 8), (9, 1, 8), (9, 1, 5)),
}
FEW = ("grouped heads", "unbatched, other lengths and widths")
EACH = [pytest.param(x, id=name, marks=[pytest.mark.slow] * (name not in FEW)) for name, x in SIZES.items()]


def hints_of(function) -> dict[str, typing.Any]:
    """The annotations of a function, without the `Any` that lets callers go on where a residual may come."""
    function = inspect.unwrap(function)
    hints = typing.get_type_hints(function, vars(sys.modules[function.__module__]) | SHAPES)
    certain = [x for x in typing.get_args(hints["return"]) if x is not typing.Any]
    return hints | {"return": certain[0]} if len(certain) == 1 else hints


def checked(function, **returned):
    """`function`, whose annotations are enforced on the way in and out."""
    hints, function = hints_of(function), inspect.unwrap(function)
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__annotations__ = {name: hint for name, hint in hints.items() if name != "asked"} | returned
    return jaxtyping.jaxtyped(typechecker=beartype.beartype)(twin)


def arrays(sizes):
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(sizes)]


def hidden(query, key):
    """All that hides by arrays, with a batch where the operands have one."""
    batch, length, keys = query.shape[:-3], query.shape[-3], key.shape[-3]
    return {
        "query_offset": jnp.full(batch, 3),
        "query_seq_lengths": jnp.full(batch, length - 1),
        "key_value_seq_lengths": jnp.full(batch, keys - 2),
        "key_mask": jnp.ones((*batch, keys), bool),
        "query_segment_ids": jnp.zeros((*batch, length), int),
        "key_value_segment_ids": jnp.zeros((*batch, keys), int),
        "bias": jnp.zeros((length, keys)),
        "is_causal": True,
    }


@pytest.mark.parametrize("sizes", EACH)
def test_attend_has_the_shapes_that_it_says(sizes):
    q, k, v = arrays(sizes)
    given = hidden(q, k)
    expected = attnzoo.attend(q, k, v, **given)
    assert jnp.array_equal(checked(attnzoo.attend)(q, k, v, **given), expected)
    assert checked(attnzoo.attend)(q, k, v, query_offset=jnp.array(1)).shape == (*q.shape[:-1], v.shape[-1])
    out, residual = checked(attnzoo.attend, **{"return": PAIR})(q, k, v, return_residual=True)
    assert (out.shape, residual.shape) == ((*q.shape[:-1], v.shape[-1]), q.shape[:-1])


@pytest.mark.parametrize("sizes", EACH)
def test_attention_weights_have_the_shapes_that_they_say(sizes):
    q, k, _ = arrays(sizes)
    weights = checked(attnzoo.attention_weights)(q, k, **hidden(q, k))
    assert weights.shape == (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])


@pytest.mark.parametrize("kv_heads, width", [(4, 8), (2, 5)])
def test_start_and_step_have_the_shapes_that_they_say(kv_heads, width):
    sizes = {"batch": 2, "num_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 8, "value_dim": width}
    state = checked(attnzoo.start)(**sizes, max_length=9)
    for tokens in (5, 1):
        q, k, v = arrays([(2, tokens, 4, 8), (2, tokens, kv_heads, 8), (2, tokens, kv_heads, width)])
        state, out = checked(attnzoo.step)(state, q, k, v, query_seq_lengths=jnp.full(2, tokens))
        assert out.shape == (2, tokens, 4, width)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(attnzoo.step)(state, q, k, v[:, :, :, None])
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(attnzoo.step)(state, q, k, v, query_seq_lengths=jnp.ones(3, int))


WRONG = {
    "query of another width than key": {"query": jnp.zeros((2, 6, 4, 7))},
    "whole numbers": {"query": jnp.zeros((2, 6, 4, 8), int)},
    "key of another batch": {"key": jnp.zeros((3, 9, 2, 8))},
    "fewer values than keys": {"value": jnp.zeros((2, 8, 2, 5))},
    "value without heads": {"value": jnp.zeros((2, 9, 5))},
    "key_mask of queries": {"key_mask": jnp.ones((2, 6), bool)},
    "key_mask of numbers": {"key_mask": jnp.ones((2, 9))},
    "a length for each query": {"query_seq_lengths": jnp.ones((2, 6), int)},
    "lengths that are no whole numbers": {"key_value_seq_lengths": jnp.ones(2)},
    "segments without a batch": {"query_segment_ids": jnp.zeros(6, int)},
    "offsets of another batch": {"query_offset": jnp.zeros(3, int)},
    "a bias of whole numbers": {"bias": jnp.zeros((6, 9), int)},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_attend_would_notice_other_arguments(wrong):
    operands = dict(zip(("query", "key", "value"), arrays(SIZES["other lengths and widths"]), strict=True))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(attnzoo.attend)(**operands | wrong)
    with pytest.raises(ValueError):
        attnzoo.attend(**operands | wrong)


def test_functions_would_notice_other_results(monkeypatch):
    q, k, v = arrays(SIZES["other lengths and widths"])
    state = attnzoo.start(batch=2, num_heads=4, num_key_value_heads=2, head_dim=8, value_dim=5, max_length=9)
    monkeypatch.setattr(decoding, "_step", lambda state, query, *_, **__: (state, query))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(attnzoo.step)(state, q, k[:, :6], v[:, :6])
    monkeypatch.setattr(attention, "_attend", lambda query, *_, **__: (query, None))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(attnzoo.attend)(q, k, v)
    monkeypatch.setattr(attention, "_pulled_weights", lambda *_: jnp.zeros((2, 4, 9, 6)))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(attnzoo.attention_weights)(q[:, :2], k)


class Linen(attnzoo.linen.MultiHeadAttention):
    __call__ = flax.linen.compact(checked(attnzoo.linen.MultiHeadAttention.__call__))


def linen(inputs, key_inputs):
    return Linen(num_heads=2, out_features=5).init_with_output(jax.random.key(0), inputs, key_inputs)[0]


def nnx(inputs, key_inputs):
    sizes = {"qkv_features": 8, "out_features": 5, "in_kv_features": key_inputs.shape[-1]}
    layer = attnzoo.nnx.MultiHeadAttention(2, inputs.shape[-1], **sizes, rngs=flax.nnx.Rngs(0))
    return checked(type(layer).__call__)(layer, inputs, key_inputs)


@pytest.mark.parametrize("layer", [linen, nnx])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_layers_have_the_shapes_that_they_say(layer, batch):
    inputs, key_inputs = jnp.ones((*batch, 6, 8)), jnp.ones((*batch, 7, 4))
    assert layer(inputs, key_inputs).shape == (*batch, 6, 5)
    with pytest.raises(jaxtyping.TypeCheckError):
        layer(inputs, key_inputs[None])


@pytest.mark.parametrize("name", [name for name in attnzoo.__all__ if inspect.isfunction(getattr(attnzoo, name))])
def test_annotations_name_what_there_is(name):
    assert "return" in hints_of(getattr(attnzoo, name))
