"""Checks of arguments. Every message names the argument, what came, what was expected, and what to do.

Values are checked where they are concrete; under `jit` they are traced and trusted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.fields import is_integer, is_number
from attnzoo.contract.mask import Known
from attnzoo.contract.sizes import Dims
from attnzoo.kernel import Kernel
from attnzoo.positions import PositionBias, PositionEncoding

FURTHEST = 2**30  # of an offset: positions are int32, and twice this is too much
CACHE_DTYPES = ("float32", "bfloat16", "float16", "float64")


def is_traced(*values) -> bool:
    """Whether any value is only known when the compiled program runs."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def kernel(value, name: str = "kernel") -> None:
    """Refuse what is not a hashable instance of `Kernel`, by the name of the argument."""
    if isinstance(value, type) and issubclass(value, Kernel):
        raise ValueError(f"{name}={value.__name__} is a class: expected an instance, such as {value.__name__}()")
    if isinstance(value, str):
        raise ValueError(f"{name}={value!r} is a string: expected an instance; make it with attnzoo.parse")
    if not isinstance(value, Kernel):
        raise ValueError(f"{name}={value!r}: expected an instance of attnzoo.Kernel, such as attnzoo.Softmax()")
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(
            f"{name}={value!r} cannot be hashed ({error}): expected a frozen dataclass whose fields are numbers, "
            "strings or tuples; arrays belong in `init` or `draw`"
        ) from None


def implementation(value, choices: tuple[str, ...]) -> None:
    """Refuse an implementation that does not exist."""
    if value is not None and value not in choices:
        raise ValueError(
            f"implementation={value!r}: expected None, which takes the fastest that is right here, or one of "
            f"{', '.join(map(repr, choices))}"
        )


def output(out, kernel: Kernel, shape: tuple[int, ...]) -> None:
    """Refuse what a kernel returned in another shape than [B, T, N, Hv]."""
    if out.shape != shape:
        raise ValueError(
            f"{kernel!r} returned shape {out.shape}: expected [batch, queries, heads, value_dim] = {list(shape)}; its "
            "`head` must map [T, H], [S, H], [S, Hv] to [T, Hv]"
        )


