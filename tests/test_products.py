"""Products with weights, whose tokens may have one axis."""

import re

import flax.linen
import jax
import numpy as np
from flax import nnx

from attnzoo.layers import products


def test_merged_tokens_meet_weights_of_linen():
    layer = flax.linen.DenseGeneral((2, 3), axis=(-2, -1), dot_general=products.dot_general)
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 6))
    params = layer.init(jax.random.key(1), x)
    apart = layer.apply(params, x)
    with products.merging():
        np.testing.assert_allclose(layer.apply(params, x), apart, rtol=1e-5, atol=1e-5)


def test_merged_tokens_change_no_number_and_gradients_of_weights_sum_over_one_axis():
    layer = nnx.LinearGeneral((4, 6), (2, 3), axis=(-2, -1), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 6))
    loss = lambda layer, x: (products.applied(layer, x, 2) ** 2).sum()
    gradients = lambda: nnx.value_and_grad(loss, argnums=(0, 1))(layer, x)
    apart = gradients()
    with products.merging():
        merged = gradients()
        graph, params = nnx.split(layer)
        program = str(jax.make_jaxpr(jax.grad(lambda params: loss(nnx.merge(graph, params), x)))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), merged, apart)
    of_weights = re.findall(r"dimension_numbers=\(\(\[([\d, ]*)\]", program)[-1]
    assert of_weights == "0"
