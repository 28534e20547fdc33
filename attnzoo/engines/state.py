"""A state that tokens write and read, a chunk of them at once: the arithmetic of one head of one example.

    S_t = e^(g_t) S_(t-1) + e^(b_t) k_t x_t^T,    o_t = S_t^T q_t
    x_t = v_t,    or by the delta rule    x_t = r_t (v_t - (e^(g_t) S_(t-1))^T k_t)

with decays e^g of a head, a token, or a token and channel (Yang et al. 2023, arXiv:2312.06635), and logarithms b of a
scale that was taken out of a key. Beside gains, S and o are relative to e^(M_t), the largest gain so far, decayed like
all else. The tokens of a chunk meet as pairs, weighted by what decays between them, and the state once; the delta rule
solves for its x, a triangular system for each chunk (its WY form: Yang et al. 2024, arXiv:2406.06484).

What is left of a token at another is the exponential of a sum of logarithms over those between them alone, or a product
over these by channel. Nothing is divided by a product of decays, which vanishes, and no sum is taken from another,
which would take digits with it: a token and its neighbours in a chunk can touch each other by what they write, and by
nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.engines import heads
from attnzoo.engines.heads import precise

LOWEST = -1e30
FEW = 8  # tokens that are solved for one after another


class Channels(NamedTuple):
    """Channels of a state that forget and grow in one way, or several groups of them, each in its own.

    Attributes:
      key: [s, F], by which a token writes and is found; [G, s, F] of groups, with which all else leads, too.
      log_decay: from -inf to 0: [] for each position, [s] or [s, F] of each token before it writes; None for no decay.
      log_gain: [s], or None.

    Example:
      >>> from attnzoo.engines import state
      >>> @jax.jit
      ... def left(key, value):
      ...     halved = state.Channels(key, log_decay=jnp.log(jnp.full(4, 0.5)))  # by each token, before it writes
      ...     return state.meet(None, state.Write((value,), (halved,)), state.Standing(jnp.tri(4, dtype=bool))).after()
      >>> [sums] = left(jnp.ones((4, 8)), jnp.ones((4, 3)))
      >>> bool(jnp.allclose(sums.totals[0], 1 + 1 / 2 + 1 / 4 + 1 / 8))
      True
    """

    key: jax.Array
    log_decay: jax.Array | None = None
    log_gain: jax.Array | None = None


class Write(NamedTuple):
    """What tokens do to the state.

    Attributes:
      values: [s, ...] each, which are written beside each other.
      channels: what is read from each of them is added up.
      rate: [s] for the delta rule, which knows no gains; None to write values as they are.

    Example:
      >>> from attnzoo.engines import state
      >>> key, value = jnp.ones((4, 8)), jnp.ones((4, 3))
      >>> write = state.Write(state.counted(value), (state.Channels(key),))  # values, and a 1 beside each
      >>> [total.shape for total in state.empty(write)[0].totals]
      [(8, 3), (8,)]
    """

    values: tuple[jax.Array, ...]
    channels: tuple[Channels, ...]
    rate: jax.Array | None = None


class Sums(NamedTuple):
    """The state of some channels.

    Attributes:
      totals: [F, ...] for each of the values, led by groups, scaled by e^-top.
      top: the largest gain so far [], `LOWEST` where none is; None without gains.
    """

    totals: tuple[jax.Array, ...]
    top: jax.Array | None = None

    def beside(self, top: jax.Array) -> Sums:
        """The same, scaled by another gain, at least as large."""
        assert self.top is not None
        return Sums(tuple(scaled(x, self.top - top) for x in self.totals), top)


State = tuple[Sums, ...]


class Standing(NamedTuple):
    """Who sees what: tokens of a chunk, and the state that it finds. None stands for all.

    Attributes:
      inside: bool [t, s], which tokens of the chunk each query sees.
      finds: bool [t], to which queries the state that was found belongs.
      writes: bool [s], which tokens belong to the state that is left.
      lasts: bool [], whether the state that was found goes on in it.
      steps: int [s], positions that a decay for each of them counts; one a token where None.
    """

    inside: jax.Array | np.ndarray
    finds: jax.Array | None = None
    writes: jax.Array | None = None
    lasts: jax.Array | None = None
    steps: jax.Array | np.ndarray | None = None


def over_groups(rows: jax.Array, function: Callable, *each: Any, added: bool = False) -> Any:
    """`function` of channels, or of each group where `rows` of theirs are [G, s, F], of all of them or added up.

    They are added one by one: a sum over products of matrices is one operation to XLA's compiler of jax 0.10 and 0.11
    for CPUs, whose result is NaN at some sizes.
    """
    if rows.ndim == 2:
        return function(*each)
    found = jax.vmap(function)(*each)
    return jax.tree.map(sum, found) if added else found


def apart(write: Write, of_channels: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is of each channels of a write, such as a state, of each group of them: a compiler of kernels may know no
    more than matrices.
    """
    of_group = lambda x, group: jax.tree.map(lambda x: x[group], x)
    of_each = lambda one, x: [x] if one.key.ndim == 2 else [of_group(x, group) for group in range(len(one.key))]
    return tuple(part for one, x in zip(write.channels, of_channels, strict=True) for part in of_each(one, x))