def operands(query, key, value) -> None:
    """Refuse query, key and value whose types or shapes do not fit [B, T, N, H], [B, S, K, H], [B, S, K, Hv]."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim < 3:
            raise ValueError(
                f"{name} has shape {array.shape}: expected [batch, length, heads, head_dim], with any number of batch "
                "axes; reshape it, the length before the heads"
            )
        _known_sizes(name, array)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {array.dtype}: expected a floating-point dtype; cast it with .astype")
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            f"query, key and value have dtypes {query.dtype}, {key.dtype}, {value.dtype}: expected one dtype; "
            "cast them with .astype"
        )
    if not query.ndim == key.ndim == value.ndim:
        raise ValueError(
            f"query, key and value have {query.ndim}, {key.ndim} and {value.ndim} axes: expected as many batch "
            "axes on all three"
        )
    _operand_sizes(query, key, value)


def _known_sizes(name: str, array) -> None:
    """Refuse an array [*B, T, N, H] of which more than the batch is symbolic, as `jax.export` may have it."""
    unknown = [str(size) for size in array.shape[-3:] if not is_integer(size)]
    if unknown:
        raise ValueError(
            f"{name} has shape {array.shape}, with a symbolic {' and '.join(unknown)}: expected a length, heads and "
            "head_dim that are known when the program is traced, as tiles are chosen by them; export a program for "
            "each length, which takes shorter examples with `key_value_seq_lengths`; the batch may be symbolic"
        )


def _batch(x) -> str:
    return " x ".join(map(str, x.shape[:-3]))


def _operand_sizes(query, key, value):
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(
            f"query, key and value have batch sizes {_batch(query)}, {_batch(key)} and {_batch(value)}: expected one; "
            "repeat the smaller with jnp.broadcast_to"
        )
    if key.shape[-3] != value.shape[-3]:
        raise ValueError(f"key and value have lengths {key.shape[-3]} and {value.shape[-3]}: expected one length")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"key and value have {key.shape[-2]} and {value.shape[-2]} heads: expected as many")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key have head dims {query.shape[-1]} and {key.shape[-1]}: expected one head dim")
    if min(query.shape[-1], query.shape[-2], key.shape[-2]) == 0:
        raise ValueError(f"query has shape {query.shape}, key {key.shape}: heads and head_dim must not be empty")
    if query.shape[-2] % key.shape[-2]:
        raise ValueError(
            f"query has {query.shape[-2]} heads, key {key.shape[-2]}: the heads of query must be a multiple of those "
            "of key (GQA)"
        )


def axes_order(query, key) -> None:
    """Warn where heads seem to stand before the length."""
    shape, of_keys = jnp.shape(query), jnp.shape(key)
    if len(shape) < 3 or len(of_keys) < 3 or not all(map(is_integer, shape[-3:-1] + of_keys[-3:-1])):
        return
    length, num_heads = shape[-3:-1]
    if 1 < length < num_heads and of_keys[-3] < of_keys[-2]:
        warnings.warn(
            f"query has shape {shape}: more heads ({num_heads}) than tokens ({length}). The layout is [batch, "
            "length, heads, head_dim]; if yours is [batch, heads, length, head_dim], swap axes 1 and 2",
            stacklevel=3,
        )


def mask_array(mask, shape) -> None:
    """Refuse a mask that is not bool or does not broadcast to [B, N, T, S]."""
    if mask.dtype != bool:
        raise ValueError(
            f"mask has dtype {mask.dtype}: expected bool, True where a query may attend; use `mask.astype(bool)`, or "
            "pass numbers to be added to the scores as `bias`"
        )
    _broadcastable("mask", mask, shape)


def bias_array(bias, shape) -> None:
    """Refuse a bias that is not floating-point or does not broadcast to [B, N, T, S]."""
    if not jnp.issubdtype(bias.dtype, jnp.floating):
        hint = "pass it as `mask`" if bias.dtype == bool else "cast it with .astype"
        raise ValueError(f"bias has dtype {bias.dtype}: expected a floating-point dtype; {hint}")
    _broadcastable("bias", bias, shape)


def position_bias(rule: PositionBias, num_heads: int) -> None:
    """Refuse a rule whose leaves are not floating-point, or do not lead with the axis of heads."""
    for leaf in map(jnp.asarray, jax.tree.leaves(rule)):
        if leaf.ndim == 0 or leaf.shape[0] not in (1, num_heads) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"bias is a {type(rule).__name__} with a leaf {leaf.dtype}{list(leaf.shape)}: expected floating-point "
                f"leaves with a leading axis of {num_heads}, the heads of query, or of 1; whole numbers that are not "
                "learned belong in static fields"
            )


def no_encoding(bias) -> None:
    """Refuse a choice of positions where the bias itself is expected."""
    if isinstance(bias, PositionEncoding):
        raise ValueError(
            f"bias={bias!r} is a choice of positions: expected an array or a PositionBias; pass it as `positions` to a "
            "layer, or make the bias with `bias(params, num_heads)`"
        )


def _broadcastable(name, array, shape):
    fits = array.ndim <= 4 and all(
        size in (1, whole) for size, whole in zip(array.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} has shape {array.shape}: expected one that broadcasts to [batch, heads, queries, keys] = "
            f"{list(shape)}"
        )


def lengths(name: str, value, batch: int, longest: int) -> None:
    """Refuse sequence lengths that are not int [B], or not within 0..longest."""
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {value.dtype}: expected an integer dtype")
    if value.shape != (batch,):
        raise ValueError(f"{name} has shape {value.shape}: expected one length for each example, [{batch}]")
    if is_traced(value) or not batch:
        return
    known = np.asarray(value)  # arithmetic on a constant that a traced function closes over would be traced
    if not 0 <= known.min() <= known.max() <= longest:
        raise ValueError(
            f"{name} ranges from {known.min()} to {known.max()}: expected lengths within 0..{longest}, the length of "
            "the array"
        )


def key_mask(value, batch: int, length: int) -> None:
    """Refuse a key_mask that is not bool [B, S]."""
    if value.dtype != bool:
        raise ValueError(f"key_mask has dtype {value.dtype}: expected bool, True for keys that may be seen")
    if value.shape != (batch, length):
        raise ValueError(f"key_mask has shape {value.shape}: expected [batch, keys] = {[batch, length]}")


def segments(query_ids, key_ids, batch: int, query_length: int, key_length: int) -> None:
    """Refuse segment ids that come alone, or are not int [B, T] and [B, S]."""
    names = ("query_segment_ids", "key_value_segment_ids")
    given = [ids is not None for ids in (query_ids, key_ids)]
    if given[0] != given[1]:
        raise ValueError(f"{names[given.index(True)]} came without {names[given.index(False)]}: pass both or neither")
    for name, ids, length in zip(names, (query_ids, key_ids), (query_length, key_length), strict=True):
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(f"{name} has dtype {ids.dtype}: expected an integer dtype")
        if ids.shape != (batch, length):
            raise ValueError(f"{name} has shape {ids.shape}: expected [batch, length] = {[batch, length]}")


def global_tokens(value, known: np.ndarray | None, batch: int, length: int) -> None:
    """Refuse global tokens that are neither positions, int [B, G], nor a concrete mask of them, bool [B, S].

    Args:
      known: the value where it is concrete.
    """
    expected = f"positions, int [{batch}, tokens], or a mask of them, bool {[batch, length]}"
    if value.dtype != bool and not jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(f"global_tokens has dtype {value.dtype}: expected {expected}")
    fits = value.ndim == 2 and value.shape[0] == batch and (value.dtype != bool or value.shape[1] == length)
    if not fits:
        raise ValueError(f"global_tokens has dtype {value.dtype} and shape {value.shape}: expected {expected}")
    if known is None and value.dtype == bool:
        raise ValueError(
            "global_tokens is a traced mask, which does not tell how many tokens it names: pass positions, such as "
            "jax.vmap(lambda mask: jnp.nonzero(mask, size=most, fill_value=-1)[0])(mask)"
        )
    if known is None or known.dtype == bool or known.size == 0:
        return
    if not -1 <= known.min() <= known.max() < length:
        raise ValueError(
            f"global_tokens ranges from {known.min()} to {known.max()}: expected positions within 0..{length - 1}, the "
            "keys, or -1 for none"
        )


def scale(value, dtype) -> jax.Array:
    """`scale` as an array of the dtype that scores of `dtype` have; refuse what is not one finite number."""
    if not _is_one_number(value) or not (is_traced(value) or math.isfinite(value)):
        raise ValueError(f"scale={value!r}: expected one finite number, or None for 1 / sqrt(head_dim)")
    return _of_scores(value, dtype)


def soft_cap(value, dtype) -> jax.Array:
    """`soft_cap`, likewise; refuse what is not one finite number above 0."""
    if not _is_one_number(value) or not (is_traced(value) or 0 < value < math.inf):
        raise ValueError(f"soft_cap={value!r}: expected one finite number > 0, or None for scores without a cap")
    return _of_scores(value, dtype)


def sinks(value, num_heads: int) -> jax.Array:
    """`sinks` as an array [N]; refuse another shape, and what is no number."""
    array = jnp.asarray(value)
    if array.shape != (num_heads,) or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"sinks has dtype {array.dtype} and shape {array.shape}: expected floats [{num_heads}], one for each head"
        )
    if not is_traced(value) and not np.isfinite(np.asarray(value, np.float64)).all():
        raise ValueError(f"sinks={value!r}: expected finite numbers, or None for no sinks")
    return array


def _is_one_number(value) -> bool:
    return is_number(value) or (hasattr(value, "shape") and value.shape == () and _is_real(value.dtype))


def _of_scores(value, dtype) -> jax.Array:
    return jnp.asarray(value).astype(jnp.promote_types(dtype, jnp.float32))


def _is_real(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def window(value) -> tuple[int, int]:
    """`local_window_size` as (left, right); refuse all but an integer >= 0 or a pair of them."""
    pair = (value, value) if is_integer(value) else value
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(is_integer(side) and side >= 0 for side in pair):
        raise ValueError(
            f"local_window_size={value!r}: expected an integer >= 0 or a pair (left, right) of them, the keys seen on "
            "either side of a query's own"
        )
    return pair


def switches(**flags) -> None:
    """Refuse flags that are not Python bools."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name}={value!r}: expected True or False, known before tracing")


