"""Multi-head attention for Flax Linen, with any kernel: Flax's argument names and its parameter tree."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta

from attnzoo.contract.sizes import Dims, Tree
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


class MultiHeadDotProductAttention(nn.MultiHeadDotProductAttention):
    """Project to heads, attend with a kernel, project back (Vaswani et al. 2017, section 3.2.2).

    Attributes are those of `flax.linen.MultiHeadDotProductAttention`, in its order and with its defaults, and the
    parameter tree is the same (`query`, `key`, `value`, `out`); so are the names that layers without one get, under
    either name of the class: checkpoints of Flax's layer load unchanged. What differs:

    Attributes:
      attention: the kernel. What it learns lives under `attention`, made for the key length of the first call; what it
        wants of each token beside key and value, such as a gate, is a projection of its own, `token_<name>`.
      positions: how attention counts positions, such as `Rotary()` or `T5Buckets()`. What it learns lives under
        `positions`.
      num_kv_heads: heads of keys and values, fewer than `num_heads` for GQA.
      dropout_on: what `dropout_rate` drops: "weights", as Flax does, or "outputs", entries of what each head gives, for
        kernels that have no weights. With `broadcast_dropout`, Flax's default, all examples and heads drop the same.
      sinks: each head learns a logit that joins its sum of exponentials, `attend`'s `sinks`, from 0 on; it lives under
        `sinks`.
      conv_width, qkv_activation, normalize_qk, normalize_out, gate: short convolutions, norms and the gate of outputs,
        as in `attnzoo.nnx.MultiHeadAttention`, and under the same names. With a convolution `init`, too, needs
        `is_causal=True`, or `decode`.
      heads_axis: a name by which what kernel and positions learn for each head, sinks and convolutions are partitioned,
        as `flax.linen.with_partitioning` does; None for no names.
      attention_fn: refused, as `attention` stands in its place, and so are `qk_attn_weights_einsum_cls` and
        `attn_weights_value_einsum_cls`: a kernel has its own products.
      force_fp32_for_softmax: softmax is computed in float32 at least in any case; with this, weights to look at are
        kept in it, too.
      decode: step by step, as in Flax: `init` with an input of the full length makes the collection "cache", and each
        `apply(..., mutable=["cache"])` takes the tokens that come next, one or several. `query_seq_lengths` says how
        many of them each example has; where a loop carries the cache, give it to `init` too, so that the index has an
        entry for each example from the start. Tokens past the end raise, or give NaN under `jit`; nothing is
        overwritten.

    Raises:
      ValueError: when called, `attention` is no kernel, `positions` belong to no attention, heads do not divide what
        they share, inputs are of another width than the parameters, or an `attention_fn` is there; an option has a
        wrong value.
      NotImplementedError: when called, the kernel cannot decode, or has no weights to drop.

    Example:
      >>> import attnzoo.linen
      >>> kernel = SlidingWindow(left=8, right=8)
      >>> layer = attnzoo.linen.MultiHeadDotProductAttention(num_heads=4, attention=kernel)
      >>> params = layer.init(jax.random.key(0), jnp.ones((2, 64, 32)))
      >>> layer.apply(params, jnp.ones((2, 64, 32))).shape
      (2, 64, 32)
    """

    attention: Kernel = Softmax()
    positions: RelativeEncoding = NoPositions()
    num_kv_heads: int | None = None
    dropout_on: str = "weights"
    heads_axis: str | None = None
    sinks: bool = False
    conv_width: int | None = None
    qkv_activation: str | None = None
    normalize_out: bool = False
    gate: str | None = None

    @nn.compact
    @spelled_out(attend, Asked.__annotations__.__contains__)
    def __call__(
        self,
        inputs_q: Float[jax.Array, "*B T features"],
        inputs_k: Float[jax.Array, "*B S key_features"] | None = None,
        inputs_v: Float[jax.Array, "*B S value_features"] | None = None,
        *,
        inputs_kv: Float[jax.Array, "*B S key_features"] | None = None,
        deterministic: bool | None = None,
        dropout_rng: jax.Array | None = None,
        sow_weights: bool = False,
        **asked: Unpack[Asked],
    ) -> Float[jax.Array, "*B T out_features"]:
        """Attend: inputs_q [*batch, T, features], inputs_k and inputs_v [*batch, S, features].

        Keys default to queries, values to keys; `inputs_kv`, which Flax deprecates, is both. `mask` may be float, as
        Flax's masks are: nonzero means attend. The others of what is asked for are arguments of `attnzoo.attend`, with
        batch axes as in the inputs.

        Returns:
          [*batch, T, out_features].
        """
        self._check()
        inputs_k, inputs_v = projected.key_and_value_inputs(inputs_q, inputs_k, inputs_v, inputs_kv)
        query, key, value = self._heads(inputs_q, inputs_k, inputs_v)
        dims = Dims.of(query, key, value)
        of_heads = Heads(self.qkv_activation, self.normalize_qk, self.gate, self.normalize_out)
        is_new = self.decode and not self.has_variable("cache", layer_cache.INDEX)
        heads, cache = self._convolved((query, key, value), dims, asked, is_new, inputs_k is inputs_q)
        query, key, value = of_heads.activated(*heads)
        if of_heads.norm_of_qk is not None:
            query, key = self._norm(of_heads, "query_ln")(query), self._norm(of_heads, "key_ln")(key)
        query, key = of_heads.of_unit_norm(query, key)
        query, key, value = nn.dtypes.promote_dtype(query, key, value, dtype=self.dtype)
        rng = self._dropout_rng(deterministic, dropout_rng)
        project = lambda name, one: self._dense(
            name,
            (self.num_heads, *one.shape),
            bias_init=one.bias_init,
            use_bias=self.use_bias or one.bias_init is not None,
        )(inputs_k)
        attention = Attention(
            kernel=self.attention,
            params=self._learned("attention", dims),
            positions=self.positions,
            position_params=self._learned("positions", dims),
            precision=self.precision,
            tokens=projected.brought(self.attention, dims, project),
            sinks=self._made("sinks", lambda _: jnp.zeros(self.num_heads)) if self.sinks else None,
        )
        if self.decode:
            layer_cache.refuse_extras(rng, sow_weights)
            out = self._step(query, key, value, asked, attention, cache, is_new)
        else:
            dropping = Dropping(self.dropout_rate, rng, self.broadcast_dropout, self.dropout_on)
            dtype = jnp.promote_types(query.dtype, jnp.float32) if self.force_fp32_for_softmax else query.dtype
            out, weights = projected.attend_heads(
                query, key, value, asked, attention, dropping, weights_dtype=dtype if sow_weights else None
            )
            if sow_weights:
                self.sow("intermediates", "attention_weights", weights)
        if of_heads.normalize_out:
            out = nn.RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="out_norm")(out)
        if of_heads.gate is not None:
            out = of_heads.gated(out, self._dense("gate", (self.num_heads, dims.value_dim))(inputs_q))
        return self._dense(
            "out",
            self.out_features or inputs_q.shape[-1],
            axis=(-2, -1),
            kernel_init=self.out_kernel_init or self.kernel_init,
            bias_init=self.out_bias_init or self.bias_init,
            dot_general=(self.out_dot_general, self.out_dot_general_cls),
        )(out)

    def _check(self) -> None:
        """Refuse fields that cannot be honoured."""
        validation.kernel(self.attention, "attention")
        projected.check_dropout(self.attention, self.dropout_rate, self.dropout_on)
        projected.check_sinks(self.attention, self.sinks)
        projected.checked_positions(self.positions)
        convolution.check(self.conv_width)
        Heads(self.qkv_activation, self.normalize_qk, self.gate, self.normalize_out).check()
        if self.attention_fn is not nn.dot_product_attention:
            raise ValueError(
                f"attention_fn={self.attention_fn!r}: expected `attention`, a kernel, in its place; functions belong "
                "to flax.linen.MultiHeadDotProductAttention, which takes kernels through attnzoo.as_attention_fn"
            )
        names = "qk_attn_weights_einsum_cls", "attn_weights_value_einsum_cls"
        projected.refuse_einsums(self.attention, **{name: getattr(self, name) for name in names})

    def _step(self, query, key, value, asked, attention, beside, is_new):
        """Heads of the next tokens, beside which is kept what is; the first call makes the cache, for as many tokens as
        it has, and writes none.
        """
        if is_new:
            dims = Dims.of(query, key, value)
            is_ragged = asked.get("query_seq_lengths") is not None
            cache = layer_cache.start(self.attention, attention.params, dims, query.shape[:-3], key.dtype, is_ragged)
        else:
            cache = dict(self.variables["cache"])
        after, out = layer_cache.step(cache, query, key, value, asked, attention)
        for name, array in ((cache if is_new else after) | beside).items():
            self.put_variable("cache", name, array)
        return out

    def _convolved(
        self, heads: convolution.Heads, dims: Dims, asked: Asked, is_new: bool, is_self: bool
    ) -> tuple[convolution.Heads, dict[str, jax.Array]]:
        """Queries, keys and values with those before them, and what is to be kept of these."""
        width = self.conv_width
        if width is None:
            return heads, {}
        made = lambda of: self._made(of, lambda rng: convolution.init(rng, dims, width)[of])
        weights = {name: made(name) for name in map(convolution.name, convolution.HEADS)}
        if not self.decode:
            return convolution.whole(weights, heads, asked, is_self), {}
        empty = convolution.start(dims, width, heads[0].shape[:-3], heads[1].dtype)
        before = empty if is_new else {name: self.get_variable("cache", name) for name in empty}
        out, after = convolution.step(weights, before, heads, asked.get("query_seq_lengths"))
        return out, empty if is_new else after

    def _heads(self, inputs_q, inputs_k, inputs_v):
        """Projections [*batch, T, N, H] and [*batch, S, K, H]."""
        for part, x in (("query", inputs_q), ("key", inputs_k), ("value", inputs_v)):
            if self.has_variable("params", part):
                made_for = len(nn.meta.unbox(self.get_variable("params", part))["kernel"])
                told = f"the parameters of `{part}` have it", "init new ones with inputs of {}"
                projected.check_width(f"inputs_{part[0]}", x, made_for, *told)
        width = self.qkv_features or inputs_q.shape[-1]
        kv_heads = self.num_kv_heads or self.num_heads
        if width % self.num_heads or self.num_heads % kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads}: expected a divisor of qkv_features={width} and a multiple of "
                f"num_kv_heads={kv_heads}"
            )
        head_dim = width // self.num_heads
        query = self._dense("query", (self.num_heads, head_dim))(inputs_q)
        key = self._dense("key", (kv_heads, head_dim))(inputs_k)
        value = self._dense("value", (kv_heads, head_dim))(inputs_v)
        return query, key, value

    def _norm(self, of_heads: Heads, name: str) -> nn.Module:
        """That of queries or of keys."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if of_heads.norm_of_qk == "layer":
            return nn.LayerNorm(use_bias=False, **types, name=name)
        return nn.RMSNorm(**types, name=name)

    def _dense(self, name, features, axis=-1, kernel_init=None, bias_init=None, dot_general=None, use_bias=None):
        function, made_by = dot_general or (self.qkv_dot_general, self.qkv_dot_general_cls)
        return nn.DenseGeneral(
            features,
            axis=axis,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=_in_shape(kernel_init or self.kernel_init),
            bias_init=_in_shape(bias_init or self.bias_init),
            use_bias=self.use_bias if use_bias is None else use_bias,
            precision=self.precision,
            dot_general=products.dot_general if function is None and made_by is None else function,
            dot_general_cls=made_by,
            name=name,
        )

    def _learned(self, name: str, dims: Dims) -> Tree:
        """What `attention` or `positions` learned. Flax would compare shapes with those for the present length, so it
        is not asked.
        """
        return self._made(name, lambda rng: getattr(self, name).init(rng, dims))

    def _made(self, name: str, make: Callable[[jax.Array], Tree]) -> Tree:
        """What is learned under a name, as it is there or as it is made, () where that has no leaves."""
        if self.has_variable("params", name):
            return nn.meta.unbox(self.get_variable("params", name))

        def init(rng):
            made = jax.tree.map(lambda x: x.astype(self.param_dtype), make(rng))
            if self.heads_axis is None:
                return made
            names = functools.partial(projected.partitioned, heads_axis=self.heads_axis, num_heads=self.num_heads)
            return jax.tree.map(lambda x: nn.Partitioned(x, names(x)), made)

        if not jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))):
            return ()
        return self.param(name, init)

    def _dropout_rng(self, deterministic, dropout_rng):
        """A key where weights are to be dropped, else None."""
        if self.dropout_rate == 0 or nn.merge_param("deterministic", self.deterministic, deterministic):
            return None
        return self.make_rng("dropout") if dropout_rng is None else dropout_rng


