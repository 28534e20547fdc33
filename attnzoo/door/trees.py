"""What came beside the operands as kernels receive it, checked: what they learned and drew, and biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract import randomness
from attnzoo.contract.bias import Bias, PositionBias
from attnzoo.contract.score_mod import ScoreMod
from attnzoo.contract.sizes import Dims, Tree
from attnzoo.door import validation
from attnzoo.engines import apart
from attnzoo.kernel import Kernel


def drawn(kernel: Kernel, dims: Dims) -> Tree:
    """What a kernel draws from its seed, as NumPy arrays; a kernel that draws nothing compiles nothing."""
    return _drawn(kernel, _of_any_batch(dims))


@apart.remembered
def _drawn(kernel: Kernel, dims: Dims) -> Tree:
    shapes = _shapes(kernel, dims)["draws"]
    if not jax.tree.leaves(shapes):
        return shapes
    return jax.jit(lambda rng: kernel.draw(rng, dims))(randomness.of_seed(kernel.seed))


@apart.remembered
def _shapes(kernel: Kernel, dims: Dims) -> dict[str, Tree]:
    made = {"params": kernel.init, "draws": kernel.draw}
    return {name: jax.eval_shape(lambda make=make: make(jax.random.key(0), dims)) for name, make in made.items()}


def _of_any_batch(dims: Dims) -> Dims:
    """What is learned or drawn for each head knows no batch, whose size may be a symbol."""
    return dims._replace(batch=1)


def tree_of(name: str, given: Tree, kernel: Kernel, dims: Dims) -> Tree:
    """`params` or `draws` as arrays, checked."""
    given = jax.tree.map(jnp.asarray, given)
    validation.tree(name, given, _shapes(kernel, _of_any_batch(dims))[name], kernel, dims.num_heads)
    return given


def bias_of(bias: jax.Array | PositionBias | None, score_mod: Callable | None, dtype: Any, dims: Dims) -> Bias | None:
    """`bias`, or what makes scores of queries in `dtype` anew, as kernels receive it, checked."""
    if score_mod is not None:
        if bias is not None:
            raise ValueError("score_mod came beside a bias: expected one of the two; a score_mod may add a bias")
        bias = ScoreMod.of(score_mod, dims.num_heads, jnp.promote_types(dtype, jnp.float32))
    if bias is None:
        return None
    if isinstance(bias, PositionBias):
        validation.position_bias(bias, dims.num_heads)
        return Bias(jax.tree.map(lambda x: x[None], bias))
    validation.no_encoding(bias)
    array = jnp.asarray(bias)
    validation.bias_array(array, (dims.batch, dims.num_heads, dims.query_length, dims.key_length))
    return Bias(array.reshape((1,) * (4 - array.ndim) + array.shape))
