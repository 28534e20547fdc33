"""Randomness that depends on its key alone, whatever generator the key is of.

Under `rbg` and `unsafe_rbg`, bits that are drawn inside `vmap` depend on the whole batch. Those of Threefry are a
function of key and counter, so that what is drawn for a head, a row or an example does not know of its neighbours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

THREEFRY = "threefry2x32"


def of_seed(seed: int) -> jax.Array:
    """The key of a seed, the same whatever generator is jax's default."""
    return jax.random.key(seed, impl=THREEFRY)


def threefry(rng: jax.Array) -> jax.Array:
    """A Threefry key from one of any generator, typed or as its words, uint32 [w]; one of two words is itself."""
    words = jax.random.key_data(rng) if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jnp.asarray(rng)
    words = jnp.pad(words, (0, max(0, 2 - words.size)))
    key = jax.random.wrap_key_data(words[:2], impl=THREEFRY)
    for word in words[2:]:
        key = jax.random.fold_in(key, word)
    return key
