"""BigBird: global, window and random blocks of keys for every block of queries.

    y_i = sum_{j in P(i)} softmax_j(scale q_i . k_j + b_ij) v_j

P(i) is a set of key blocks, chosen by the block that query i stands in: the first and the last `num_global`
blocks, `num_window` blocks around its own, and `num_random` of the rest; a key is counted once. Queries of global
blocks see everything. Cost O(T (2 num_global + num_window + num_random) block_size H), memory O(T + S). Zaheer et
al. 2020, arXiv:2007.14062 (the ITC form).

The paper has no causal form. Ours: the first `num_global` blocks, the `num_window` blocks that end with the query's
own, and `num_random` of the blocks between. The blocks of a row depend on seed, head and row alone, never on the
length, so that decoding can equal the whole. Two-sided, the last blocks are those of the sequence without padding.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import fields, randomness
from attnzoo.engines import caching, dense, heads, schedule, streaming
from attnzoo.engines.progressions import as_arithmetic
from attnzoo.engines.schedule import Layout, Schedule
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT

# Queries of a prompt that gather at once: each takes copies of all keys in its listed blocks, 448 by default.
GATHERED = 16


@dataclasses.dataclass(frozen=True)
class BigBird(Kernel):
    """Global, window and random blocks. These are drawn from `seed`, the same in training and evaluation.

    Attributes:
      block_size: tokens in a block.
      num_random: blocks that each block of queries draws of those that it would not see else.
      num_window: blocks around its own, that one included; odd.
      num_global: blocks at each end of the sequence, at its start alone where it is causal.
      seed: what `draw` starts from unless a call has draws of its own.

    Raises:
      ValueError: a field is no integer, or too small; `num_window` is even.

    Example:
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> kernel = BigBird(block_size=1, num_random=0, num_window=1, num_global=1)
      >>> (attention_weights(q, k, kernel=kernel)[0, 0] > 0).astype(int)  # the first block, the last, and its own
      Array([[1, 1, 1, 1],
             [1, 1, 0, 1],
             [1, 0, 1, 1],
             [1, 1, 1, 1]], dtype=int32)
    """

    block_size: int = 64
    num_random: int = 3
    num_window: int = 3
    num_global: int = 1
    seed: int = 0

    supports = dataclasses.replace(
        EXACT, positions=True, cross=False, work=1.0, why="its blocks join the queries and keys of one sequence"
    )

    def __post_init__(self):
        for name in ("block_size", "num_window"):
            fields.positive_integer(self, name)
        for name in ("num_random", "num_global", "seed"):
            fields.natural_number(self, name)
        if self.num_window % 2 == 0:
            raise ValueError(
                f"BigBird(num_window={self.num_window}): num_window counts the blocks around a query's own and that "
                f"block itself, and must be odd; use {self.num_window - 1} or {self.num_window + 1}"
            )

    def draw(self, rng, dims):
        """A key of two words for each head, from which the random blocks of any row follow: uint32 [N, 2]."""
        rng = randomness.threefry(rng)
        return jax.vmap(lambda head: jax.random.key_data(jax.random.fold_in(rng, head)))(jnp.arange(dims.num_heads))

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout, positions):
        last_block = self._block_of(len(k) - 1)
        rows = self._block_of(jnp.arange(len(q)) + positions.query_offset)
        used = self._block_of(positions.key_length - 1) + 1
        listed = self.listed_blocks(draws, rows, used, positions.is_causal)  # [T, L]
        joined = jax.nn.one_hot(listed, last_block + 1, dtype=bool).any(axis=1)
        joined |= self._is_global(rows, used, positions.is_causal)[:, None]
        visible &= joined[:, self._block_of(np.arange(len(k)))]
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        columns = schedule.natural(call.mask.key_length, self.block_size)

        def layout_of(mask, draws):
            row_blocks, rows = schedule.in_blocks(mask, self.block_size)
            return Layout(rows, columns, self._schedules(draws, as_arithmetic(row_blocks), len(columns), mask))

        score, params = streaming.dot_product(q, call.scale, call.soft_cap)
        return streaming.over_heads(score, params, q, k, v, call, layout_of, draws[None])

    def step(self, params, draws, cache, q, k, v, positions, call):
        cache = caching.written(cache, {"key": k, "value": v}, positions)
        q, keys, values = caching.in_one_dtype(q, cache["key"], cache["value"])

        def one_head(q, k, v, draws, positions, call):
            def one_query(given):
                *single, columns = given
                q, row, position = (x[None] for x in single)
                keys, values = (jnp.take(x, columns, axis=0, mode="clip") for x in (k, v))
                added = caching.bias_at(call.bias, position, columns, row)
                scores, seen = (
                    dense.scores(q, keys, call.scale, call.soft_cap),
                    caching.seen(position, columns, call.mask),
                )
                return jax.tree.map(lambda x: x[0], dense.attend(scores, values, seen, added))

            listed = self._listed_keys(draws, positions)
            return jax.lax.map(one_query, (q, jnp.arange(len(q)), positions, listed), batch_size=GATHERED)

        given = draws[None], positions[:, None], call.by_head(q.shape[2])
        return cache, heads.over_heads(one_head, q, keys, values, given)

    def listed_blocks(self, draws, rows, used, is_causal: bool):
        """Key blocks of query blocks `rows` [R], global rows apart: int [R, L], -1 for none, none twice.

        Args:
          draws: the key of one head.
          rows: block numbers, counted from the start of the keys.
          used: number of blocks that hold keys, padding left out.
        """
        rows = rows[:, None]
        ends = jnp.broadcast_to(jnp.arange(self.num_global), (len(rows), self.num_global))
        reach = self.num_window - 1 if is_causal else self.num_window // 2
        window = rows + jnp.arange(-reach, 1 if is_causal else reach + 1)[None]
        middle = rows + 1 if is_causal else used - self.num_global
        parts = [
            jnp.where(ends <= rows, ends, -1) if is_causal else ends,
            jnp.where((window >= self.num_global) & (window < middle), window, -1),
            self._random_blocks(draws, rows, reach, used, is_causal),
        ]
        if not is_causal:
            parts.append(jnp.where(used - 1 - ends >= self.num_global, used - 1 - ends, -1))
        blocks = jnp.concatenate(parts, axis=1)
        return jnp.where(blocks < used, blocks, -1)

    def _listed_keys(self, draws, positions):
        """The keys in the blocks of queries at `positions` [t], causally: int [t, L * block_size], -1 for none."""
        rows = self._block_of(jnp.maximum(positions, 0))
        blocks = self.listed_blocks(draws, rows, rows.max() + 1, is_causal=True)[..., None]
        keys = jnp.where(blocks < 0, -1, blocks * self.block_size + jnp.arange(self.block_size)[None, None])
        return keys.reshape(len(rows), -1)

    def _random_blocks(self, draws, rows, reach, used, is_causal):
        """`num_random` blocks of each row that are neither global nor in its window: int [R, num_random], -1 for none.

        Floyd's sampling: without replacement, in `num_random` steps whatever the number of candidates.
        """
        start = self.num_global
        width: int | jax.Array
        if is_causal:
            end = rows - reach
            hole, width = end, 0
        else:
            end = jnp.broadcast_to(used - self.num_global, rows.shape)
            hole = jnp.clip(rows - reach, start, jnp.maximum(end, start))
            width = jnp.clip(rows + reach + 1, start, jnp.maximum(end, start)) - hole
        candidates = jnp.maximum(end - start, 0) - width
        key = randomness.threefry(draws)
        draw = lambda row: jax.random.bits(jax.random.fold_in(key, row), (self.num_random,), jnp.uint32)
        bits = jax.vmap(draw)(rows[:, 0])
        chosen = jnp.zeros((len(rows), 0), int)
        for step in range(self.num_random):
            largest = candidates - self.num_random + step
            pick = (bits[:, step : step + 1] % jnp.maximum(largest + 1, 1).astype(jnp.uint32)).astype(int)
            pick = jnp.where((chosen == pick).any(axis=1, keepdims=True), largest, pick)
            chosen = jnp.concatenate([chosen, jnp.where(largest >= 0, pick, -1)], axis=1)
        block = start + chosen
        return jnp.where(chosen < 0, -1, jnp.where(block >= hole, block + width, block))

    def _is_global(self, rows, used, is_causal: bool):
        """Whether the queries of blocks `rows` see everything: the first and last blocks, unless causal."""
        if is_causal:
            return jnp.zeros(jnp.shape(rows), bool)
        return ((rows >= 0) & (rows < self.num_global)) | ((rows >= used - self.num_global) & (rows < used))

    def _schedules(self, draws, row_blocks: jax.Array, key_blocks: int, mask) -> tuple[Schedule, ...]:
        """The listed blocks of each row in one step; then the global rows, which take all blocks in several."""
        used = self._block_of(mask.used_length() - 1) + 1
        listed = self.listed_blocks(draws, row_blocks, used, mask.is_causal)
        is_global = self._is_global(row_blocks, used, mask.is_causal)
        blocks = jnp.where(is_global[:, None], -1, listed)
        # Listed blocks are gathered: with an eighth of the usual pairs the gradient is a fifth faster on a CPU.
        together = max(1, schedule.PAIRS // 8 // (self.block_size**2 * blocks.shape[1]))
        local = schedule.in_steps(jnp.arange(len(row_blocks)), blocks, together)
        if mask.is_causal or self.num_global == 0:
            return local
        ends = jnp.arange(self.num_global)
        row = jnp.concatenate([ends, used - 1 - ends]) - row_blocks[0]
        exists = jnp.concatenate([ends < used, used - 1 - ends >= self.num_global])
        exists &= (row >= 0) & (row < len(row_blocks))
        width = min(key_blocks, max(1, schedule.PAIRS // self.block_size**2))
        everything = np.pad(np.arange(key_blocks), (0, -key_blocks % width), constant_values=-1).reshape(-1, width)
        rows = jnp.repeat(jnp.where(exists, row, 0), len(everything))
        blocks = jnp.where(exists[:, None, None], as_arithmetic(everything), -1).reshape(-1, width)
        return local + schedule.in_steps(rows, blocks, 1)

    def _block_of(self, position):
        return position // self.block_size
