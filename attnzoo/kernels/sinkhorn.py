"""Sparse Sinkhorn attention: each block of queries meets its own keys and a block that a learned sorting brings.

    R_nl = W_l . mean of the keys in block n,    P = normalised exp(R / temperature), rows and columns in turn
    k'_ls = sum_n P_nl k_ns,    v'_ls = sum_n P_nl v_ns
    y_i = sum_s softmax over both (q_i . k_ls / sqrt(H), q_i . k'_ls / sqrt(H)) (v_ls, v'_ls)

for query i in block l and the s-th token of each block. Cost O(T b H + T^2 H / b) with b = block_size, memory O(T b +
(T / b)^2). Tay et al. 2020, arXiv:2002.11296, sections 3.1-3.3. Learned: W, a direction for each block at `init`.

Ours: pooling by the mean, so that the size of a block does not sharpen the sort; no Gumbel noise, which would make a
call random; one softmax over both blocks. The sort net is one linear map of pooled keys, as in the Long Range Arena's
code, whose product of keys and permutation however sums each over an axis of its own: every block there is brought
the sum of all, and nothing is sorted. Blocks without a visible token take no part, and a slot of a mixed block counts
as much as it holds of visible tokens. Every block is mixed with later ones, so there is no causal form.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.contract.support import Support
from attnzoo.engines import dense, heads
from attnzoo.kernel import Kernel

HIDDEN = -1e30  # finite, so that a row without blocks has a gradient


@dataclasses.dataclass(frozen=True)
class Sinkhorn(Kernel):
    """Its own block, and one that a learned sorting brings.

    Learned for inputs up to the key length at `init`; a longer one is refused.

    Attributes:
      block_size: b, in tokens.
      iterations: how often rows and columns are normalised in turn.
      temperature: by which R is divided. A lower one and more iterations bring the sorting nearer to a permutation.

    Raises:
      ValueError: `temperature` is no finite number > 0, or another field no integer >= 1; in a call, there are more
        blocks of keys than at `init`.

    Example:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
      >>> kernel = Sinkhorn(block_size=4)
      >>> params = kernel.init(jax.random.key(0), Dims.of(q, k, v))
      >>> params.shape  # a direction for each block, of which there is one
      (2, 1, 8)
      >>> out = attend(q, k, v, kernel=kernel, params=params)  # it is brought itself, and this is softmax
      >>> bool(jnp.allclose(out, attend(q, k, v), atol=1e-5))
      True
    """

    block_size: int = 64
    iterations: int = 8
    temperature: float = 0.75

    supports = Support(
        key_mask=True, why="its blocks of keys are sorted by what is in them, and mixed along the whole sequence"
    )

    def __post_init__(self):
        fields.positive_integer(self, "block_size")
        fields.positive_integer(self, "iterations")
        fields.positive_number(self, "temperature")

    def init(self, rng, dims):
        """Directions W: [N, blocks, H]."""
        return jax.random.normal(rng, (dims.num_heads, self._blocks(dims.key_length), dims.head_dim))

    def head(self, params, draws, q, k, v, visible):
        return self._attend(params, q, k, v, visible.any(axis=0))

    def batched(self, params, draws, q, k, v, call):
        def one_head(q, k, v, params, keys):
            return self._attend(params, q, k, v, jnp.ones(len(k), bool) if keys is None else keys)

        numbers = q.shape[1] * max(2 * self.block_size, self._blocks(q.shape[1]) // self.block_size)
        return heads.over_heads(one_head, q, k, v, (params[None], call.mask.keys), numbers=numbers)

    def _attend(self, params, q, k, v, keys):
        """One head, given which keys are seen."""
        precise = jnp.promote_types(q.dtype, jnp.float32)
        dtype, length = v.dtype, len(q)
        q, k, v, shown = (self._in_blocks(x.astype(precise)) for x in (q, k, v, keys))
        sorting = self._sorting(params.astype(precise), k, shown)
        mass = sorting.T @ shown
        held = jnp.where(mass > 0, mass, 1)

        def beside_sorted(x):
            brought = jnp.einsum("nl,nsh->lsh", sorting, x * shown[..., None]) / held[..., None]
            return jnp.concatenate([x, brought], axis=1)

        visible = jnp.concatenate([shown, mass], axis=1) > 0
        added = jnp.concatenate([jnp.zeros_like(shown), jnp.log(held)], axis=1)
        scores = jax.vmap(lambda q, k, added: dense.scores(q, k) + added[None])(q, beside_sorted(k), added)
        out = jax.vmap(dense.attend)(scores, beside_sorted(v), visible[:, None])[0]
        return out.reshape(-1, out.shape[-1])[:length].astype(dtype)

    def _sorting(self, directions, k, shown):
        """The soft permutation P [blocks, blocks]: how much of block n comes to block l."""
        longest, blocks = len(directions), len(k)
        if blocks > longest:
            raise ValueError(
                f"Sinkhorn was initialised for at most {longest} blocks of {self.block_size} keys, key has {blocks}: "
                "initialise it with dims of the longest key length that it will meet"
            )
        count = shown.sum(axis=1, keepdims=True)
        pooled = (k * shown[..., None]).sum(axis=1) / jnp.maximum(count, 1)
        used = (count > 0) & (count > 0).T
        logs = jnp.where(used, pooled @ directions[:blocks].T / self.temperature, HIDDEN)
        for _ in range(self.iterations):
            for axis in (1, 0):
                logs = jnp.where(used, logs - jax.nn.logsumexp(logs, axis=axis, keepdims=True), HIDDEN)
        return jnp.exp(logs)

    def _in_blocks(self, x):
        """[L, ...] -> [blocks, b, ...], zero after the end."""
        x = jnp.pad(x, [(0, -len(x) % self.block_size)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, self.block_size, *x.shape[1:])

    def _blocks(self, length: int) -> int:
        return -(-length // self.block_size)
