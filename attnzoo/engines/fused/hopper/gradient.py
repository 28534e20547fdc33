"""The recurrence of a Hopper GPU and its gradient, which is made of such recurrences.

That of queries has d_o, v and k in the places of q, k and v; those of keys, with v, d_o and q, and of values, with k, q
and d_o, go from the last chunk to the first. That of g_t is what passes token t: inside its chunk it follows from
q . d_q and k . d_k, and what passes the chunk's end is the state there times its gradient, so that chunks do not take
digits from each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.carried import Changed, instantiated
from attnzoo.engines.fused.hopper import parts
from attnzoo.engines.fused.hopper.recurrence import LOWEST, Side, Sides, State, Walked
from attnzoo.engines.fused.hopper.warpgroups import ROWS
from attnzoo.engines.fused.operands import filled_up


class Given(NamedTuple):
    """What a recurrence is differentiated by.

    Attributes:
      read: bfloat16 [B, T, N, F], where T, F and Hv are multiples of `ROWS`.
      key: [B, T, K, F].
      value: [B, T, K, Hv].
      value_one: of values that stand by themselves, float32 [B, N, T]; None for none.
      log_decay: of each token before it writes, float32 [B or 1, N or 1, T]; None for none.
      found: the state before the first token; None for none.
    """

    read: jax.Array
    key: jax.Array
    value: jax.Array
    value_one: jax.Array | None = None
    log_decay: jax.Array | None = None
    found: State | None = None


class How(NamedTuple):
    """How a recurrence is run.

    Attributes:
      scale: of what is read.
      interpret: what a CPU interprets kernels with, or None.
    """

    scale: float = 1.0
    interpret: Any = None

    @property
    def walk(self) -> Callable[..., Walked]:
        """A recurrence that is run so."""
        return functools.partial(parts.recurrence, scale=self.scale, interpret=self.interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(how: How, given: Given) -> tuple[jax.Array, jax.Array | None, State]:
    """Outputs, what is read of values that stand by themselves, and the state that is left."""
    sides = Sides(Side(given.read), Side(given.key), Side(given.value, given.value_one), _sums(given.log_decay))
    walked = how.walk(sides, given.found, dtype=given.value.dtype)
    return walked.out, walked.one, walked.left


def _forward(how: How, given: Any):
    given, changed = Changed.told(given)
    return recur(how, given), (given, changed)


def _backward(how: How, residuals: tuple[Given, Changed], pulled) -> tuple[Given]:
    given, told = residuals
    changed = told.of_each(given)
    (d_out, d_one, d_left), dtype = instantiated(pulled, given), given.read.dtype
    read, key, value, d_o = Side(given.read), Side(given.key), Side(given.value, given.value_one), Side(d_out, d_one)
    log_decay, wants_decays = given.log_decay, bool(changed.log_decay) and given.value_one is None
    onward, back = (_sums(log_decay, is_backward) for is_backward in (False, True))
    shared = dtype if given.key.shape[2] == given.read.shape[2] else jnp.float32  # until summed over those who share
    walk_back = functools.partial(how.walk, dtype=shared, is_backward=True)
    found = None if given.found is None else given.found.turned
    d_read = how.walk(Sides(d_o, value, key, onward), found, dtype=dtype, keeps=wants_decays)
    d_left = jax.tree.map(lambda x: x / how.scale, d_left)  # who reads it multiplies by the scale, which it lacks
    d_key = walk_back(Sides(value, d_o, read, back), d_left.turned, states=d_read.states)
    d_value = walk_back(Sides(key, read, d_o, back), d_left)
    d_log_decay = None if log_decay is None else jnp.zeros_like(log_decay)
    if log_decay is not None and wants_decays:
        products = _dots(given.read, d_read.out) - _dots(given.key, d_key.out)
        assert d_key.passed is not None
        d_log_decay = of_shared(_passing(products, d_key.passed * how.scale), log_decay)
    grads = Given(
        d_read.out,
        of_group(d_key.out, given.key),
        of_group(d_value.out, given.value),
        d_value.one,
        d_log_decay,
        None if given.found is None else jax.tree.map(lambda x: x * how.scale, d_value.left),
    )
    return (grads,)


recur.defvjp(_forward, _backward, symbolic_zeros=True)


def _sums(log_decay: jax.Array | None, is_backward: bool = False) -> jax.Array | None:
    """Of logarithms of decays, as `Sides` has them."""
    if log_decay is None:
        return None
    kept = jnp.maximum(log_decay, LOWEST)
    later = _by_chunk(kept, lambda x: jnp.pad(x[..., 1:], ((0, 0),) * (x.ndim - 1) + ((0, 1),)))
    upto, behind = _by_chunk(kept, _upto), _by_chunk(later, _from)
    return jnp.stack([behind, upto, behind] if is_backward else [upto, behind, upto], axis=2)


def _passing(products: jax.Array, passed: jax.Array) -> jax.Array:
    """The gradient of logarithms of decays, from q . d_q - k . d_k and what passes the ends of chunks: [B, N, T]."""
    beyond = passed.reshape(*passed.shape[:3], -1, ROWS).sum(axis=(2, 4))
    return _by_chunk(products, _from) + jnp.repeat(beyond, ROWS, axis=-1)


def _by_chunk(x: jax.Array, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return function(x.reshape(*x.shape[:-1], -1, ROWS)).reshape(x.shape)


def _upto(x: jax.Array) -> jax.Array:
    """Sums of each number and all before it."""
    return jnp.cumsum(x, axis=-1)


def _from(x: jax.Array) -> jax.Array:
    """Sums of each number and all behind it."""
    return jnp.flip(_upto(jnp.flip(x, axis=-1)), axis=-1)


def _dots(x: jax.Array, grad: jax.Array) -> jax.Array:
    """Products of operands with their gradients for each head of queries: [B, N, T]."""
    x = jnp.repeat(x, grad.shape[2] // x.shape[2], axis=2)
    return filled_up(jnp.einsum("btnf,btnf->bnt", x, grad, preferred_element_type=jnp.float32), ROWS, axis=2)


def of_shared(x: jax.Array, like: jax.Array) -> jax.Array:
    """The gradient of what examples or heads share."""
    (batch, heads), rest = like.shape[:2], x.shape[2:]
    return x.reshape(batch, x.shape[0] // batch, heads, -1, *rest).sum(axis=(1, 3))


def of_group(x: jax.Array, like: jax.Array) -> jax.Array:
    """The gradient of what heads of a group share."""
    return x.reshape(*like.shape[:3], -1, like.shape[3]).sum(axis=3).astype(like.dtype) if x.shape != like.shape else x