def query_offset(value, batch: int | None) -> Known | jax.Array:
    """The offset as masks take it, `Known` or int32 [B or 1, 1]; refuse one that is no whole number, or so far that
    positions would wrap.

    Args:
      batch: B, None where there is no axis of examples.
    """
    expected = f"a whole number{'' if batch is None else f', or one for each example, int [{batch}]'}"
    is_array = isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.integer)
    if not is_integer(value) and not is_array:
        raise ValueError(
            f"query_offset={value!r}: expected {expected}, as query i stands at key position i + query_offset"
        )
    if is_array and value.shape not in ((), *([] if batch is None else [(batch,)])):
        raise ValueError(f"query_offset has shape {value.shape}: expected {expected}")
    if not is_traced(value) and np.abs(np.asarray(value, np.int64)).max(initial=0) > FURTHEST:
        raise ValueError(f"query_offset={value}: expected at most {FURTHEST} to either side, as positions are int32")
    return jnp.asarray(value, jnp.int32).reshape(-1, 1) if is_array else Known(value)


def dropout(rate, rng) -> None:
    """Refuse a rate outside [0, 1), and a rate above 0 without randomness."""
    if is_traced(rate) or not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"dropout_rate={rate!r}: expected a Python number in [0, 1)")
    if rate > 0 and rng is None:
        raise ValueError(f"dropout_rate={rate} came without rng: pass `rng=jax.random.key(...)`, or dropout_rate=0.0")
    if rng is not None:
        one_key(rng)


