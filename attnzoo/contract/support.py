"""What a kernel says of itself: what it honours, and what it wants of each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax


@dataclasses.dataclass(frozen=True)
class Support:
    """What a kernel honours. `attend` refuses everything else by name, before the kernel runs.

    GQA, `query_seq_lengths` and `precision` need no declaration: the door provides them to every kernel.

    Attributes:
      causal: `is_causal=True`, at any `query_offset`.
      bidirectional: `is_causal=False`; a recurrence that only runs forward in time has no such form.
      key_mask: `key_mask`, `key_value_seq_lengths`, and a `mask` that is one for all heads and queries.
      segments: `query_segment_ids` and `key_value_segment_ids`.
      mask: a dense `mask`, a `mask_mod`, and `local_window_size`.
      bias: `bias`, as an array or a `PositionBias`; `head` receives it as `bias`.
      score_mod: `score_mod`; the `bias` of `head` is an array, or a function that makes scores [T, S] anew, as
        `dense.biased` takes both.
      scale: `scale`; `head` receives it as `scale`.
      soft_cap: `soft_cap`; `head` receives it as `soft_cap`, a number or None.
      dropout: `dropout_rate`; `head` receives the factors, 0 or 1 / (1 - rate), as `dropout`.
      global_tokens: `global_tokens`; `head` receives them as `global_tokens`, `Globals` or None.
      residual: `return_residual` and `sinks`; `head`, `batched` and `step` give the pair (output, log-sum-exp).
      cross: as many keys as one likes beside the queries (T != S).
      decode: `attnzoo.start` and `attnzoo.step`, by which the whole of `is_causal=True` follows token by token.
      ignores: nothing that a caller asks for: of "query" and "key", those that weights do not depend on.
      positions: nothing that a caller asks for: `head` receives `positions`, because its pattern counts them.
      work: run time grows at most as length ** work.
      memory: temporaries of `batched` grow at most as length ** memory.
      why: one clause, the reason why what is not supported cannot work; refusals quote it.

    Example:
      >>> Softmax().supports.bias, Linear().supports.bias
      (True, False)
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> attend(q, k, v, jnp.zeros((4, 4)), kernel=Linear())
      Traceback (most recent call last):
      NotImplementedError: Linear cannot honour `bias`: ... Kernels that can: softmax, ...
    """

    causal: bool = False
    bidirectional: bool = True
    key_mask: bool = False
    segments: bool = False
    mask: bool = False
    bias: bool = False
    score_mod: bool = False
    scale: bool = False
    soft_cap: bool = False
    dropout: bool = False
    global_tokens: bool = False
    residual: bool = False
    cross: bool = False
    decode: bool = False
    ignores: tuple[str, ...] = ()
    positions: bool = False
    work: float = 2.0
    memory: float = 2.0
    why: str = "its author has not declared it"


def _as_it_is(x: jax.Array) -> jax.Array:
    return x


class TokenInput(NamedTuple):
    """What each key token brings beside key and value, such as a gate: an array [B, S, N or K, *shape].

    Zero must mean that nothing happens, since that is what the door makes of tokens that are hidden.

    Attributes:
      shape: of what one head has of one token; () for a number.
      activation: what the layers put behind their projection of a token, so that it lies where the kernel wants it.
      bias_init: an initializer of that projection's bias, as those of `jax.nn.initializers`, with which it has a bias
        whatever the layer's others have; None for the layer's own.

    Example:
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class GatedSum(Kernel):
      ...     def token_inputs(self, dims):
      ...         return {"gate": TokenInput(activation=jax.nn.sigmoid)}
      ...
      ...     def head(self, params, draws, q, k, v, visible, *, gate):
      ...         return visible @ (gate[:, None] * v)
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> gate = jnp.ones((1, 4, 2)).at[:, 1:].set(0.0)
      >>> attend(q, k, v, kernel=GatedSum(), tokens={"gate": gate})[0, :, 0, 0].tolist()
      [1.0, 1.0, 1.0, 1.0]
    """

    shape: tuple[int, ...] = ()
    activation: Callable[[jax.Array], jax.Array] = _as_it_is
    bias_init: Callable[..., jax.Array] | None = None
