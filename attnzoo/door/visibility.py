"""From a caller's arguments to the one `Mask` that says who may see whom, and to what nobody may see."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.mask import Globals, Mask
from attnzoo.contract.shards import Shards
from attnzoo.contract.sizes import Dims
from attnzoo.contract.support import Support
from attnzoo.door import validation
from attnzoo.door.arguments import Masking
from attnzoo.door.validation import is_traced

# Axes of arguments that hide by array, batch included.
AXES = {
    "key_mask": 2,
    "query_seq_lengths": 1,
    "key_value_seq_lengths": 1,
    "query_segment_ids": 2,
    "key_value_segment_ids": 2,
    "global_tokens": 2,
}


def apply(
    structure: Mask, hides: Masking, dims: Dims, unbatched: bool, supports: Support, shards: Shards | None = None
) -> Mask:
    """`structure` and everything that is hidden by array; arrays lead with [B or 1, N or 1].

    A mask that is one for all heads and queries hides keys, and every kernel that takes a key mask can honour it. Where
    a kernel takes no dense mask, a concrete one is looked at: it may be no more than the future and some keys.

    Args:
      shards: where `dims` are those of a part of sequences, of which a dense mask has the columns of all keys.
    """
    lengths = (dims.query_length, dims.key_length)
    whole = (shards.query_length, shards.key_length) if shards else lengths
    rows, columns = shards.indices(*lengths) if shards else map(jnp.arange, lengths)
    given: dict[str, Any] = {name: None if x is None else jnp.asarray(x) for name, x in hides.items()}
    if unbatched:
        lacking = [name for name, axes in AXES.items() if given[name] is not None and given[name].ndim != axes]
        given |= {name: given[name][None] for name in lacking}
    dense, key_mask = given["mask"], given["key_mask"]
    query_lengths, key_lengths = given["query_seq_lengths"], given["key_value_seq_lengths"]
    query_segments, key_segments = given["query_segment_ids"], given["key_value_segment_ids"]
    keys = []
    if dense is not None:
        validation.mask_array(dense, (dims.batch, dims.num_heads, dims.query_length, whole[1]))
        dense = dense.reshape((1,) * (4 - dense.ndim) + dense.shape)
        if dense.shape[1:3] == (1, 1):
            of_all = jnp.broadcast_to(dense[:, 0, 0], (dense.shape[0], whole[1]))
            keys.append(shards.part(of_all, 1) if shards else of_all)
            dense = None
        elif (
            not supports.mask
            and supports.causal
            and (seen := _seen_behind_the_future(hides["mask"], structure)) is not None
        ):
            dense, structure = None, dataclasses.replace(structure, is_causal=True)
            keys += [] if seen.all() else [jnp.asarray(seen)]
    if key_mask is not None:
        validation.key_mask(key_mask, dims.batch, dims.key_length)
        keys.append(key_mask)
    if key_lengths is not None:
        validation.lengths("key_value_seq_lengths", key_lengths, dims.batch, whole[1])
        keys.append(columns[None] < key_lengths[:, None])
    queries = None
    if query_lengths is not None:
        validation.lengths("query_seq_lengths", query_lengths, dims.batch, whole[0])
        queries = (rows[None] < query_lengths[:, None])[:, None]
    if query_segments is not None or key_segments is not None:
        validation.segments(query_segments, key_segments, dims.batch, dims.query_length, dims.key_length)
        query_segments, key_segments = query_segments[:, None], key_segments[:, None]
    return dataclasses.replace(
        structure,
        global_tokens=_globals(given["global_tokens"], hides["global_tokens"], dims.batch, whole[1], shards),
        dense=dense,
        keys=_all(keys)[:, None] if keys else None,
        hides_ends=key_lengths is not None and len(keys) == 1 and not shards,
        queries=queries,
        query_segments=query_segments,
        key_segments=key_segments,
    )


def _seen_behind_the_future(mask: Any, structure: Mask) -> np.ndarray | None:
    """The keys, bool [B or 1, S], that a mask shows to all queries from theirs on, and to no other; None where it is
    another, or not known beforehand.
    """
    if is_traced(mask) or not structure.is_placed:
        return None
    dense = np.asarray(mask)
    dense = dense.reshape((1,) * (4 - dense.ndim) + dense.shape)
    if dense.shape[1] != 1 or dense.shape[2:] != (structure.query_length, structure.key_length):
        return None
    past = np.tri(structure.query_length, structure.key_length, structure.place, dtype=bool)
    seen: np.ndarray = np.any(dense, axis=2)
    return seen[:, 0] if (dense == past & seen[:, :, None]).all() else None


def _globals(given: jax.Array | None, told: Any, batch: int, length: int, shards: Shards | None) -> Globals | None:
    """Tokens named by positions or by a mask; masks of some more tokens, up to a power of 2, make the same program."""
    if given is None:
        return None
    known = None if is_traced(told) else np.asarray(told)
    validation.global_tokens(given, known, batch, length)
    if known is not None and given.dtype == bool:
        most = int(np.count_nonzero(known, axis=-1).max(initial=0))
        most, which = 1 << max(most - 1, 0).bit_length(), given
    else:
        place = jnp.where(given < 0, length, given)
        which = jnp.zeros((batch, length), bool).at[jnp.arange(batch)[:, None], place].set(True, mode="drop")
        most = given.shape[1]
    return Globals(most, (shards.part(which, 1) if shards else which)[:, None])


def shown(mask: Mask, kv_heads: int, shards: Shards | None = None) -> tuple[jax.Array | None, jax.Array | None]:
    """The keys, bool [B or 1, S, K or 1], and queries, bool [B or 1, T, N or 1], not hidden; None where all are shown.

    Hidden is what padding hides, and the empty columns and rows of a dense mask.

    Args:
      shards: where the mask is a part's, whose keys are columns of all rows there are.
    """
    keys = [] if mask.keys is None else [jnp.moveaxis(mask.keys, 1, 2)]
    queries = [] if mask.queries is None else [jnp.moveaxis(mask.queries, 1, 2)]
    if mask.dense is not None:
        columns = mask.dense.any(axis=2)
        if shards and columns.shape[-1] > 1:
            columns = shards.part(shards.filled(shards.summed(columns.astype(jnp.int32)) > 0, 2), 2)
        if columns.shape[1] > 1:
            columns = columns.reshape(columns.shape[0], kv_heads, -1, columns.shape[-1]).any(axis=2)
        keys.append(jnp.moveaxis(columns, 1, 2))
        queries.append(jnp.moveaxis(mask.dense.any(axis=3), 1, 2))
    return _all(keys), _all(queries)


def silenced(shown: jax.Array | None, x: jax.Array) -> jax.Array:
    """x [B, L, heads, ...] where its token is shown [B, L, 1 or heads, or as many as groups of them], else 0.

    Gradients stop there as well.
    """
    if shown is None:
        return x
    if shown.shape[2] not in (1, x.shape[2]):
        shown = jnp.repeat(shown, x.shape[2] // shown.shape[2], axis=2)
    return jnp.where(shown.reshape(*shown.shape, *(1,) * (x.ndim - 3)), x, 0)


def _all(conditions):
    return functools.reduce(jnp.logical_and, conditions) if conditions else None
