"""The contract between attention kernels and everything that uses them.

A kernel is a frozen dataclass. What is *chosen* is a field, what is *learned* is the pytree from
`init`, what is *random* or otherwise fixed per head is the pytree from `draw`. Its meaning is `head`, the
paper's equation for one head of one example; its speed is `batched`, which must equal `head`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from attnzoo.contract.call import Call, of_each_head
from attnzoo.contract.sizes import Dims, Positions, Tree
from attnzoo.contract.support import Support, TokenInput
from attnzoo.engines import caching, dense, everywhere, heads

if TYPE_CHECKING:
    from attnzoo.contract.mask import Mask
    from attnzoo.contract.shards import Shards


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A variant of attention. Subclass it as a frozen dataclass; `supports` and `head` are enough.

    Example:
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class Sigmoid(Kernel):
      ...     supports = Support(causal=True, key_mask=True, segments=True, mask=True, cross=True)
      ...
      ...     def head(self, params, draws, q, k, v, visible):
      ...         return (jax.nn.sigmoid(q @ k.T) * visible) @ v
      >>> q = k = jnp.zeros((1, 4, 2, 8))
      >>> attention_weights(q, k, kernel=Sigmoid(), is_causal=True)[0, 0, 1].tolist()
      [0.5, 0.5, 0.0, 0.0]
    """

    supports: ClassVar[Support] = Support()
    seed = 0  # no field here: a kernel that draws at random declares it as one, in its own place

    def init(self, rng: jax.Array, dims: Dims) -> Tree:
        """Learned parameters, () when there are none. Leaves lead with an axis of `num_heads`, or of 1."""
        return ()

    def draw(self, rng: jax.Array, dims: Dims) -> Tree:
        """Random or fixed constants per head, () when there are none. Leaves lead as those of `init`."""
        return ()

    def token_inputs(self, dims: Dims) -> dict[str, TokenInput]:
        """What each key token brings beside key and value, by name; nothing unless a kernel says otherwise."""
        return {}

    def head(self, params, draws, q, k, v, visible, *_: Any, **given: Any) -> Any:
        """One head of one example: q [T, H], k [S, H], v [S, Hv], visible bool [T, S] -> [T, Hv].

        Receives by keyword, if and only if `supports` declares them: `bias` ([T, S] or None), `scale`, `soft_cap`
        (a number or None), `dropout` ([T, S] factors or None), `positions` (`Positions`), `global_tokens` (`Globals` or
        None); and what `token_inputs` names, [S, *shape] each.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no `head`: write the equation of one head there")

    def batched(
        self,
        params: Tree,
        draws: Tree,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        call: Call,
    ):
        """All heads: q [B, T, N, H], k [B, S, K, H], v [B, S, K, Hv] -> [B, T, N, Hv]. By default vmap of `head`.

        An override must equal `head`. `call` has the mask, and of bias, scale, soft cap, dropout and tokens what the
        kernel declares.
        """
        constants = jax.tree.map(lambda x: x[None], (params, draws))
        return heads.over_heads(_Reference(self), q, k, v, (*constants, call.by_head(q.shape[2])))

    def meets(self, shards: Shards, mask: Mask) -> bool | jax.Array:
        """Whether `batched` takes a part of a sequence that is split over devices, `call.shards`, and brings together
        what it needs of others; if not, it is given heads of whole sequences, or whole sequences.

        A bool of the program, the same on all devices, where data decide.
        """
        return False

    def sums_keys(self, mask: Mask) -> bool:
        """Whether `batched` takes some keys beside all queries, `call.shards.of_keys`, and adds up what those of all
        devices bring before any query meets it, so that all have the same output; if not, it is given all keys, or what
        each device finds is joined (`meets_cache`).
        """
        return False

    @property
    def longest(self) -> int | None:
        """After how many tokens decoding ends, whatever the state keeps; None for no end of the kernel's own."""
        return None

    def as_softmax(self, mask: Mask) -> Mask | None:
        """The mask under which plain scaled dot-product attention is this kernel; None where it is something else.

        Where there is one, a vendor's library may take the place of `batched` (`implementation="cudnn"`).
        """
        return None

    def start(self, params: Tree, draws: Tree, dims: Dims, max_length: int, dtype) -> Tree:
        """An empty cache for sequences up to `max_length`: a tree whose leaves lead with the batch.

        By default all keys and values, [B, max_length, K, H] and [B, max_length, K, Hv] of `dtype`, and what tokens
        bring, [B, max_length, N, *shape], in float32 at least.
        """
        leading, precise = (dims.batch, max_length, dims.num_heads), jnp.promote_types(dtype, jnp.float32)
        brought = {name: jnp.zeros((*leading, *x.shape), precise) for name, x in self.token_inputs(dims).items()}
        return caching.empty(dims, max_length, dtype) | brought

    def step(
        self,
        params: Tree,
        draws: Tree,
        cache: Tree,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        positions: jax.Array,
        call: Call,
    ) -> tuple[Tree, Any]:
        """The tokens that come next: q [B, t, N, H], k [B, t, K, H], v [B, t, K, Hv] -> cache, out [B, t, N, Hv].

        Where `supports.residual`, the output is a pair with its log-sum-exp [B, t, N], as of `head` and `batched`.
        By default `head` of the new queries beside all cached keys, so that it must work for fewer queries than keys.
        Who sees what is said by `positions`: the mask of `call` is causal, and counts tokens that are padding.

        Args:
          cache: from `start`, or from the step before; it is returned with the same shapes and dtypes.
          positions: int [B, t], consecutive, where each token stands; -1 for padding at the end, which is not written.
        """
        brought = of_each_head(call.tokens, q.shape[2])
        slots = caching.slots_of(call.shards, cache["key"].shape[1])
        cache = caching.written(cache, {"key": k, "value": v} | brought, positions - slots[0])
        q, keys, values = caching.in_one_dtype(q, cache["key"], cache["value"])
        constants = jax.tree.map(lambda x: x[None], (params, draws))
        kept = dataclasses.replace(call, tokens={name: cache[name] for name in brought})
        given = (*constants, positions[:, None], kept.by_head(q.shape[2]))
        found = heads.over_heads(_Stepped(self, slots), q, keys, values, given)
        if not self.supports.residual:
            return cache, found
        out, lse = found
        return cache, everywhere.of_each(call.shards, dense.Part(out, lse, jnp.zeros_like(lse)))

    def meets_cache(self) -> bool:
        """Whether each device can meet some slots of a cache of all keys, where `step` takes `call.shards`, and some
        keys beside all queries.

        By default where softmax over each device's own keys is all that joins them: `head` gives the log-sum-exp of its
        scores, and asks for no positions. Others are brought the slots, and the keys, of all.
        """
        return type(self).step is Kernel.step and self.supports.residual and not self.supports.positions

    def state_bytes(self, dims: Dims, dtype=jnp.float32) -> float | None:
        """Size of the cache that decodes `key_length` tokens, None where decoding is refused."""
        if not self.supports.decode:
            return None
        rng = jax.random.key(0)
        make = lambda: self.start(self.init(rng, dims), self.draw(rng, dims), dims, dims.key_length, dtype)
        return float(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(make))))


