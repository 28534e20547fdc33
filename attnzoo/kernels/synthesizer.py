"""Synthesizer: scores that no product of queries and keys makes.

    y_i = sum_j softmax_j(e_ij + b_ij) v_j
    dense:  e_ij = a_j . relu(W q_i + c) + d_j        random:  e_ij = r_i . s_j

with j the position of the key, i that of the query, and a, W, c, d or r, s learned for each head. Cost O(T S U) with U
the width of the hidden layer or `rank`, memory O((T + S) U). Tay et al. 2020, arXiv:2005.00743, eq. 1-2 and section
3.1.4. `dense` takes the query where the paper takes the token. `random` is the paper's factorised form, which is what
the Long Range Arena ran, with rank 32; a rank as large as the length makes it the whole matrix.

Both are softmax over products of one vector for each query and one for each key, so that the exact engine serves.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.engines import across, dense, streaming
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT

FORMS = ("dense", "random")


@dataclasses.dataclass(frozen=True)
class Synthesizer(Kernel):
    """Learned scores, from the query alone or from positions alone.

    Learned for inputs up to the key length at `init`; a longer one is refused.

    Attributes:
      form: "dense", from the query, or "random", which knows queries by their position alone; one outside of what was
        learned is taken for the nearest inside.
      units: hidden width of "dense", the head dimension where None.
      rank: of "random".

    Raises:
      ValueError: there is no such form, or another field is no integer >= 1; in a call, there are more tokens than at
        `init`.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> kernel = Synthesizer(form="random", rank=3)
      >>> params = kernel.init(jax.random.key(0), Dims.of(q, k, v))
      >>> weights = [attention_weights(x, k, kernel=kernel, params=params) for x in (q, -q)]
      >>> bool((weights[0] == weights[1]).all())  # queries are not looked at
      True
    """

    form: str = "dense"
    units: int | None = None
    rank: int = 32

    supports = dataclasses.replace(
        EXACT,
        scale=False,
        soft_cap=False,
        ignores=("key",),
        positions=True,
        why="its scores are learned, not scaled products of queries and keys",
    )

    def __post_init__(self):
        fields.one_of(self, "form", FORMS)
        fields.positive_integer(self, "rank")
        if self.units is not None:
            fields.positive_integer(self, "units")
        if self.form == "random":
            object.__setattr__(self, "supports", dataclasses.replace(self.supports, ignores=("query", "key")))

    def init(self, rng, dims):
        """Dense: {"hidden": W, "hidden_bias": c, "key": a, "key_bias": d}. Random: {"query": r, "key": s}."""
        keys, heads = jax.random.split(rng), dims.num_heads
        if self.form == "random":
            shapes = [(heads, max(dims.query_length, dims.key_length), self.rank), (heads, dims.key_length, self.rank)]
            query, key = (
                jax.random.normal(key, shape) * self.rank**-0.25 for key, shape in zip(keys, shapes, strict=True)
            )
            return {"query": query, "key": key}
        units = self._width(dims)
        return {
            "hidden": jax.random.normal(keys[0], (heads, dims.head_dim, units)) * dims.head_dim**-0.5,
            "hidden_bias": jnp.zeros((heads, units)),
            "key": jax.random.normal(keys[1], (heads, dims.key_length, units)) * units**-0.5,
            "key_bias": jnp.zeros((heads, dims.key_length)),
        }

    def head(self, params, draws, q, k, v, visible, *, bias, dropout, positions):
        self._check_lengths(params, len(q), len(k))
        rows = self._of_queries(params, q, jnp.arange(len(q)) + positions.query_offset)
        return dense.attend(rows @ self._of_keys(params, q.dtype, slice(len(k))).T, v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        length, key_length = q.shape[1], k.shape[1]
        index, keys = jnp.arange(length), slice(key_length)
        if call.shards is not None:
            length, key_length = call.shards.query_length, call.shards.key_length
            index, keys = call.shards.indices(q.shape[1], k.shape[1])
        self._check_lengths(params, length, key_length)
        params = jax.tree.map(lambda x: jnp.broadcast_to(x, (q.shape[2], *x.shape[1:])), params)
        rows = jax.vmap(self._of_queries, (0, 2, None), 2)(params, q, index[None] + call.mask.query_offset)
        columns = jax.vmap(lambda params: self._of_keys(params, q.dtype, keys), 0, 1)(params)
        columns = jnp.broadcast_to(columns, (q.shape[0], *columns.shape))
        return across.over_heads(streaming.DotProduct(1.0), {}, rows, columns, v, call, streaming.natural_layout)

    def meets(self, shards, mask):
        return True

    def _of_queries(self, params, q, positions):
        """The vector of each query [..., T, H] of one head, in float32 at least: [..., T, U]."""
        precise = jnp.promote_types(q.dtype, jnp.float32)
        if self.form == "random":
            rows = jnp.take(params["query"].astype(precise), positions, axis=0, mode="clip")
            return jnp.broadcast_to(rows, (*q.shape[:-1], self.rank))
        hidden, bias = (params[name].astype(precise) for name in ("hidden", "hidden_bias"))
        units = jax.nn.relu(q.astype(precise) @ hidden + jnp.expand_dims(bias, range(q.ndim - 1)))
        return jnp.concatenate([units, jnp.ones_like(units[..., :1])], axis=-1)

    def _of_keys(self, params, dtype, keys):
        """The vectors of `keys`, a slice or int [S], of one head, in float32 at least: [S, U]."""
        precise = jnp.promote_types(dtype, jnp.float32)
        columns = params["key"][keys]
        if self.form == "dense":
            columns = jnp.concatenate([columns, params["key_bias"][keys, None]], axis=-1)
        return columns.astype(precise)

    def _check_lengths(self, params, queries, keys):
        given = {"key": keys} | ({"query": queries} if self.form == "random" else {})
        for name, length in given.items():
            if length > (longest := params[name].shape[-2]):
                raise ValueError(
                    f"Synthesizer was initialised for {name} of at most {longest} tokens, {name} has {length}: "
                    "initialise it with dims of the longest lengths that it will meet"
                )

    def _width(self, dims):
        """Of the vectors whose products are the scores, biases apart."""
        if self.form == "random":
            return self.rank
        return dims.head_dim if self.units is None else self.units