class _Flat(meta.AxisMetadata):
    """What an initializer made with names of axes, in the two axes that `DenseGeneral` asks for.

    The names are those of the shape that it is then given, and nothing before is split by them, as Flax would where a
    mesh is at hand. What a token brings may be one number for each head, and has no axis for the last name of others.
    """

    def __init__(self, named: meta.Partitioned):
        self.named = named

    def unbox(self):
        return self.named.value

    def replace_boxed(self, val):
        return self.named.replace(value=val, names=self.named.names[: val.ndim])

    def add_axis(self, index, params):
        raise NotImplementedError

    remove_axis = add_axis


def _in_shape(init: Callable[..., Any]) -> Callable[..., Any]:
    """An initializer whose names of axes are those of the shape that a parameter has."""

    def made(*given):
        x = init(*given)
        return _Flat(x) if isinstance(x, meta.Partitioned) else x

    return made


class MultiHeadAttention(MultiHeadDotProductAttention):
    """`MultiHeadDotProductAttention` under Flax's other name, from which layers without a name get theirs.

    Example:
      >>> import attnzoo.linen
      >>> layer = attnzoo.linen.MultiHeadAttention(num_heads=4, attention=SlidingWindow(left=8, right=8))
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 64, 32)))[0].shape
      (2, 64, 32)
    """


