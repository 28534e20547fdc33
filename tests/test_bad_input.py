"""Bad input gets an error of its own, which names the argument, what came, and what was expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
from attnzoo import (
    Additive,
    BigBird,
    Linear,
    Linformer,
    Local,
    NadarayaWatson,
    Nystrom,
    Performer,
    Reformer,
    Sinkhorn,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    Synthesizer,
    attend,
    parse,
)

Q, K = jnp.ones((2, 8, 4, 16)), jnp.ones((2, 8, 2, 16))
RNG = jax.random.key(0)


def exported(shape):
    query = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    return jax.export.export(jax.jit(lambda x: attend(x, x, x)))(query)


CALLS = {
    "integer query": (lambda: attend(Q.astype(int), K, K), "query has dtype int32: expected a floating-point"),
    "integer value": (lambda: attend(Q, K, K.astype(int)), "value has dtype int32"),
    "complex": (lambda: attend(Q.astype(complex), K, K), "query has dtype complex64"),
    "mixed dtypes": (lambda: attend(Q, K.astype(jnp.bfloat16), K), "dtypes float32, bfloat16, float32: expected one"),
    "rank 2": (lambda: attend(Q[0, 0], K, K), r"query has shape \(4, 16\): expected \[batch, length, heads"),
    "rank 5": (lambda: attend(Q[None], K, K), "have 5, 4 and 4 axes: expected as many batch axes on all three"),
    "batch axes": (lambda: attend(Q[None], K[:, None], K[:, None]), "batch sizes 1 x 2, 2 x 1 and 2 x 1: expected one"),
    "mask batch": (
        lambda: attend(Q[None], K[None], K[None], mask=jnp.ones((3, 1, 8, 8), bool)),
        r"mask has shape \(3, 1, 8, 8\): expected one that broadcasts to \[1, 2, 1, 8, 8\]",
    ),
    "lengths batch": (
        lambda: attend(Q[None], K[None], K[None], key_value_seq_lengths=jnp.array([1, 2, 3])),
        r"key_value_seq_lengths has shape \(3,\): expected one that broadcasts to \[1, 2\]",
    ),
    "symbolic length": (
        lambda: exported("b, t, 4, 16"),
        r"query has shape \(b, t, 4, 16\), with a symbolic t: .* export a program for each length",
    ),
    "symbolic heads": (
        lambda: exported("b, 8, n, h"),
        "with a symbolic n and h: expected a length, heads and head_dim",
    ),
    "one without batch": (lambda: attend(Q, K[0], K), "have 4, 3 and 4 axes: expected as many batch axes"),
    "batch": (lambda: attend(Q, K[:1], K[:1]), "batch sizes 2, 1 and 1: expected one"),
    "key length": (lambda: attend(Q, K[:, :5], K), "key and value have lengths 5 and 8"),
    "key heads": (lambda: attend(Q, K, K[:, :, :1]), "key and value have 2 and 1 heads"),
    "head dim": (lambda: attend(Q, K[..., :8], K), "query and key have head dims 16 and 8"),
    "groups": (lambda: attend(Q[:, :, :3], K, K), "query has 3 heads, key 2: the heads of query must be a multiple"),
    "no heads": (lambda: attend(Q[:, :, :0], K, K), "heads and head_dim must not be empty"),
    "float mask": (lambda: attend(Q, K, K, mask=jnp.ones((8, 8))), "mask has dtype float32: expected bool"),
    "mask shape": (lambda: attend(Q, K, K, mask=jnp.ones((7, 8), bool)), r"mask has shape \(7, 8\): expected one that"),
    "mask rank": (lambda: attend(Q, K, K, mask=jnp.ones((1, 1, 1, 8, 8), bool)), "mask has shape"),
    "bool bias": (lambda: attend(Q, K, K, jnp.ones((8, 8), bool)), "bias has dtype bool: .* pass it as `mask`"),
    "integer bias": (lambda: attend(Q, K, K, jnp.ones((8, 8), int)), "bias has dtype int32"),
    "bias shape": (lambda: attend(Q, K, K, jnp.ones((3, 8, 8))), r"bias has shape \(3, 8, 8\)"),
    "float lengths": (
        lambda: attend(Q, K, K, key_value_seq_lengths=jnp.ones(2)),
        "key_value_seq_lengths has dtype float",
    ),
    "lengths shape": (
        lambda: attend(Q, K, K, query_seq_lengths=jnp.ones(3, int)),
        r"shape \(3,\): expected one length",
    ),
    "lengths too long": (lambda: attend(Q, K, K, key_value_seq_lengths=jnp.array([1, 9])), r"from 1 to 9: .* 0\.\.8"),
    "lengths negative": (lambda: attend(Q, K, K, query_seq_lengths=jnp.array([-1, 3])), "ranges from -1 to 3"),
    "float key_mask": (lambda: attend(Q, K, K, key_mask=jnp.ones((2, 8))), "key_mask has dtype float32"),
    "key_mask shape": (lambda: attend(Q, K, K, key_mask=jnp.ones((2, 9), bool)), r"key_mask has shape \(2, 9\)"),
    "segments alone": (
        lambda: attend(Q, K, K, query_segment_ids=jnp.ones((2, 8), int)),
        "came without key_value_segment",
    ),
    "segments shape": (
        lambda: attend(Q, K, K, query_segment_ids=jnp.ones((2, 7), int), key_value_segment_ids=jnp.ones((2, 8), int)),
        r"query_segment_ids has shape \(2, 7\)",
    ),
    "segments dtype": (
        lambda: attend(Q, K, K, query_segment_ids=jnp.ones((2, 8)), key_value_segment_ids=jnp.ones((2, 8))),
        "query_segment_ids has dtype float32",
    ),
    "negative window": (
        lambda: attend(Q, K, K, local_window_size=-1),
        "local_window_size=-1: expected an integer >= 0",
    ),
    "window of three": (lambda: attend(Q, K, K, local_window_size=(1, 2, 3)), r"local_window_size=\(1, 2, 3\)"),
    "float window": (lambda: attend(Q, K, K, local_window_size=1.5), "local_window_size=1.5"),
    "NaN scale": (lambda: attend(Q, K, K, scale=float("nan")), "scale=nan: expected one finite number"),
    "array scale": (lambda: attend(Q, K, K, scale=jnp.ones(4)), "expected one finite number"),
    "soft cap of 0": (lambda: attend(Q, K, K, soft_cap=0.0), "soft_cap=0.0: expected one finite number > 0"),
    "sinks of whole numbers": (lambda: attend(Q, K, K, sinks=jnp.ones(4, int)), "sinks has dtype int32 and shape"),
    "sinks for other heads": (lambda: attend(Q, K, K, sinks=jnp.ones(3)), r"expected floats \[4\], one for each head"),
    "infinite sinks": (lambda: attend(Q, K, K, sinks=jnp.full(4, jnp.inf)), "expected finite numbers, or None"),
    "global tokens of floats": (
        lambda: attend(Q, K, K, kernel=SlidingWindow(), global_tokens=jnp.ones((2, 1))),
        "global_tokens has dtype float32: expected positions",
    ),
    "global tokens beyond": (
        lambda: attend(Q, K, K, kernel=SlidingWindow(), global_tokens=np.array([[3], [8]])),
        r"global_tokens ranges from 3 to 8: expected positions within 0..7",
    ),
    "a mask of global tokens of another length": (
        lambda: attend(Q, K, K, kernel=SlidingWindow(), global_tokens=np.ones((2, 7), bool)),
        r"global_tokens has dtype bool and shape \(2, 7\)",
    ),
    "a traced mask of global tokens": (
        lambda: jax.jit(lambda x: attend(Q, K, K, kernel=SlidingWindow(), global_tokens=x))(jnp.ones((2, 8), bool)),
        "global_tokens is a traced mask, .*: pass positions",
    ),
    "infinite soft cap": (lambda: attend(Q, K, K, soft_cap=float("inf")), "soft_cap=inf"),
    "text scale": (lambda: attend(Q, K, K, scale="big"), "scale='big'"),
    "dropout of one": (lambda: attend(Q, K, K, dropout_rate=1.0, rng=RNG), r"dropout_rate=1.0: .* in \[0, 1\)"),
    "dropout without rng": (lambda: attend(Q, K, K, dropout_rate=0.1), "dropout_rate=0.1 came without rng"),
    "traced dropout": (
        lambda: jax.jit(lambda p: attend(Q, K, K, dropout_rate=p, rng=RNG))(0.1),
        "expected a Python number",
    ),
    "rng": (lambda: attend(Q, K, K, dropout_rate=0.1, rng=jnp.ones(3)), "rng has dtype float32"),
    "is_causal": (lambda: attend(Q, K, K, is_causal=1), "is_causal=1: expected True or False"),
    "return_residual": (lambda: attend(Q, K, K, return_residual="yes"), "return_residual='yes'"),
    "query_offset too far": (lambda: attend(Q, K, K, query_offset=2**31), "query_offset=2147483648: expected at most"),
    "landmarks too many": (lambda: Nystrom(landmarks=2**40), "landmarks must be an integer >= 1 and <= 2147483647"),
    "orthogonal": (
        lambda: Performer(orthogonal="no"),
        r"Performer\(orthogonal='no'\): orthogonal must be True or False",
    ),
    "query_offset": (
        lambda: attend(Q, K, K, query_offset=2.5),
        "query_offset=2.5: expected a whole number, or one for",
    ),
    "query_offset of floats": (
        lambda: attend(Q, K, K, query_offset=jnp.array(3.0)),
        "query_offset=.*: expected a whole",
    ),
    "query_offsets": (
        lambda: attend(Q, K, K, query_offset=jnp.arange(7)),
        r"query_offset has shape \(7,\): expected a whole",
    ),
    "far array": (
        lambda: attend(Q, K, K, query_offset=np.int64([2**40] * len(Q))),
        "query_offset=.*: expected at most",
    ),
    "precision": (lambda: attend(Q, K, K, precision="exact"), "precision='exact': expected None, a jax.lax.Precision"),
    "implementation": (lambda: attend(Q, K, K, implementation="flash"), "implementation='flash': expected None"),
    "kernel class": (lambda: attend(Q, K, K, kernel=Linear), r"kernel=Linear is a class: .* such as Linear\(\)"),
    "kernel text": (lambda: attend(Q, K, K, kernel="linear"), "kernel='linear' is a string: .* attnzoo.parse"),
    "kernel none": (lambda: attend(Q, K, K, kernel=None), "kernel=None: expected an instance"),
    "kernel of an adapter": (lambda: attnzoo.as_attention_fn(Local), r"kernel=Local is a class: .* such as Local\(\)"),
    "kernel that costs": (
        lambda: attnzoo.cost_of("local", attnzoo.Dims.of(Q, K, K)),
        "kernel='local' is a string: expected an instance",
    ),
    "no params": (lambda: attend(Q, K, K, kernel=Additive()), "params has structure .* make it with `kernel.init"),
    "params of another": (lambda: attend(Q, K, K, params={"a": Q}), r"params has structure .*: Softmax\(\) expects"),
    "params of two heads": (
        lambda: attend(Q, K, K, kernel=Additive(), params=Additive().init(RNG, attnzoo.Dims(2, 8, 8, 2, 2, 16, 16))),
        "params has a leaf of shape .*: expected a leading axis of 4",
    ),
    "draws": (lambda: attend(Q, K, K, kernel=Performer(8), draws=()), "draws has structure .* `kernel.draw"),
    "too long": (
        lambda: attend(
            Q, K, K, kernel=Linformer(2), params=Linformer(2).init(RNG, attnzoo.Dims(2, 4, 4, 4, 2, 16, 16))
        ),
        "at most 4 keys, key has 8",
    ),
    "too many blocks": (
        lambda: attend(Q, K, K, kernel=Sinkhorn(2), params=jnp.ones((1, 3, 16))),
        "at most 3 blocks of 2 keys, key has 4: initialise it",
    ),
    "too long a query": (
        lambda: attend(
            Q,
            K[:, :4],
            K[:, :4],
            kernel=Synthesizer("random"),
            params=Synthesizer("random").init(RNG, attnzoo.Dims(2, 4, 4, 4, 2, 16, 16)),
        ),
        "query of at most 4 tokens, query has 8: initialise it",
    ),
    "summary": (
        lambda: SparseTransformer(block_size=4, summary=5),
        r"SparseTransformer\(block_size=4, summary=5\): .* at most block_size",
    ),
    "layout": (lambda: Local(layout="dense"), "layout must be one of contiguous, strided"),
    "odd buckets": (lambda: Reformer(buckets=7), r"Reformer\(buckets=7\): .* must be even; use 8"),
    "temperature": (lambda: Sinkhorn(temperature=0), "temperature must be a finite number > 0"),
    "form": (lambda: Synthesizer(form="sparse"), "form must be one of dense, random"),
    "negative left": (lambda: SlidingWindow(left=-1), r"SlidingWindow\(left=-1\): left must be an integer >= 0"),
    "no dilation": (lambda: SlidingWindow(dilation=0), "dilation must be an integer >= 1"),
    "even window": (lambda: BigBird(num_window=2), "must be odd; use 1 or 3"),
    "bandwidth": (lambda: NadarayaWatson(bandwidth=0), "bandwidth must be a finite number > 0"),
    "units": (lambda: Additive(units=0), "units must be an integer >= 1"),
    "feature map": (lambda: Linear("exp"), r"feature_map must be one of elu\+1, relu"),
    "share": (lambda: Linformer(share="layers"), "share must be one of none, kv, heads"),
    "landmarks": (lambda: Nystrom(landmarks=2.5), "landmarks must be an integer >= 1"),
    "unknown kernel": (lambda: parse("perfomer"), "unknown kernel 'perfomer', did you mean 'performer'"),
    "unknown field": (
        lambda: parse("performer(feature=3)"),
        "Performer has no field 'feature', did you mean 'features'",
    ),
    "field of none": (lambda: parse("softmax(scale=1)"), "Softmax has no field 'scale': it has none"),
    "positional": (lambda: parse("performer(64)"), "expected fields by name, such as `Performer"),
    "field twice": (lambda: parse("sliding_window(left=1, left=2)"), "gives a field twice|repeated"),
    "empty item": (lambda: parse("softmax,,linear"), "is no list of kernels"),
    "last comma": (lambda: parse("softmax,"), "ends with an empty item"),
    "nothing": (lambda: parse(" "), "names no kernel"),
    "expression": (lambda: parse("nystrom(landmarks=__import__('os').getpid())"), "expected a number, a string"),
    "not a call": (lambda: parse("[1]"), "unknown kernel|cannot import"),
    "no module": (lambda: parse("nowhere.at.All"), "cannot import kernel 'nowhere.at.All'"),
    "no kernel": (lambda: parse("os.path.join"), "expected a subclass of attnzoo.Kernel"),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_input(name):
    call, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_messages_differ():
    messages = set()
    for call, _ in CALLS.values():
        with pytest.raises(ValueError) as caught:
            call()
        messages.add(str(caught.value))
    assert len(messages) == len(CALLS)


REFUSALS = {
    "is_causal": (Nystrom(4), {"is_causal": True}, "means over the whole sequence", "softmax"),
    "mask": (Linear(), {"mask": jnp.eye(8, dtype=bool)}, "summed before any query", "bigbird"),
    "local_window_size": (Performer(8), {"local_window_size": 2}, "summed before any query", "softmax"),
    "bias": (Linear(), {"bias": jnp.zeros((8, 8))}, "summed before any query", "additive"),
    "scale": (Linear(), {"scale": 1.0}, "feature map's", "performer"),
    "global_tokens": (Softmax(), {"global_tokens": jnp.zeros((2, 1), int)}, "no pattern", "sliding_window"),
    "soft_cap": (Nystrom(4), {"soft_cap": 1.0}, "means over the whole sequence", "bigbird"),
    "dropout_rate": (Performer(8), {"dropout_rate": 0.1, "rng": RNG}, "summed before", "sliding_window"),
    "return_residual": (Performer(8), {"return_residual": True}, "summed before", "softmax"),
    "query_segment_ids": (
        Nystrom(4),
        {"query_segment_ids": jnp.zeros((2, 8), int), "key_value_segment_ids": jnp.zeros((2, 8), int)},
        "means over",
        "linear",
    ),
}


@pytest.mark.parametrize("argument", REFUSALS)
def test_refusals_name_kernel_argument_reason_and_others(argument):
    kernel, arguments, reason, other = REFUSALS[argument]
    with pytest.raises(NotImplementedError) as caught:
        attend(Q, K, K, kernel=kernel, **arguments)
    for part in (type(kernel).__name__, f"`{argument}`", reason, other):
        assert part in str(caught.value)


def test_a_sort_refuses_causality_and_says_why():
    with pytest.raises(
        NotImplementedError, match=r"Reformer cannot honour `is_causal`: .*a sort of the whole sequence"
    ):
        attend(Q, K, K, kernel=Reformer(4), is_causal=True)


def test_cross_attention_is_refused_where_it_cannot_be():
    with pytest.raises(NotImplementedError, match="BigBird cannot honour `key of another length than query`"):
        attend(Q[:, :5], K, K, kernel=BigBird(4))


def test_swapped_axes_warn():
    swapped = jnp.ones((2, 4, 128, 16))
    with pytest.warns(UserWarning, match="more heads .128. than tokens .4.*swap axes 1 and 2"):
        attend(swapped, swapped, swapped)


def test_kernels_that_cannot_be_hashed_are_refused():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Listed(attnzoo.Kernel):
        table: list = dataclasses.field(default_factory=list)

    with pytest.raises(ValueError, match="cannot be hashed"):
        attend(Q, K, K, kernel=Listed())


def test_numpy_and_lists_are_welcome():
    q, k = np.ones((2, 8, 4, 16), np.float32), np.ones((2, 8, 2, 16), np.float32)
    out = attend(q, k, k, key_value_seq_lengths=[3, 8], mask=np.tri(8, dtype=bool))
    assert out.shape == q.shape
    assert attend(q[0], k[0], k[0], key_value_seq_lengths=3, key_mask=np.ones(8, bool)).shape == q.shape[1:]
