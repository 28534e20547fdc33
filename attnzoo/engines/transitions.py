"""What a run of tokens does to a state, left = A found + B: runs compose, and need not wait for each other.

Chunks of one device are composed in a tree (Blelloch 1990; Martin and Cundy 2018, arXiv:1709.04057), the parts that
devices have of a sequence by messages over distances that double.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.shards import Shards
from attnzoo.engines import state
from attnzoo.engines.state import LOWEST, Chunk, Standing, State, Sums, Write, added, scaled, where


class Transition(NamedTuple):
    """What a run of tokens does to a state: left = A found + B. Leaves may have any leading axes.

    Attributes:
      written: B, the state that is left where nothing was found.
      kept: A, as logarithms of what is left of each channels, [] or [F], led by groups; None for all.
      goes_on: bool [], whether what was found is of the segment that is left; None where it is.
      turned: A of the delta rule, in place of `kept`, as one matrix [F, F] over all channels; None without it.

    Example:
      >>> from attnzoo.engines import state, transitions
      >>> @jax.jit
      ... def halved(key, value):
      ...     write = state.Write((value,), (state.Channels(key, log_decay=jnp.log(jnp.full(len(key), 0.5))),))
      ...     return transitions.of_chunk(write, state.Standing(jnp.tri(len(key), dtype=bool)))[0]
      >>> key, value = jnp.ones((4, 8)), jnp.ones((4, 3))
      >>> first, second, both = halved(key[:1], value[:1]), halved(key[1:], value[1:]), halved(key, value)
      >>> bool(jnp.allclose(second.after(first).written[0].totals[0], both.written[0].totals[0]))
      True
    """

    written: State
    kept: tuple[jax.Array | None, ...]
    goes_on: jax.Array | None = None
    turned: jax.Array | None = None

    def of(self, found: State) -> State:
        """The state that is left of one that was found."""
        if self.turned is None:
            return tuple(map(self._sums, found, self.written, self.kept))
        return added([self.written, _split(where(self.goes_on, self.turned @ _stacked(found)), found)])

    def _sums(self, found: Sums, written: Sums, kept: jax.Array | None) -> Sums:
        totals = tuple(where(self.goes_on, x) for x in found.totals)
        if found.top is None or written.top is None:
            return Sums(added([written.totals, tuple(scaled(x, kept) for x in totals)]))
        before = where(self.goes_on, found.top if kept is None else found.top + kept, LOWEST)
        top = jnp.maximum(before, written.top)
        return Sums(added([written.beside(top).totals, Sums(totals, before).beside(top).totals]), top)

    def after(self, earlier: Transition) -> Transition:
        """That of both runs, the earlier one first."""
        kept, goes_on = jax.tree.map(jnp.add, self.kept, earlier.kept), self.goes_on
        if goes_on is not None and earlier.goes_on is not None:
            goes_on &= earlier.goes_on
        turned = None if self.turned is None or earlier.turned is None else self.turned @ earlier.turned
        return Transition(self.of(earlier.written), kept, goes_on, turned)

    def nothing(self) -> Transition:
        """That of no tokens, which leaves what was found, in the shape of this one."""
        written = tuple(
            Sums(jax.tree.map(jnp.zeros_like, x.totals), None if x.top is None else jnp.full_like(x.top, LOWEST))
            for x in self.written
        )
        kept, goes_on, turned = jax.tree.map(jnp.zeros_like, self[1:])
        goes_on = None if goes_on is None else ~goes_on
        turned = None if turned is None else turned + jnp.eye(turned.shape[-1], dtype=turned.dtype)
        return Transition(written, kept, goes_on, turned)

    @property
    def is_sum(self) -> bool:
        """Whether what runs have written is added up as it is."""
        tops = tuple(sums.top for sums in self.written)
        return not jax.tree.leaves((self[1:], tops))


def of_chunk(write: Write, standing: Standing) -> tuple[Transition, jax.Array | None]:
    """What a chunk of tokens does to any state, and what it solved for by the delta rule, for `meeting`: [s, Hv + F].

    By the delta rule zeros stand beside values, and the identity beside an empty state: A is what tokens leave of it,
    as B is of the empty one. What they write is in two parts likewise, of which one turns what was found.
    """
    if write.rate is None:
        of_each = lambda channels: state.decays(channels, standing).sum(axis=0)
        kept = tuple(
            None if channels.log_decay is None else state.over_groups(channels.key, of_each, channels)
            for channels in write.channels
        )
        return Transition(state.meet(None, write, standing).after(), kept, standing.lasts), None
    (value,), nothing = write.values, state.empty(write)
    identity = jnp.eye(sum(channels.key.shape[1] for channels in write.channels), dtype=nothing[0].totals[0].dtype)
    both = jnp.concatenate([_stacked(nothing), identity], axis=1)
    values = jnp.pad(value, ((0, 0), (0, len(identity))))
    chunk = state.meet(_split(both, nothing), write._replace(values=(values,)), standing)
    width, left = value.shape[1], _stacked(chunk.after())
    kept, solved = (None,) * len(nothing), chunk.write.values[0]
    return Transition(_split(left[:, :width], nothing), kept, standing.lasts, left[:, width:]), solved


def meeting(found: State, write: Write, standing: Standing, solved: jax.Array | None) -> Chunk:
    """What `state.meet` gives, of a chunk whose transition is known, and what was `solved` for it."""
    if solved is not None:
        width = write.values[0].shape[1]
        turned = where(standing.finds, state.product(solved[:, width:], _stacked(found)))
        write = write._replace(values=((solved[:, :width] + turned).astype(solved.dtype),), rate=None)
    return state.meet(found, write, standing)


def _stacked(state: State) -> jax.Array:
    """The state of all channels, which the delta rule turns as one: [F, Hv]."""
    return jnp.concatenate([sums.totals[0] for sums in state], axis=-2)


def _split(totals: jax.Array, like: State) -> State:
    """The same by channels."""
    ends = np.cumsum([sums.totals[0].shape[-2] for sums in like])[:-1]
    return tuple(Sums((x,)) for x in jnp.split(totals, ends, axis=-2))


def up_to_each(chunks: Transition) -> Transition:
    """That of each chunk and all before it: leaves lead with [chunks]."""
    if chunks.is_sum:
        return jax.tree.map(functools.partial(jnp.cumsum, axis=0), chunks)
    return jax.lax.associative_scan(lambda earlier, later: later.after(earlier), chunks)


def of_those_before(shards: Shards, own: Transition, direction: int = -1) -> Transition:
    """That of the tokens of all devices before this one, by messages over twice the distance of those before.

    Args:
      direction: 1 for those behind it, the last of which comes first.
    """
    nothing = own.nothing()

    def of(distance, before):
        there = shards.index >= distance if direction < 0 else shards.index < shards.count - distance
        found = shards.of_neighbour(before, direction * distance)
        return jax.tree.map(lambda x, y: jnp.where(there, x, y), found, nothing)

    upto, distance = own, 1
    while distance < shards.count:
        upto, distance = upto.after(of(distance, upto)), 2 * distance
    return of(1, upto)