def together(write: Write, of_groups: tuple[Any, ...]) -> tuple[Any, ...]:
    """What `apart` makes of each channels, back."""
    rest = iter(of_groups)
    stacked = lambda channels: jax.tree.map(lambda *x: jnp.stack(x), *[next(rest) for _ in range(len(channels.key))])
    return tuple(stacked(one) if one.key.ndim == 3 else next(rest) for one in write.channels)


def empty(write: Write) -> State:
    """The state before the first token, of what writes like this."""

    def sums(channels):
        *groups, _, width = channels.key.shape
        shapes = [(*groups, width, *x.shape[1:]) for x in write.values]
        totals = tuple(
            jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
            for shape, x in zip(shapes, write.values, strict=True)
        )
        return Sums(totals, None if channels.log_gain is None else jnp.asarray(LOWEST, channels.log_gain.dtype))

    return tuple(map(sums, write.channels))


def counted(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values [s, Hv], and a 1 for each of them, so that weights are summed beside what they weigh."""
    return value, jnp.ones(len(value), value.dtype)


def normalised(read: tuple[jax.Array, ...], epsilon: float = 0.0) -> jax.Array:
    """What was read of counted values, by the sum of weights and epsilon; 0 where that is 0: [t, Hv]."""
    above, below = read[0], read[1] + epsilon
    return above / jnp.where(below == 0, 1, below)[:, None]


def recall(
    state: State, queries: tuple[jax.Array, ...], left: list[jax.Array | None] | None = None
) -> tuple[jax.Array, ...]:
    """What queries [t, F] of each channels, or [G, t, F] of groups, read from the state, [t, ...] each.

    Args:
      left: what is left of it, [t] or [t, F] for each channels, led by groups; all is where None.
    """

    def read(q, totals, left):
        return tuple(_read(q, total, left) for total in totals)

    each = zip(queries, state, left or [None] * len(state), strict=True)
    return added(over_groups(q, read, q, sums.totals, own, added=True) for q, sums, own in each)


Halves = list[tuple[jax.Array, jax.Array]]  # of blocks: what is left up to tokens of later ones, and of earlier ones


class Left(NamedTuple):
    """What is left of writes when they are read, as factors, led by groups; None where nothing is lost.

    Attributes:
      pairs: [t, s], of the chunk's own.
      found: [t] or [t, F], of the state that was found.
      own: [s] or [s, F], of the chunk's own at its end.
      last: [] or [F], of the state that was found, at its end.
      spans: what is left between halves of blocks, where that of pairs depends on the channel.
      top: the largest gain at the end of the chunk.
    """

    pairs: jax.Array | None = None
    found: jax.Array | None = None
    own: jax.Array | None = None
    last: jax.Array | None = None
    spans: Halves | None = None
    top: jax.Array | None = None


class Chunk(NamedTuple):
    """Tokens beside the state that they found, ready to be read and left.

    Attributes:
      found: the state, or None where there is none yet.
      write: what the tokens write, corrected by the delta rule where it is one.
      standing: who sees what.
      left: of each channels.
    """

    found: State | None
    write: Write
    standing: Standing
    left: tuple[Left, ...]

    def read(self, queries: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Queries [t, F] for each channels -> [t, ...] of each of the values."""
        products = self.products(queries)
        out = tuple(_summed(products, x) for x in self.write.values)
        return out if self.found is None else added([out, self.recalled(self.found, queries)])

    def after(self) -> State:
        """The state that is left."""
        each = zip(self.found or [None] * len(self.left), self.write.channels, self.left, strict=True)
        return tuple(over_groups(one[1].key, self._sums, *one) for one in each)

    def _sums(self, found: Sums | None, channels: Channels, left: Left) -> Sums:
        written = where(self.standing.writes, _times(channels.key, left.own))
        totals = tuple(_written(written, x) for x in self.write.values)
        if found is not None:
            kept = jax.tree.map(lambda x: where(self.standing.lasts, _times(x, left.last)), found.totals)
            totals = added([totals, kept])
        return Sums(totals, left.top)

    def products(self, queries: tuple[jax.Array, ...]) -> jax.Array:
        """How much each query [t] has of each token [s]."""

        def products(q, channels, left):
            if left.spans is not None:
                return _decayed_products(q, channels.key, left.spans)
            return _times(product(q, channels.key.T), left.pairs)

        each = zip(queries, self.write.channels, self.left, strict=True)
        found = [over_groups(one[1].key, products, *one, added=True) for one in each]
        return jnp.where(self.standing.inside, sum(found), 0)

    def recalled(self, found: State, queries: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """What queries read from the state that was found."""
        read = recall(found, queries, [left.found for left in self.left])
        return tuple(where(self.standing.finds, x) for x in read)


def meet(found: State | None, write: Write, standing: Standing) -> Chunk:
    """The next chunk of tokens, which write what `check` lets pass."""
    tops: list[jax.Array | None] = [None] * len(write.channels) if found is None else [sums.top for sums in found]
    of_each = functools.partial(_left, standing=standing)
    left = tuple(over_groups(one[0].key, of_each, *one) for one in zip(write.channels, tops, strict=True))
    chunk = Chunk(found, write, standing, left)
    return chunk if write.rate is None else chunk._replace(write=write._replace(values=_corrected(chunk, write.rate)))


def check(write: Write) -> None:
    """Whether tokens can write so.

    Raises:
      ValueError: gains beside the delta rule, decays by channel, or groups: the state has one scale; the delta rule
        beside groups, or several values; decays that are no leading axes of keys.
    """
    for key, decay, gain in write.channels:
        are_groups, by_channel = key.ndim == 3, decay is not None and decay.ndim == key.ndim
        if decay is not None and (decay.ndim < are_groups or decay.shape != key.shape[: decay.ndim]):
            raise ValueError(f"log_decay has shape {decay.shape}: expected leading axes of keys {key.shape}")
        others = {"decays by channel": by_channel, "groups": are_groups, "the delta rule": write.rate is not None}
        beside = [name for name, is_there in others.items() if is_there]
        if gain is not None and beside:
            raise ValueError(
                f"log_gain came beside {beside[0]}, which knows no scale that changes: expected log_gain=None"
            )
        if are_groups and write.rate is not None:
            raise ValueError(f"rate came beside keys {key.shape} in groups: expected [s, F]")
    if write.rate is not None and len(write.values) != 1:
        raise ValueError(f"rate came beside {len(write.values)} values: the delta rule corrects one")


def _corrected(chunk: Chunk, rate: jax.Array) -> tuple[jax.Array]:
    """The x that are written in place of values, by the delta rule: each knows what those before it have written."""
    found, write, *_ = chunk
    (missing,), keys = write.values, tuple(channels.key for channels in write.channels)
    dtype = missing.dtype
    if found is not None:
        missing = missing - chunk.recalled(found, keys)[0]
    system, right = (rate[:, None] * x for x in (chunk.products(keys), missing))
    return (_solved(system, right).astype(dtype),)


@jax.custom_jvp
def _solved(system: jax.Array, right: jax.Array) -> jax.Array:
    """The x [t, ...] of L x = right, where L has ones on its diagonal and is `system` [t, t] below it."""
    return _matmul(_inverse(system), right)


@_solved.defjvp
def _solved_slope(points: tuple[jax.Array, jax.Array], moves: tuple[jax.Array, jax.Array]):
    """dx = L' (d right - dL x), by the inverse that x has: what made it is not differentiated."""
    (system, right), (system_move, right_move) = points, moves
    inverse = _inverse(system)
    found = _matmul(inverse, right)
    row, column = rows_and_columns(system.shape)
    below = jnp.where(row > column, system_move, 0)
    return found, _matmul(inverse, right_move - _matmul(below, found))


def _inverse(system: jax.Array) -> jax.Array:
    """Of a lower triangular matrix [t, t] with ones on its diagonal, whatever stands there and above.

    Blocks of `FEW` by elimination, then as products of matrices: that of [[A, 0], [C, B]] is [[A', 0], [-B' C A', B']].
    A solver for each chunk takes twice as long on a CPU, and many times that where its threads find other work beside
    them.
    """
    length = len(system)
    size = 1 << (length - 1).bit_length()
    padded = jnp.pad(system, ((0, size - length), (0, size - length)))
    inverse = _eliminated(_diagonal(padded, min(FEW, size)))
    while (half := inverse.shape[1]) < size:
        starts, (early, late) = range(0, size, 2 * half), _halves(inverse)
        below = jnp.stack([padded[start + half : start + 2 * half, start : start + half] for start in starts])
        inverse = _paired(inverse, -_matmul(late, _matmul(below, early)))
    return inverse[0, :length, :length]


def _diagonal(matrix: jax.Array, size: int) -> jax.Array:
    """What stands below the diagonal in blocks [size, size] beside it, [n, size, size], picked by a product."""
    row, column = rows_and_columns(matrix.shape)
    inside = jnp.where((row > column) & ((row ^ column) < size), matrix, 0)
    picked = (row & (size - 1) == column)[:, :size].astype(matrix.dtype)
    return jnp.matmul(inside, picked, precision="highest").reshape(-1, size, size)


def _eliminated(below: jax.Array) -> jax.Array:
    """The inverses of blocks [n, t, t] with ones on their diagonals, of what is below these."""
    size = below.shape[1]
    inverse = jnp.broadcast_to(jnp.eye(size, dtype=below.dtype), below.shape)
    for place in range(size - 1):
        own = slice(place, place + 1)
        inverse = inverse - below[:, :, own] * inverse[:, own]
    return inverse


def decays(channels: Channels, standing: Standing) -> jax.Array:
    """Logarithms of what each token leaves of the state, [s] or [s, F], of one group."""
    decay = channels.log_decay
    assert decay is not None
    if decay.ndim > 0:
        return decay
    precise = jnp.promote_types(channels.key.dtype, jnp.float32)
    steps = jnp.ones(len(channels.key), int) if standing.steps is None else standing.steps
    return decay.astype(precise) * steps.astype(precise)


def _left(channels: Channels, top: jax.Array | None, standing: Standing) -> Left:
    gain = channels.log_gain
    if channels.log_decay is None:
        return Left() if gain is None else _within_gains(gain[None], top, gain, top, standing)
    decay = decays(channels, standing)
    if decay.ndim == 2:
        spans, found, own = _spans(jnp.exp(decay))
        return Left(None, found, own, found[-1], spans)
    pairs = pair_sums(decay)
    found, own = pairs[:, 0] + decay[0], pairs[-1]
    last = found[-1]
    if gain is None:
        return Left(jnp.exp(pairs), jnp.exp(found), jnp.exp(own), jnp.exp(last))
    before = (None, None) if top is None else (found + top, last + top)
    return _within_gains(pairs + gain[None], before[0], own + gain, before[1], standing)


def _within_gains(
    pairs: jax.Array, found: jax.Array | None, own: jax.Array, last: jax.Array | None, standing: Standing
) -> Left:
    """Relative to the largest, that of each query and that at the end of the chunk; of logarithms."""
    pairs, own = jnp.where(standing.inside, pairs, LOWEST), where(standing.writes, own, LOWEST)
    peak, top = pairs.max(axis=1), own.max()
    if found is not None and last is not None:
        found, last = where(standing.finds, found, LOWEST), where(standing.lasts, last, LOWEST)
        peak, top = jnp.maximum(peak, found), jnp.maximum(top, last)
        found, last = jnp.exp(found - peak), jnp.exp(last - top)
    return Left(jnp.exp(pairs - peak[:, None]), found, jnp.exp(own - top), last, None, top)


def _spans(kept: jax.Array) -> tuple[Halves, jax.Array, jax.Array]:
    """Products of what tokens keep [t, F]: between the halves of blocks, from the start, and to the end.

    Each pair of tokens stands in the two halves of one block, whose size is a power of two. Between them is left what
    is left up to the later one inside its half, of what is left behind the earlier one inside its.

    Returns:
      for halves of each size h, from 1: (those up to each token of later halves, those behind each of earlier ones),
        [blocks, h, F].
      [t, F], of each token and all before it.
      [t, F], of all behind it.
    """
    padding = (0, (1 << (len(kept) - 1).bit_length()) - len(kept)), (0, 0)
    upto = jnp.pad(kept, padding, constant_values=1)[:, None]
    behind, spans = jnp.ones_like(upto), []
    while len(upto) > 1:
        (early, late), (early_behind, late_behind) = _halves(upto), _halves(behind)
        spans.append((late, early_behind))
        upto, behind = heads.over_axis(_doubled, len(early))(early, late, early_behind, late_behind)
    return spans, upto[0, : len(kept)], behind[0, : len(kept)]


def _doubled(early: jax.Array, late: jax.Array, early_behind: jax.Array, late_behind: jax.Array):
    """What is left up to each token of both halves of a block, and behind each, from that inside them, [h, F] each."""
    return jnp.concatenate([early, early[-1:] * late]), jnp.concatenate([early_behind * late[-1:], late_behind])


def pair_sums(decay: jax.Array) -> jax.Array:
    """What decays [t] from token s to token t > s: [t, s]; 0 elsewhere."""
    row, column = rows_and_columns((len(decay), len(decay)))
    behind = jnp.where(row > column, jnp.maximum(decay, LOWEST)[:, None], 0)  # as a product, 0 times -inf would be none
    return jnp.matmul((row >= column).astype(decay.dtype), behind, precision="highest")


def _decayed_products(x: jax.Array, key: jax.Array, spans: Halves) -> jax.Array:
    """sum_f x_tf key_sf times what is left, by channel, of token s at token t >= s; 0 elsewhere: [t, s].

    All factors are at most 1, and nearly all work is products of matrices.
    """
    length, padding = len(x), ((0, (1 << len(spans)) - len(x)), (0, 0))
    x, key = jnp.pad(x, padding), jnp.pad(key, padding)

    def product(late, early):
        (_, x_late), (key_early, _) = (_halves(each.reshape(-1, late.shape[1], x.shape[1])) for each in (x, key))
        x_late, key_early = (x_late * late).astype(x.dtype), (key_early * early).astype(key.dtype)
        if late.shape[1] == 1:
            return _row_products(x_late[:, 0], key_early[:, 0])
        return _precise_enough(functools.partial(jnp.einsum, "ntf,nsf->nts"), x_late, key_early)

    across = [product(late, early) for late, early in spans]
    return _assembled(_row_products(x, key), across)[:length, :length]


def _row_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Of rows [n, F] of both: [n, 1, 1]. Sums are products with ones, as which a CPU's compiler makes them faster."""
    return (precise(x) * precise(y) @ jnp.ones((x.shape[1], 1), precise(x).dtype))[..., None]


def _assembled(diagonal: jax.Array, across: list[jax.Array]) -> jax.Array:
    """A lower triangular matrix from its diagonal [t, 1, 1], and what later halves have of earlier ones, [n, h, h]."""
    return functools.reduce(_paired, across, diagonal)[0]


def _paired(diagonal: jax.Array, across: jax.Array) -> jax.Array:
    """Blocks [n, h, h] in pairs, and what the later ones of them have of the earlier ones: [n / 2, 2 h, 2 h]."""
    early, late = _halves(diagonal)
    above = jnp.concatenate([early, jnp.zeros_like(across)], axis=2)
    return jnp.concatenate([above, jnp.concatenate([across, late], axis=2)], axis=1)


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The earlier ones of pairs [2 n, ...], and the later ones."""
    pairs = x.reshape(-1, 2, *x.shape[1:])
    early, late = (jax.lax.index_in_dim(pairs, place, axis=1, keepdims=False) for place in (0, 1))
    return early, late


def rows_and_columns(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Numbers of rows and columns."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return row, column


def _summed(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Rows [s, ...] weighted by [t, s]. Numbers are summed without a product of matrices: most often each is 1."""
    return _matmul(weights, x) if x.ndim > 1 else jnp.sum(weights * x[None], axis=1)


def _written(keys: jax.Array, x: jax.Array) -> jax.Array:
    """What keys [s, F] write of rows [s, ...]: [F, ...]. Transposed, they would be summed with long strides."""
    return _matmul(keys.T, x) if x.ndim > 1 else jnp.sum(precise(keys) * x[:, None], axis=0)


def _read(queries: jax.Array, total: jax.Array, left: jax.Array | None) -> jax.Array:
    """Queries [t, F] times a state [F, ...] of which so much, [t] or [t, F], is left."""
    if left is None or left.ndim == 2:
        return product(_times(queries, left), total)
    return _times(product(queries, total), left)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x [t, F] times y [F, ...]; of a single channel it is no product of matrices to XLA, which would call one."""
    if x.shape[1] > 1:
        return _matmul(x, y) if y.ndim > 1 else precise(x) @ precise(y)
    x, y = precise(x), precise(y)
    return x * y if y.ndim > 1 else x[:, 0] * y


def _matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    return _precise_enough(jnp.matmul, x, y)


def _precise_enough(product: Callable, x: jax.Array, y: jax.Array) -> jax.Array:
    """Of x and y, as precise as the less precise of both is, and summed in float32 at least.

    Gradients are products of what was rounded with what was not: rounded, too, those by gains and by keys, which all
    but cancel, would not.
    """
    dtype = min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    if dtype.itemsize >= 4:
        return product(x, y)
    return product(x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


def scaled(x: jax.Array, exponent: jax.Array | None) -> jax.Array:
    """x times e^exponent, which may lack trailing axes."""
    return x if exponent is None else _times(x, jnp.exp(exponent))


def _times(x: jax.Array, factor: jax.Array | None) -> jax.Array:
    """x times a factor, which may lack trailing axes."""
    return x if factor is None else x * _beside(factor, x)


def where(condition: jax.Array | None, x: jax.Array, otherwise: float = 0) -> jax.Array:
    """x where a condition holds, which may lack trailing axes."""
    return x if condition is None else jnp.where(_beside(condition, x), x, otherwise)


def _beside(x: jax.Array, other: jax.Array) -> jax.Array:
    """x with trailing axes, as many as the other has."""
    return x.reshape(x.shape + (1,) * (other.ndim - x.ndim))


def added(trees):
    """The sum of trees of one structure."""
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), trees)
