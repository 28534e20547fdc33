"""What may be asked of attention is said once, and whoever hands it on says the same by name."""

import inspect

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import pytest

import attnzoo
import attnzoo.linen
import attnzoo.nnx
from attnzoo.door.arguments import DEFAULTS, Asked

ATTEND = inspect.signature(attnzoo.attend).parameters
LAYERS = [attnzoo.nnx.MultiHeadAttention, attnzoo.linen.MultiHeadAttention]


def test_what_is_asked_is_what_attend_takes():
    for name, annotation in Asked.__annotations__.items():
        assert ATTEND[name].annotation == annotation.__forward_arg__
        assert ATTEND[name].default == DEFAULTS.get(name)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__module__)
def test_layers_spell_out_what_they_hand_on(layer):
    taken = inspect.signature(layer.__call__).parameters
    assert {name: taken[name] for name in Asked.__annotations__} == {
        name: ATTEND[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in Asked.__annotations__
    }


def test_weights_take_all_that_attend_takes_but_values():
    assert ATTEND.keys() - inspect.signature(attnzoo.attention_weights).parameters.keys() == {
        "value",
        "return_residual",
    }


def test_others_are_refused_by_name():
    x, layer = jnp.ones((1, 3, 8)), attnzoo.nnx.MultiHeadAttention(2, 8, rngs=flax.nnx.Rngs(0))
    with pytest.raises(TypeError, match="unexpected keyword argument 'is_casual'"):
        layer(x, is_casual=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'is_casual'"):
        attnzoo.linen.MultiHeadAttention(2).init(jax.random.key(0), x, is_casual=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'value'"):
        attnzoo.attention_weights(x, x, value=x)