def one_key(rng) -> None:
    """Refuse what is not one key of some generator: typed, or as its words, uint32 [1], [2] or [4]."""
    if not isinstance(rng, jax.Array | np.ndarray):
        raise ValueError(f"rng={rng!r}: expected a key; make one with jax.random.key(seed)")
    is_typed = jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) and rng.shape == ()
    if not is_typed and not (rng.dtype == jnp.uint32 and rng.shape in ((1,), (2,), (4,))):
        raise ValueError(
            f"rng has dtype {rng.dtype} and shape {rng.shape}: expected one key; make it with jax.random.key(seed); "
            "of several keys pass one, or map over them with jax.vmap"
        )


def precision_name(value) -> str | None:
    """The name by which jax knows a precision; refuse what it does not know."""
    name = value.name.lower() if isinstance(value, jax.lax.Precision) else value
    try:
        with jax.default_matmul_precision(name):
            return name
    except ValueError:
        raise ValueError(
            f"precision={value!r}: expected None, a jax.lax.Precision, or one of its names such as 'highest'; a pair "
            "of precisions has no meaning for two products"
        ) from None


def tree(name: str, given, expected, kernel, num_heads: int) -> None:
    """Refuse parameters or draws of another structure than the kernel's own, or without the axis of heads."""
    given_def: Any = jax.tree.structure(given)
    expected_def: Any = jax.tree.structure(expected)
    made_by = {"params": "init", "draws": "draw"}[name]
    if given_def != expected_def:
        raise ValueError(
            f"{name} has structure {given_def}: {kernel!r} expects {expected_def}; make it with "
            f"`kernel.{made_by}(rng, dims)`"
        )
    for leaf in jax.tree.leaves(given):
        if leaf.ndim == 0 or leaf.shape[0] not in (1, num_heads):
            raise ValueError(
                f"{name} has a leaf of shape {leaf.shape}: expected a leading axis of {num_heads}, the heads of query, "
                f"or of 1; make it with `kernel.{made_by}(rng, dims)` and the dims of this call"
            )


