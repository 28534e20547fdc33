"""Softmax inside groups of tokens that are found at run time: gathered, attended group by group, and brought back.

An `Order` is a partial one-to-one map between the L tokens of a sequence and the slots of G groups. Since it is known
in both directions, to gather along it is the gradient of gathering back: nothing is scattered, forward or backward.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.contract.call import Call
from attnzoo.engines import dense, modes


class Order(NamedTuple):
    """Which token stands in which slot.

    Attributes:
      tokens: the token in each slot, int [G, g], -1 for none.
      slots: the slot of each token, int [L], counted through all groups, -1 for none.

    Example:
      >>> from attnzoo.engines.gathered import Order
      >>> order = Order(tokens=jnp.array([[2, 0], [1, -1]]), slots=jnp.array([1, 2, 0]))
      >>> grouped = order.grouped(jnp.array([10.0, 11.0, 12.0]))
      >>> grouped.tolist(), order.restored(grouped).tolist()
      ([[12.0, 10.0], [11.0, 0.0]], [10.0, 11.0, 12.0])
    """

    tokens: jax.Array
    slots: jax.Array

    def grouped(self, x: jax.Array) -> jax.Array:
        """[L, ...] -> [G, g, ...], zero in empty slots."""
        return _gathered(x, self.tokens.reshape(-1), self.slots).reshape(*self.tokens.shape, *x.shape[1:])

    def restored(self, x: jax.Array) -> jax.Array:
        """[G, g, ...] -> [L, ...], zero for tokens without a slot."""
        return _gathered(x.reshape(-1, *x.shape[2:]), self.slots, self.tokens.reshape(-1))


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    call: Call,
    shares: jax.Array | None = None,
) -> dense.Part:
    """One head in groups: leaves lead with [G, t].

    Args:
      q: [G, t, H]. k: [G, s, H]. v: [G, s, Hv].
      rows: which queries these are, int [G, t], -1 for none. columns: which keys, int [G, s].
      shares: [G, t, s], by which the exponentials of scores are multiplied.
    """

    def group(q, k, v, rows, columns, shares):
        scores, visible = dense.scores(q, k, call.scale, call.soft_cap), call.mask.at(rows, columns)
        return dense.part(scores, v, visible, call.bias_at(rows, columns), call.dropout_at(rows, columns), shares)

    return jax.vmap(group)(q, k, v, rows, columns, shares)


def _picked(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[index], 0 where index is -1."""
    picked = jnp.take(x, index, axis=0, mode="clip")
    return jnp.where((index >= 0).reshape(-1, *(1,) * (x.ndim - 1)), picked, 0)


@jax.custom_vjp
def _ruled(x: jax.Array, index: jax.Array, inverse: jax.Array) -> jax.Array:
    """The same; `inverse` leads back."""
    return _picked(x, index)


_ruled.defvjp(
    lambda x, index, inverse: (_ruled(x, index, inverse), (index, inverse)),
    lambda indices, d_out: (_ruled(d_out, *indices[::-1]), None, None),
)


def _gathered(x: jax.Array, index: jax.Array, inverse: jax.Array) -> jax.Array:
    return modes.with_rule(_ruled, lambda x, index, inverse: _picked(x, index))(x, index, inverse)