@dataclasses.dataclass(frozen=True)
class _Reference:
    """`head` on the operands of one head."""

    kernel: Kernel

    def __call__(self, q, k, v, params, draws, call: Call):
        rows, columns, mask = jnp.arange(len(q)), jnp.arange(len(k)), call.mask
        positions = Positions(mask.is_causal, mask.query_offset, mask.used_length(), mask.key_places)
        given = {"bias": call.bias_at(rows, columns), "dropout": call.dropout_at(rows, columns), "positions": positions}
        given = _declared(self.kernel, call, **given)
        return self.kernel.head(params, draws, q, k, v, mask.at(rows, columns), **given, **call.tokens)


@dataclasses.dataclass(frozen=True)
class _Stepped:
    """`head` on the new queries of one head, beside all keys in its cache, which stand at `slots` [s]."""

    kernel: Kernel
    slots: jax.Array

    def __call__(self, q, k, v, params, draws, positions, call: Call):
        bias, seen = caching.bias_at(call.bias, positions, self.slots), caching.seen(positions, self.slots, call.mask)
        place = Positions(True, positions[0], positions.max() + 1, self.slots)
        given = _declared(self.kernel, call, bias=bias, dropout=None, positions=place)
        return self.kernel.head(params, draws, q, k, v, seen, **given, **call.tokens)


def _declared(kernel: Kernel, call: Call, **given: Any) -> dict[str, Any]:
    """Of what is given, and of the call, the keywords that a kernel has declared."""
    given |= {"scale": call.scale, "soft_cap": call.soft_cap, "global_tokens": call.mask.global_tokens}
    return {name: x for name, x in given.items() if getattr(kernel.supports, name)}
