"""Multi-head attention for Flax NNX, with any kernel: Flax's own layer, its arguments and its parameter tree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import rnglib
from flax.nnx.nn import dtypes

from attnzoo import layers
from attnzoo.interface import Dims, Kernel
from attnzoo.kernels import Softmax
from attnzoo.layers import Structure
from attnzoo.positions import PositionBias

default_kernel_init = nnx.initializers.lecun_normal()
default_bias_init = nnx.initializers.zeros_init()


class MultiHeadAttention(nnx.MultiHeadAttention):
    """Project to heads, attend with a kernel, project back (Vaswani et al. 2017, section 3.2.2).

    Arguments are those of `flax.nnx.MultiHeadAttention`, with the same parameter tree (`query`, `key`, `value`, `out`),
    so that its checkpoints load unchanged. What differs:

    Args:
      attention: the kernel. What it learns lives under `attention`.
      max_length: the longest key length, for kernels whose parameters depend on it (`Linformer`); else not needed.
      broadcast_dropout: False by default; True is refused where there is dropout.
      decode: True is refused until decoding lands.

    Example:
      >>> from flax import nnx
      >>> import attnzoo.nnx
      >>> layer = attnzoo.nnx.MultiHeadAttention(4, 32, attention=SlidingWindow(left=8, right=8), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 64, 32))).shape
      (2, 64, 32)
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        qkv_features: int | None = None,
        out_features: int | None = None,
        num_kv_heads: int | None = None,
        in_kv_features: int | None = None,
        *,
        attention: Kernel = Softmax(),
        max_length: int | None = None,
        dtype=None,
        param_dtype=jnp.float32,
        broadcast_dropout: bool = False,
        dropout_rate: float = 0.0,
        deterministic: bool | None = None,
        precision=None,
        kernel_init=default_kernel_init,
        out_kernel_init=None,
        bias_init=default_bias_init,
        out_bias_init=None,
        use_bias: bool = True,
        decode: bool | None = False,
        normalize_qk: bool = False,
        rngs: nnx.Rngs,
        keep_rngs: bool = True,
    ):
        layers.refuse_decode(decode)
        layers.refuse_broadcast_dropout(broadcast_dropout, dropout_rate)
        super().__init__(
            num_heads,
            in_features,
            qkv_features,
            out_features,
            num_kv_heads,
            in_kv_features,
            dtype=dtype,
            param_dtype=param_dtype,
            broadcast_dropout=broadcast_dropout,
            dropout_rate=dropout_rate,
            deterministic=deterministic,
            precision=precision,
            kernel_init=kernel_init,
            out_kernel_init=out_kernel_init,
            bias_init=bias_init,
            out_bias_init=out_bias_init,
            use_bias=use_bias,
            decode=decode,
            normalize_qk=normalize_qk,
            rngs=rngs,
            keep_rngs=keep_rngs,
        )
        self.attention_kernel = attention
        dims = Dims(1, 1, max_length or 1, self.num_heads, self.num_kv_heads, self.head_dim, self.head_dim)
        if max_length is None:
            _refuse_unknown_length(attention, dims)
        if jax.tree.leaves(jax.eval_shape(lambda: attention.init(jax.random.key(0), dims))):
            params = attention.init(rngs.params(), dims)
            self.attention = nnx.data(jax.tree.map(lambda x: nnx.Param(x.astype(param_dtype)), params))

    def __call__(
        self,
        inputs_q: jax.Array,
        inputs_k: jax.Array | None = None,
        inputs_v: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | PositionBias | None = None,
        deterministic: bool | None = None,
        rngs: rnglib.Rngs | rnglib.RngStream | None = None,
        sow_weights: bool = False,
        decode: bool | None = None,
        is_causal: bool = False,
        query_offset: int = 0,
        query_seq_lengths: jax.Array | None = None,
        key_value_seq_lengths: jax.Array | None = None,
        key_mask: jax.Array | None = None,
        query_segment_ids: jax.Array | None = None,
        key_value_segment_ids: jax.Array | None = None,
        local_window_size: int | tuple[int, int] | None = None,
        scale: float | jax.Array | None = None,
    ) -> jax.Array:
        """Attend: inputs_q [*batch, T, in_features], inputs_k and inputs_v [*batch, S, in_kv_features].

        Keys default to queries, values to keys. `mask` may be float, as Flax's masks are: nonzero means attend. The
        other arguments are those of `attnzoo.attend`, with batch axes as in the inputs.

        Returns:
          [*batch, T, out_features].
        """
        layers.refuse_decode(self.decode if decode is None else decode)
        inputs_k, inputs_v = layers.key_and_value_inputs(inputs_q, inputs_k, inputs_v)
        query, key, value = self.query(inputs_q), self.key(inputs_k), self.value(inputs_v)
        if self.normalize_qk:
            query, key = self.query_ln(query), self.key_ln(key)
        query, key, value = dtypes.promote_dtype((query, key, value), dtype=self.dtype)
        rng = self._dropout_rng(deterministic, rngs)
        structure = Structure(
            mask,
            bias,
            is_causal,
            query_offset,
            query_seq_lengths,
            key_value_seq_lengths,
            key_mask,
            query_segment_ids,
            key_value_segment_ids,
            local_window_size,
            scale,
        )
        attended = layers.attend_heads(
            query,
            key,
            value,
            structure,
            kernel=self.attention_kernel,
            params=jax.tree.map(lambda x: x[...], getattr(self, "attention", ()), is_leaf=_is_param),
            dropout_rate=0.0 if rng is None else self.dropout_rate,
            rng=rng,
            precision=self.precision,
            with_weights=sow_weights,
        )
        if sow_weights:
            self.sow(nnx.Intermediate, "attention_weights", attended.weights)
        return self.out(attended.out)

    def _dropout_rng(self, deterministic, rngs):
        """A key where weights are to be dropped, else None."""
        if self.dropout_rate == 0:
            return None
        deterministic = self.deterministic if deterministic is None else deterministic
        if deterministic is None:
            raise ValueError("dropout_rate > 0 and deterministic is None: pass deterministic=True or False")
        if deterministic:
            return None
        rngs = self.rngs if rngs is None else rngs
        if rngs is None:
            raise ValueError("dropout needs rngs: pass them to the call, or build the layer with keep_rngs=True")
        return rngs.dropout() if isinstance(rngs, rnglib.Rngs) else rngs()


def _is_param(x) -> bool:
    return isinstance(x, nnx.Param)


def _refuse_unknown_length(kernel: Kernel, dims: Dims) -> None:
    """Refuse a kernel whose parameters depend on the length, where that is not known."""

    def shapes(length):
        return jax.eval_shape(lambda: kernel.init(jax.random.key(0), dims._replace(key_length=length)))

    if shapes(1) != shapes(2):
        raise ValueError(f"max_length=None: the parameters of {kernel!r} depend on it; pass the longest key length")