class SelfAttention(MultiHeadDotProductAttention):
    """`MultiHeadDotProductAttention` of one input, which Flax deprecates: mask and the rest may come by position.

    Example:
      >>> import warnings
      >>> import attnzoo.linen
      >>> layer = attnzoo.linen.SelfAttention(num_heads=4)
      >>> mask = jnp.tri(64)[None, None]
      >>> with warnings.catch_warnings(action="ignore"):
      ...     out, params = layer.init_with_output(jax.random.key(0), jnp.ones((2, 64, 32)), mask)
      >>> out.shape
      (2, 64, 32)
    """

    @nn.compact
    @spelled_out(attend, Asked.__annotations__.__contains__)
    def __call__(  # type: ignore[override, misc]  # Flax's own breaks the signature of its class
        self,
        inputs_q: Float[jax.Array, "*B T features"],
        mask: jax.Array | None = None,
        deterministic: bool | None = None,
        dropout_rng: jax.Array | None = None,
        sow_weights: bool = False,
        **asked: Unpack[Asked],
    ) -> Float[jax.Array, "*B T out_features"]:
        """Attend: inputs_q [*batch, T, features]; the rest as in `MultiHeadDotProductAttention`.

        Returns:
          [*batch, T, out_features].
        """
        warnings.warn(
            "SelfAttention will go with Flax's: use MultiHeadDotProductAttention, and pass mask= and the rest by name",
            DeprecationWarning,
            stacklevel=2,
        )
        given: dict[str, Any] = {"deterministic": deterministic, "dropout_rng": dropout_rng, "sow_weights": sow_weights}
        return super().__call__(inputs_q, mask=mask, **given, **asked)