def token_inputs(given, kernel: Kernel, dims: Dims, unbatched: bool = False) -> dict[str, jax.Array]:
    """What tokens bring, as arrays with a batch; refuses what the kernel does not take, and what does not come."""
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"tokens has type {type(given).__name__}: expected a mapping from names to arrays")
    given = {name: jnp.asarray(x)[None] if unbatched else jnp.asarray(x) for name, x in (given or {}).items()}
    expected = kernel.token_inputs(dims)
    for name in given.keys() - expected.keys():
        takes = ", ".join(map(repr, expected)) or "nothing of tokens beside key and value"
        raise NotImplementedError(f"{type(kernel).__name__} cannot honour `tokens[{name!r}]`: it takes {takes}")
    counts = sorted({dims.num_heads, dims.num_key_value_heads}, reverse=True)
    for name, one in expected.items():
        shape = one.shape
        sizes = dims.batch, dims.key_length, " or ".join(map(str, counts)), *shape
        wanted = f"[{', '.join(map(str, sizes))}], tokens of key and heads of query or key"
        if name not in given:
            raise ValueError(f"tokens lacks {name!r}, which {kernel!r} wants of every token: pass an array {wanted}")
        array = given[name]
        if array.shape not in [(dims.batch, dims.key_length, heads, *shape) for heads in counts]:
            raise ValueError(f"tokens[{name!r}] has shape {array.shape}: expected {wanted}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"tokens[{name!r}] has dtype {array.dtype}: expected a floating-point dtype")
    return given


def decoding_sizes(**sizes) -> None:
    """Refuse sizes of a decoding state that are not integers >= 1, and heads of queries that do not group."""
    for name, size in sizes.items():
        if not is_integer(size) or size < 1:
            raise ValueError(f"{name}={size!r}: expected an integer >= 1, the size of what `step` will be given")
    num_heads, kv_heads = sizes["num_heads"], sizes["num_key_value_heads"]
    if num_heads % kv_heads:
        raise ValueError(
            f"num_heads={num_heads}, num_key_value_heads={kv_heads}: the heads of query must be a multiple of those of "
            "key (GQA)"
        )


def max_length(value, kernel: Kernel) -> None:
    """Refuse a length of a cache that is not an integer >= 1, or too long: positions would wrap, or the kernel ends."""
    if not is_integer(value) or not 1 <= value <= FURTHEST:
        raise ValueError(
            f"max_length={value!r}: expected an integer >= 1 and <= {FURTHEST}, the tokens of the longest example, "
            "prompt and answer together"
        )
    if kernel.longest is not None and value > kernel.longest:
        raise ValueError(
            f"max_length={value}: {kernel!r} ends after {kernel.longest} tokens, expected no more; make a kernel for "
            "longer sequences"
        )


def cache_dtype(value) -> jnp.dtype:
    """`dtype` of a cache; refuse one that does not mix with the dtypes of queries, or that jax would narrow."""
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in CACHE_DTYPES or jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"dtype={value!r}: expected one of {', '.join(CACHE_DTYPES)} for cached keys and values, the last with "
            "jax_enable_x64"
        )
    return dtype


def state(value, expected: type) -> None:
    """Refuse what is not a state of decoding."""
    if not isinstance(value, expected):
        raise ValueError(
            f"state is a {type(value).__name__}: expected one from `attnzoo.start`; `step` returns the pair (state, "
            "out)"
        )


def tokens(query, key, value, kernel: Kernel, dims) -> None:
    """Refuse tokens of other sizes than those of a state, and none at all."""
    shapes = {
        "query": (query, (dims.num_heads, dims.head_dim)),
        "key": (key, (dims.num_key_value_heads, dims.head_dim)),
        "value": (value, (dims.num_key_value_heads, dims.value_dim)),
    }
    for name, (array, sizes) in shapes.items():
        if array.ndim != 4 or array.shape[0] != dims.batch or array.shape[2:] != sizes:
            raise ValueError(
                f"{name} has shape {array.shape}: the state of {kernel!r} was started for [batch, tokens, heads, "
                f"head_dim] = [{dims.batch}, tokens, {sizes[0]}, {sizes[1]}]; call `attnzoo.start` with these sizes"
            )
    if query.shape[1] != key.shape[1]:
        raise ValueError(
            f"query and key have {query.shape[1]} and {key.shape[1]} tokens: expected as many; a step takes the "
            "queries, keys and values of the same new tokens"
        )
    if query.shape[1] == 0:
        raise ValueError(
            f"query has shape {query.shape}: expected at least one token; for examples that have none beside others "
            "that do, pass `query_seq_lengths`"
        )


def room(positions, count: int, lengths, longest: int) -> None:
    """Refuse tokens that would go past the end of a state, where that is known."""
    if lengths is None and count > longest:
        raise ValueError(
            f"query has {count} tokens, and the state room for max_length={longest}: start one with a larger "
            "max_length, or pass `query_seq_lengths` if the last tokens are padding"
        )
    if is_traced(positions, lengths):
        return
    reached = np.asarray(positions) + (count if lengths is None else np.asarray(lengths))
    if reached.max() > longest:
        example = int(reached.argmax())
        position, end = int(positions[example]), int(reached[example])
        raise ValueError(
            f"example {example} stands at position {position}, and {end - position} more tokens would reach {end}: the "
            f"state ends at max_length={longest}; start one with a larger max_length"
        )


def same_cache(after, before, kernel: Kernel) -> None:
    """Refuse a cache that a kernel returns with other shapes or dtypes than it was given."""
    given, returned = (jax.tree.map(lambda x: jax.typeof(x).str_short(), tree) for tree in (before, after))
    if given != returned:
        raise ValueError(f"{kernel!r} was given a cache of {given} and returned {returned}: expected the same")
