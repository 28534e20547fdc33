"""Multi-head attention for Flax NNX, with any kernel: Flax's own layer, its arguments and its parameter tree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import rnglib
from flax.nnx.nn import dtypes

from attnzoo.contract.sizes import Dims, Tree
from attnzoo.contract.support import TokenInput
from attnzoo.door import validation
from attnzoo.door.arguments import Asked, spelled_out
from attnzoo.door.attention import attend
from attnzoo.kernel import Kernel
from attnzoo.kernels import Softmax
from attnzoo.layers import cache as layer_cache
from attnzoo.layers import convolution, products, projected
from attnzoo.layers.projected import Attention, Dropping, Heads
from attnzoo.positions import NoPositions, RelativeEncoding

if TYPE_CHECKING:
    from jaxtyping import Float

# Arguments of the layer that are those of every projection, and are not kept.
PROJECTING = ("kernel_init", "bias_init", "kernel_metadata", "bias_metadata")


class MultiHeadAttention(nnx.MultiHeadAttention):
    """Project to heads, attend with a kernel, project back (Vaswani et al. 2017, section 3.2.2).

    Arguments are those of `flax.nnx.MultiHeadAttention`, with the same parameter tree (`query`, `key`, `value`, `out`),
    so that its checkpoints load unchanged. What differs:

    Args:
      attention: the kernel. What it learns lives under `attention`; what it wants of each token beside key and value,
        such as a gate, is a projection of its own, `token_<name>`, of the inputs of keys.
      positions: how attention counts positions, such as `Rotary()` or `T5Buckets()`. What it learns lives under
        `positions`.
      max_length: the longest key length, for kernels whose parameters depend on it (`Linformer`); else not needed.
      dropout_on: what `dropout_rate` drops: "weights", as Flax does, or "outputs", entries of what each head gives, for
        kernels that have no weights. With `broadcast_dropout`, Flax's default, all examples and heads drop the same.
      sinks: each head learns a logit that joins its sum of exponentials, `attend`'s `sinks`, from 0 on; it lives under
        `sinks`.
      conv_width: queries, keys and values are convolved with themselves over as many tokens, a token and those before
        it, which causal self-attention alone can have: 4 in published recurrences. Weights live under `query_conv`,
        `key_conv` and `value_conv`; None for no convolution.
      qkv_activation: what is put behind that, "silu" in published recurrences, "sigmoid" or "relu"; None for nothing.
      normalize_qk: True for Flax's LayerNorm; "rms" for RMSNorm, or "l2" for rows of norm 1, which learn nothing.
      normalize_out: whether each head's output is normalised, by the root of its mean square, before it is projected;
        its scale is one for all heads and lives under `out_norm`.
      gate: outputs of heads, normalised or not, are multiplied by a projection of the inputs of queries, `gate`, behind
        this activation: "silu" (GLA, Gated DeltaNet), "sigmoid" (Qiu et al. 2025, arXiv:2505.06708) or "relu"; None for
        no gate.
      heads_axis: a name by which what kernel and positions learn for each head, sinks and convolutions are partitioned,
        as `flax.nnx.with_partitioning` does; None for no names.
      attention_fn: is no argument here, as `attention` stands in its place.
      decode: step by step, after `init_cache`: each call takes the tokens that come next, one or several.
        `query_seq_lengths` says how many of them each example has. Tokens past the end raise, or give NaN under `jit`;
        nothing is overwritten.

    Raises:
      ValueError: `attention` is no kernel; its parameters depend on the length and `max_length` is None; `positions`
        belong to no attention; an option has a wrong value; when called, inputs are of another width than was said.
      NotImplementedError: the kernel cannot decode, or has no weights to drop.

    Example:
      >>> from flax import nnx
      >>> import attnzoo.nnx
      >>> layer = attnzoo.nnx.MultiHeadAttention(4, 32, attention=SlidingWindow(left=8, right=8), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 64, 32))).shape
      (2, 64, 32)
    """

    @spelled_out(nnx.MultiHeadAttention.__init__, lambda name: name != "attention_fn")
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
        positions: RelativeEncoding = NoPositions(),
        max_length: int | None = None,
        dropout_on: str = "weights",
        sinks: bool = False,
        conv_width: int | None = None,
        qkv_activation: str | None = None,
        normalize_qk: bool | str = False,
        normalize_out: bool = False,
        gate: str | None = None,
        heads_axis: str | None = None,
        decode: bool | None = False,
        rngs: nnx.Rngs,
        **flax: Any,
    ):
        validation.kernel(attention, "attention")
        if decode:
            layer_cache.refuse_kernel(attention)
        projected.checked_positions(positions)
        convolution.check(conv_width)
        self.of_heads = Heads(qkv_activation, normalize_qk, gate, normalize_out)
        self.of_heads.check()
        widths = num_heads, in_features, qkv_features, out_features, num_kv_heads, in_kv_features
        super().__init__(*widths, decode=decode, normalize_qk=self.of_heads.norm_of_qk == "layer", rngs=rngs, **flax)
        projected.check_dropout(attention, self.dropout_rate, dropout_on)
        projected.check_sinks(attention, sinks)
        self.attention_kernel = attention
        self.dropout_on = dropout_on
        dims = self._dims(1, max_length or 1)
        if max_length is None:
            _refuse_unknown_length(attention, dims)
        for name, one in attention.token_inputs(dims).items():
            setattr(self, projected.token_name(name), self._projection(self.in_kv_features, one, rngs, flax))
        if gate is not None:
            self.gate = self._projection(in_features, TokenInput((self.head_dim,)), rngs, flax)
        if self.of_heads.norm_of_qk == "rms":
            for name in ("query_ln", "key_ln"):
                setattr(self, name, self._norm(rngs, flax.get(f"{name}_scale_metadata")))
        if normalize_out:
            self.out_norm = self._norm(rngs)
        self.position_encoding = positions

        def parameter(x: jax.Array) -> nnx.Param:
            named: dict[str, Any] = {}
            if heads_axis is not None:
                named["out_sharding"] = projected.partitioned(x, heads_axis, num_heads)
            return nnx.Param(x.astype(self.param_dtype), **named)

        self.sinks = parameter(jnp.zeros(num_heads)) if sinks else None
        self.conv_width = conv_width
        if conv_width is not None:
            for name, weights in convolution.init(rngs.params(), dims, conv_width).items():
                setattr(self, name, parameter(weights))
        for name, learner in (("attention", attention), ("positions", positions)):
            if jax.tree.leaves(jax.eval_shape(lambda learner=learner: learner.init(jax.random.key(0), dims))):
                params = learner.init(rngs.params(), dims)
                setattr(self, name, nnx.data(jax.tree.map(parameter, params)))

    def _norm(self, rngs: nnx.Rngs, metadata: Any = None) -> nnx.RMSNorm:
        """RMSNorm of what one head has."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        given = {} if metadata is None else {"scale_metadata": metadata}
        return nnx.RMSNorm(self.head_dim, **types, promote_dtype=self.ln_promote_dtype, **given, rngs=rngs)

    def _projection(self, in_features: int, one: TokenInput, rngs: nnx.Rngs, flax: dict[str, Any]) -> nnx.LinearGeneral:
        """One more projection for each head, as Flax makes that of keys, but for a bias of its own."""
        given = {name: flax[name] for name in PROJECTING if name in flax}
        given |= {} if one.bias_init is None else {"bias_init": one.bias_init}
        axes = {"kernel": 2 + len(one.shape), "bias": 1 + len(one.shape)}
        given = {name: _naming(axes[name.partition("_")[0]], x) for name, x in given.items()}
        return nnx.LinearGeneral(
            in_features,
            (self.num_heads, *one.shape),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            use_bias=self.use_bias or one.bias_init is not None,
            precision=self.precision,
            promote_dtype=self.qkv_promote_dtype,
            dot_general=self.qkv_dot_general,
            dot_general_cls=self.qkv_dot_general_cls,
            rngs=rngs,
            **given,
        )

    @spelled_out(attend, Asked.__annotations__.__contains__)
    def __call__(
        self,
        inputs_q: Float[jax.Array, "*B T features"],
        inputs_k: Float[jax.Array, "*B S key_features"] | None = None,
        inputs_v: Float[jax.Array, "*B S value_features"] | None = None,
        *,
        deterministic: bool | None = None,
        rngs: rnglib.Rngs | rnglib.RngStream | None = None,
        sow_weights: bool = False,
        decode: bool | None = None,
        out_sharding: Any = None,
        qkv_sharding: Any = None,
        **asked: Unpack[Asked],
    ) -> Float[jax.Array, "*B T out_features"]:
        """Attend: inputs_q [*batch, T, in_features], inputs_k and inputs_v [*batch, S, in_kv_features].

        Keys default to queries, values to keys. `mask` may be float, as Flax's masks are: nonzero means attend. The
        others of what is asked for are arguments of `attnzoo.attend`, with batch axes as in the inputs. `qkv_sharding`
        and `out_sharding` are those of projections, as in Flax.

        Returns:
          [*batch, T, out_features].
        """
        inputs_k, inputs_v = projected.key_and_value_inputs(inputs_q, inputs_k, inputs_v)
        given = ("inputs_q", inputs_q), ("inputs_k", inputs_k), ("inputs_v", inputs_v)
        for (name, x), of in zip(given, ("in_features", "in_kv_features", "in_kv_features"), strict=True):
            width = getattr(self, of)
            projected.check_width(name, x, width, f"{of}={width}", f"build the layer with {of}={{}}")
        projections = (self.query, inputs_q), (self.key, inputs_k), (self.value, inputs_v)
        query, key, value = (
            project(x, out_sharding=qkv_sharding) if qkv_sharding else products.applied(project, x)
            for project, x in projections
        )
        is_decoding = bool(self.decode if decode is None else decode)
        heads, cache = self._convolved((query, key, value), asked, is_decoding, inputs_k is inputs_q)
        query, key, value = self.of_heads.activated(*heads)
        if self.query_ln is not None and self.key_ln is not None:
            query, key = self.query_ln(query), self.key_ln(key)
        query, key = self.of_heads.of_unit_norm(query, key)
        query, key, value = dtypes.promote_dtype((query, key, value), dtype=self.dtype)
        rng = self._dropout_rng(deterministic, rngs)
        attention = Attention(
            kernel=self.attention_kernel,
            params=self._learned("attention"),
            positions=self.position_encoding,
            position_params=self._learned("positions"),
            precision=self.precision,
            tokens=self._brought(inputs_k),
            sinks=None if self.sinks is None else self.sinks[...],
        )
        if is_decoding:
            layer_cache.refuse_extras(rng, sow_weights)
            out = self._step(query, key, value, asked, attention, cache)
            return self._projected_out(out, out_sharding, inputs_q)
        dropping = Dropping(self.dropout_rate, rng, self.broadcast_dropout, self.dropout_on)
        out, weights = projected.attend_heads(
            query, key, value, asked, attention, dropping, weights_dtype=query.dtype if sow_weights else None
        )
        if sow_weights:
            self.sow(nnx.Intermediate, "attention_weights", weights)
        return self._projected_out(out, out_sharding, inputs_q)

    def _convolved(
        self, heads: convolution.Heads, asked: Asked, is_decoding: bool, is_self: bool
    ) -> tuple[convolution.Heads, dict[str, jax.Array]]:
        """Queries, keys and values with those before them, and what is to be kept of these."""
        if self.conv_width is None:
            return heads, {}
        weights = {name: getattr(self, name)[...] for name in map(convolution.name, convolution.HEADS)}
        if not is_decoding:
            return convolution.whole(weights, heads, asked, is_self), {}
        before = {name: variable.get_value() for name, variable in self._cached(convolution.CACHED).items()}
        return convolution.step(weights, before, heads, asked.get("query_seq_lengths"))

    def _projected_out(self, out: jax.Array, out_sharding: Any, inputs_q: jax.Array) -> jax.Array:
        """What heads give, [*batch, T, N, Hv], normalised and gated, as features."""
        if self.of_heads.normalize_out:
            out = self.out_norm(out)
        if self.of_heads.gate is not None:
            out = self.of_heads.gated(out, products.applied(self.gate, inputs_q))
        return self.out(out, out_sharding=out_sharding) if out_sharding else products.applied(self.out, out, 2)

    def init_cache(self, input_shape: Sequence[int], dtype=jnp.float32, *, is_ragged: bool = False) -> None:
        """Make the cache, or empty it, for inputs up to `input_shape`, [*batch, longest, in_features].

        What the kernel keeps of keys and values has `dtype`; sums over keys are kept in float32 at least. With
        `is_ragged`, `cache_index` has an entry for each example from the start, and not only once `query_seq_lengths`
        came: `nnx.scan` and other loops carry variables whose shapes do not change.

        Example:
          >>> from flax import nnx
          >>> import attnzoo.nnx
          >>> layer = attnzoo.nnx.MultiHeadAttention(4, 32, decode=True, rngs=nnx.Rngs(0))
          >>> layer.init_cache((2, 64, 32))
          >>> layer(jnp.ones((2, 10, 32))).shape, layer(jnp.ones((2, 1, 32))).shape, layer.cache_index[...].item()
          ((2, 10, 32), (2, 1, 32), 11)
        """
        *batch, length, _ = input_shape
        dims = self._dims(math.prod(batch), length)
        given = self.attention_kernel, self._learned("attention"), dims, tuple(batch), dtype
        made = layer_cache.start(*given, is_ragged)
        if self.conv_width is not None:
            made |= convolution.start(dims, self.conv_width, tuple(batch), dtype)
        for name, array in made.items():
            setattr(self, name, nnx.Cache(array))

    def _step(self, query, key, value, asked, attention, beside):
        """Heads of the next tokens; `beside` is what else is kept once they have come."""
        names = [*layer_cache.names(self.attention_kernel, self._dims(1, 1)), layer_cache.INDEX]
        cached = self._cached((*names, *beside))
        before = {name: cached[name].get_value() for name in names}
        after, out = layer_cache.step(before, query, key, value, asked, attention)
        for name, array in (after | beside).items():
            cached[name].set_value(array)
        return out

    def _cached(self, names: Sequence[str]) -> dict[str, nnx.Cache]:
        """Variables of the cache."""
        if self.cache_index is None:
            raise ValueError("decode=True and there is no cache: call `init_cache(input_shape)` of the layer first")
        return {name: getattr(self, name) for name in names}

    def _dims(self, batch: int, length: int) -> Dims:
        return Dims(batch, length, length, self.num_heads, self.num_kv_heads, self.head_dim, self.head_dim)

    def _brought(self, inputs_k: jax.Array) -> dict[str, jax.Array]:
        """What the tokens of keys bring to the kernel."""
        project = lambda name, _: products.applied(getattr(self, name), inputs_k)
        return projected.brought(self.attention_kernel, self._dims(1, 1), project)

    def _learned(self, name: str) -> Tree:
        """What the kernel or the positions learned, as arrays."""
        return jax.tree.map(lambda x: x[...], getattr(self, name, ()), is_leaf=_is_param)

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


def _naming(count: int, given: Any) -> Any:
    """An initializer, or metadata, whose names are of so many axes at most: what a token brings may be one number for
    each head, and has no axis for the last name of other projections.
    """
    if not callable(given):
        names = given.get("out_sharding")
        return given if names is None else {**given, "out_sharding": tuple(names)[:count]}

    def made(*args):
        x = given(*args)
        if isinstance(x, nnx.VariableMetadata):
            x = dataclasses.replace(x, metadata=_naming(count, x.metadata))
        return x

    return made


def _is_param(x) -> bool:
    return isinstance(x, nnx.Param)


def _refuse_unknown_length(kernel: Kernel, dims: Dims) -> None:
    """Refuse a kernel whose parameters depend on the length, where that is not known."""

    def shapes(length):
        return jax.eval_shape(lambda: kernel.init(jax.random.key(0), dims._replace(key_length=length)))

    if shapes(1) != shapes(2):
        raise ValueError(f"max_length=None: the parameters of {kernel!r} depend on it; pass the longest key length")
