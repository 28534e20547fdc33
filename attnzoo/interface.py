"""The contract between attention kernels and everything that uses them.

A kernel is a frozen dataclass. What is *chosen* is a field, what is *learned* is the pytree from
`init`, what is *random* or otherwise fixed per head is the pytree from `draw`. Its meaning is `head`, the
paper's equation for one head of one example; its speed is `batched`, which must equal `head`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.compute import heads

if TYPE_CHECKING:
    from attnzoo.dropout import Dropout
    from attnzoo.masking import Mask
    from attnzoo.positions import Bias

Tree = Any


@dataclasses.dataclass(frozen=True)
class Support:
    """What a kernel honours. `attend` refuses everything else by name, before the kernel runs.

    GQA, `query_seq_lengths` and `precision` need no declaration: the door provides them to every kernel.

    Attributes:
      causal: `is_causal=True`, at any `query_offset`.
      bidirectional: `is_causal=False`; a recurrence that only runs forward in time has no such form.
      key_mask: `key_mask`, `key_value_seq_lengths`, and a `mask` that is one for all heads and queries.
      segments: `query_segment_ids` and `key_value_segment_ids`.
      mask: a dense `mask`, and `local_window_size`.
      bias: `bias`, as an array or a `PositionBias`; `head` receives it as `bias`.
      scale: `scale`; `head` receives it as `scale`.
      dropout: `dropout_rate`; `head` receives the factors, 0 or 1 / (1 - rate), as `dropout`.
      residual: `return_residual`; `head` and `batched` return the pair (output, log-sum-exp).
      cross: as many keys as one likes beside the queries (T != S).
      positions: nothing that a caller asks for: `head` receives `positions`, because its pattern counts them.
      work: run time grows at most as length ** work.
      memory: temporaries of `batched` grow at most as length ** memory.
      why: one clause, the reason why what is not supported cannot work; refusals quote it.
    """

    causal: bool = False
    bidirectional: bool = True
    key_mask: bool = False
    segments: bool = False
    mask: bool = False
    bias: bool = False
    scale: bool = False
    dropout: bool = False
    residual: bool = False
    cross: bool = False
    positions: bool = False
    work: float = 2.0
    memory: float = 2.0
    why: str = "its author has not declared it"


class Dims(NamedTuple):
    """The sizes that a kernel's parameters, draws and cost depend on."""

    batch: int
    query_length: int
    key_length: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    value_dim: int


class Cost(NamedTuple):
    """Forward cost of a whole call.

    Attributes:
      flops: floating-point operations, a multiply-add counted as two.
      bytes: bytes moved between memory and the arithmetic.
      state_bytes: size of the decoding state once `key_length` tokens are in it; None where decoding is refused.
    """

    flops: float
    bytes: float
    state_bytes: float | None


class Positions(NamedTuple):
    """Where one example stands, for a kernel whose pattern counts positions.

    Attributes:
      is_causal: whether the future is hidden.
      query_offset: query i stands at key position i + query_offset.
      key_length: keys up to and with the last that is not padding (a scalar, traced where lengths are).
    """

    is_causal: bool
    query_offset: int
    key_length: int | jax.Array


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A variant of attention. Subclass it as a frozen dataclass; `supports` and `head` are enough.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Sigmoid(Kernel):
      ...     supports = Support(causal=True, key_mask=True, segments=True, mask=True, cross=True)
      ...
      ...     def head(self, params, draws, q, k, v, visible):
      ...         return (jax.nn.sigmoid(q @ k.T) * visible) @ v
    """

    supports: ClassVar[Support] = Support()
    seed = 0  # no field here: a kernel that draws at random declares it as one, in its own place

    def init(self, rng: jax.Array, dims: Dims) -> Tree:
        """Learned parameters, () when there are none. Leaves lead with an axis of `num_heads`, or of 1."""
        return ()

    def draw(self, rng: jax.Array, dims: Dims) -> Tree:
        """Random or fixed constants per head, () when there are none. Leaves lead as those of `init`."""
        return ()

    def head(self, params, draws, q, k, v, visible):
        """One head of one example: q [T, H], k [S, H], v [S, Hv], visible bool [T, S] -> [T, Hv].

        Receives by keyword, if and only if `supports` declares them: `bias` ([T, S] or None), `scale`
        (a number or None), `dropout` ([T, S] factors or None), `positions` (`Positions`).
        """
        raise NotImplementedError(f"{type(self).__name__} defines no `head`: write the equation of one head there")

    def batched(
        self,
        params: Tree,
        draws: Tree,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        mask: Mask,
        *,
        bias: Bias | None = None,
        scale: float | jax.Array | None = None,
        dropout: Dropout | None = None,
    ):
        """All heads: q [B, T, N, H], k [B, S, K, H], v [B, S, K, Hv] -> [B, T, N, Hv]. By default vmap of `head`.

        An override takes the keywords that `supports` declares and no others, and must equal `head`.
        """
        constants = jax.tree.map(lambda x: x[None], (params, draws))
        return heads.over_heads(_Reference(self, scale), q, k, v, (*constants, mask, bias, dropout))

    def as_softmax(self, mask: Mask) -> Mask | None:
        """The mask under which plain scaled dot-product attention is this kernel; None where it is something else.

        Where there is one, a vendor's library may take the place of `batched` (`implementation="cudnn"`).
        """
        return None

    def cost(self, dims: Dims, *, is_causal: bool = False, dtype=jnp.float32) -> Cost:
        """Forward cost at `dims`. By default counted from the program that `batched` traces to."""
        from attnzoo import counting

        return counting.cost_of(self, dims, is_causal=is_causal, dtype=dtype)


class _Reference(NamedTuple):
    """`head`, given what it declared, on the operands of one head."""

    kernel: Kernel
    scale: float | jax.Array | None

    def __call__(self, q, k, v, params, draws, mask, bias, dropout):
        rows, columns = jnp.arange(len(q)), jnp.arange(len(k))
        supports = self.kernel.supports
        declared = {}
        if supports.bias:
            declared["bias"] = None if bias is None else bias.at(rows, columns)
        if supports.scale:
            declared["scale"] = self.scale
        if supports.dropout:
            declared["dropout"] = None if dropout is None else dropout.at(rows, columns)
        if supports.positions:
            declared["positions"] = Positions(mask.is_causal, mask.query_offset, mask.used_length())
        return self.kernel.head(params, draws, q, k, v, mask.at(rows, columns), **declared)
