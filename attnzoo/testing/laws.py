"""What every kernel obeys in its values and gradients."""

from __future__ import annotations

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo import door
from attnzoo.testing.subject import LENGTH, Operands, Subject


def _arguments(subject: Subject) -> dict:
    """Everything at once that the kernel supports."""
    s = subject.supports
    chosen = {"query_seq_lengths": jnp.array([LENGTH, LENGTH - 4])}
    if s.causal:
        chosen["is_causal"] = True
    if s.key_mask:
        chosen |= {"key_value_seq_lengths": jnp.array([LENGTH - 9, LENGTH])}
    if s.segments:
        ids = jnp.arange(LENGTH)[None] // jnp.array([[11], [17]])
        chosen |= {"query_segment_ids": ids, "key_value_segment_ids": ids}
    if s.scale:
        chosen["scale"] = 0.7
    if s.mask:
        chosen["mask"] = jax.random.bernoulli(jax.random.key(2), 0.8, (2, 1, LENGTH, LENGTH))
    if s.bias:
        chosen["bias"] = jax.random.normal(jax.random.key(3), (1, 4, LENGTH, LENGTH))
    return chosen


def shape_and_dtype_are_kept(subject: Subject) -> None:
    """Outputs have the shape and dtype of the query, and are finite in low precision."""
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        operands = subject.operands(dtype=dtype)
        out = subject.attend(operands)
        if out.shape != operands.q.shape or out.dtype != dtype:
            raise subject.broken(f"output is {out.dtype}{out.shape} for a query of {dtype.__name__}{operands.q.shape}")
        if not np.isfinite(np.asarray(out, np.float32)).all():
            raise subject.broken(f"output in {dtype.__name__} is not finite")


def low_precision_loses_little(subject: Subject) -> None:
    """In bfloat16 the fast route errs at most twice as much as the equation in bfloat16."""
    operands = subject.operands(dtype=jnp.bfloat16)
    exact = subject.attend(Operands(*(x.astype(jnp.float32) for x in operands)), implementation="reference")
    plain = subject.attend(operands, implementation="reference")
    ours = subject.attend(operands)
    error, allowed = (float(jnp.abs(x.astype(jnp.float32) - exact).max()) for x in (ours, plain))
    if error > 2 * allowed + 1e-2:
        raise subject.broken(f"in bfloat16 it is off by {error:.3g}, its equation by {allowed:.3g}", error)


def transformations_change_nothing(subject: Subject) -> None:
    """jit, remat and vmap give what the bare call gives."""
    operands = subject.operands()
    params = subject.params(operands)
    expected = subject.attend(operands, params)
    call = lambda operands: subject.attend(operands, params)
    subject.same(jax.jit(call)(operands), expected, "output under jit", 1e-5)
    subject.same(jax.checkpoint(call)(operands), expected, "output under remat", 1e-5)
    subject.same(jax.vmap(call)(operands), expected, "output under vmap", 1e-5)


def batched_equals_head(subject: Subject) -> None:
    """The fast route equals the equation: values, and gradients by everything, with and without masks."""
    operands = subject.operands()
    params, arguments = subject.params(operands), _arguments(subject)
    outs = [subject.attend(operands, params, implementation=name, **arguments) for name in ("xla", "reference")]
    subject.same(*outs, "output of `batched` beside that of `head`", 2e-5)
    bias = arguments.pop("bias", None)
    for name, added, extra in (("with", bias, arguments), ("without", None, {})):
        grads = [_all_gradients(subject, operands, params, added, extra, route) for route in ("xla", "reference")]
        for part, got, expected in zip(("q, k, v", "params", "bias"), *grads, strict=True):
            subject.same(got, expected, f"gradient by {part} {name} masks, `batched` beside `head`", 2e-4)


def _all_gradients(subject, operands, params, bias, arguments, route):
    """Gradients by operands, parameters, and the bias where there is one."""

    def loss(operands, params, bias):
        given = {} if bias is None else {"bias": bias}
        return jnp.sum(jnp.sin(2 * subject.attend(operands, params, implementation=route, **arguments, **given)))

    if bias is None:
        return *jax.grad(loss, (0, 1))(operands, params, None), ()
    return jax.grad(loss, (0, 1, 2))(operands, params, bias)


def equal_kernels_never_retrace(subject: Subject) -> None:
    """A kernel with equal fields is equal, and costs no second compilation."""
    operands = subject.operands()
    subject.attend(operands)
    before = door._attend._cache_size()
    twin = dataclasses.replace(subject, kernel=dataclasses.replace(copy.copy(subject.kernel)))
    if twin.kernel != subject.kernel:
        raise subject.broken("a copy with equal fields is not equal: it must be a frozen dataclass with eq")
    twin.attend(operands)
    if door._attend._cache_size() != before:
        raise subject.broken("an equal kernel was traced again: its hash or its equality is not that of its fields")


def the_future_cannot_touch_the_past(subject: Subject) -> None:
    """Causal outputs do not move by a bit when later tokens do, at any offset."""
    if not subject.supports.causal:
        return subject.refuses("is_causal", is_causal=True)
    q, k, v = subject.operands()
    moved = Operands(q.at[:, 20:].mul(-2.0), k.at[:, 20:].mul(9.0), v.at[:, 20:].add(1.0))
    outs = [subject.attend(operands, is_causal=True)[:, :20] for operands in (Operands(q, k, v), moved)]
    subject.same(*outs, "output before a change of later tokens, beside that after it")
    for offset, last in ((-3, 23), (3, 17)):
        shifted = [
            subject.attend(Operands(q, *keys), is_causal=True, query_offset=offset)[:, :last]
            for keys in ((k, v), (moved.k, moved.v))
        ]
        subject.same(*shifted, f"output at query_offset={offset} before a change of later keys, beside that after it")
    return None


def hidden_keys_touch_nothing(subject: Subject) -> None:
    """What stands in hidden keys, NaN and infinity included, changes neither outputs nor gradients."""
    operands = subject.operands()
    lengths = jnp.array([23, LENGTH])
    if not subject.supports.key_mask:
        return subject.refuses("key_value_seq_lengths", key_value_seq_lengths=lengths)
    hidden = (jnp.arange(LENGTH) >= lengths[:, None])[..., None, None]
    params = subject.params(operands)
    for garbage in (7.0, jnp.nan, jnp.inf):
        dirty = Operands(operands.q, *(jnp.where(hidden, garbage, x) for x in operands[1:]))
        outs = [subject.attend(x, params, key_value_seq_lengths=lengths) for x in (operands, dirty)]
        subject.same(*outs, f"output with {garbage} in hidden keys")
    grads = subject.gradients(dirty, params, key_value_seq_lengths=lengths)[0]
    subject.zero([jnp.where(hidden, x, 0) for x in grads[1:]], "gradient of hidden keys and values")
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(grads)):
        raise subject.broken("gradients are not finite where hidden keys hold infinity")
    mask = jnp.arange(LENGTH)[None] % 5 != jnp.array([[1], [2]])
    dirty = Operands(operands.q, *(jnp.where(mask[..., None, None], x, 50.0) for x in operands[1:]))
    outs = [subject.attend(x, params, key_mask=mask) for x in (operands, dirty)]
    subject.same(*outs, "output with other hidden keys under key_mask")
    return None


def padding_changes_nothing(subject: Subject) -> None:
    """A padded example gives what the bare one gives."""
    operands = subject.operands(batch=1)
    lengths = jnp.array([23])
    if not subject.supports.key_mask:
        return subject.refuses("key_value_seq_lengths", key_value_seq_lengths=jnp.array([23, 23]))
    params = subject.params(operands)
    short = subject.attend(Operands(*(x[:, :23] for x in operands)), params)
    padded = subject.attend(operands, params, query_seq_lengths=lengths, key_value_seq_lengths=lengths)
    subject.same(padded[:, :23], short, "output of a padded example beside the bare one", 2e-5)
    subject.zero(padded[:, 23:], "output of padding")
    return None


def batch_mates_cannot_touch_each_other(subject: Subject) -> None:
    """An example does not move by a bit when another one does."""
    q, k, v = subject.operands()
    moved = Operands(*(x.at[1].mul(30.0) for x in (q, k, v)))
    subject.same(*[subject.attend(x)[0] for x in (Operands(q, k, v), moved)], "output of a changed example's mate")


def packed_neighbours_cannot_touch_each_other(subject: Subject) -> None:
    """A segment does not move by a bit when another one does."""
    operands = subject.operands()
    ids = jnp.broadcast_to((jnp.arange(LENGTH) >= 21).astype(int), (2, LENGTH))
    segments = {"query_segment_ids": ids, "key_value_segment_ids": ids}
    if not subject.supports.segments:
        return subject.refuses("query_segment_ids", **segments)
    moved = Operands(*(x.at[:, 21:].mul(5.0) for x in operands))
    outs = [subject.attend(x, **segments)[:, :21] for x in (operands, moved)]
    subject.same(*outs, "output of a changed segment's neighbour")
    moved = Operands(*(x.at[:, :21].mul(5.0) for x in operands))
    outs = [subject.attend(x, **segments)[:, 21:] for x in (operands, moved)]
    subject.same(*outs, "output of the neighbour that follows")
    if jnp.array_equal(subject.attend(operands, **segments), subject.attend(operands)):
        raise subject.broken("segments change nothing")
    return None


def blind_queries_give_nothing(subject: Subject) -> None:
    """A query that sees nothing gives exactly 0, with zero gradients."""
    operands = subject.operands()
    if subject.supports.key_mask:
        _blind(subject, operands, jnp.array([True, False]), key_value_seq_lengths=jnp.array([0, LENGTH]))
    if subject.supports.causal:
        out = subject.attend(operands, is_causal=True, query_offset=-3)
        subject.zero(out[:, :3], "output of queries before the first key")
        grads = subject.gradients(operands, is_causal=True, query_offset=-3)[0]
        subject.zero(grads.q[:, :3], "gradient of queries before the first key")
    queries = jnp.array([0, LENGTH])
    _blind(subject, operands, jnp.array([True, False]), query_seq_lengths=queries)


def _blind(subject, operands, blind, **arguments):
    blind = blind[:, None, None, None]
    subject.zero(jnp.where(blind, subject.attend(operands, **arguments), 0), "output of queries that see nothing")
    grads = subject.gradients(operands, **arguments)
    subject.zero([jnp.where(blind, x, 0) for x in grads[0]], "gradient of examples whose queries see nothing")
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(grads)):
        raise subject.broken("gradients are not finite beside queries that see nothing")


def empty_axes_and_single_tokens_work(subject: Subject) -> None:
    """No batch, no queries, no keys, or one of each."""
    for length, keys, batch in ((0, 0, 2), (1, 1, 2), (3, 3, 0), (5, 0, 2), (0, 5, 2)):
        if length != keys and not subject.supports.cross:
            continue
        operands = subject.operands(length=length, keys=keys, batch=batch)
        out = subject.attend(operands, subject.params(operands, longest=5))
        if out.shape != operands.q.shape or not np.isfinite(out).all():
            raise subject.broken(f"B={batch}, T={length}, S={keys} gives {out.shape}")
        if keys == 0:
            subject.zero(out, "output without keys")


def any_length_works(subject: Subject) -> None:
    """Lengths that no block divides."""
    for length in (2, 13, 64):
        operands = subject.operands(length=length, batch=1)
        params = subject.params(operands)
        outs = [subject.attend(operands, params, implementation=name) for name in ("xla", "reference")]
        subject.same(*outs, f"output at length {length}, `batched` beside `head`", 2e-5)


def keys_of_another_length(subject: Subject) -> None:
    """Cross-attention, or its refusal."""
    operands = subject.operands(length=11, keys=LENGTH)
    if not subject.supports.cross:
        return subject.refuses("key of another length", operands=operands)
    params = subject.params(operands)
    outs = [subject.attend(operands, params, implementation=name) for name in ("xla", "reference")]
    subject.same(*outs, "output of cross-attention, `batched` beside `head`", 2e-5)
    return None


def shared_key_heads_equal_repeated_ones(subject: Subject) -> None:
    """GQA gives what repeated heads of keys give."""
    q, k, v = subject.operands()
    params = subject.params(Operands(q, k, v))
    repeated = Operands(q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2))
    outs = [subject.attend(x, params) for x in (Operands(q, k, v), repeated)]
    subject.same(*outs, "output of GQA beside that of repeated heads", 1e-5)


def masks_hide(subject: Subject) -> None:
    """Weights are exactly 0 where a dense mask hides; a local window is such a mask."""
    operands = subject.operands()
    mask = jax.random.bernoulli(jax.random.key(5), 0.5, (2, 4, LENGTH, LENGTH))
    if not subject.supports.mask:
        subject.refuses("mask", mask=mask)
        return subject.refuses("local_window_size", local_window_size=3)
    subject.zero(jnp.where(mask, 0, subject.weights(operands, mask=mask)), "weights where the mask hides")
    i, j = jnp.arange(LENGTH)[:, None], jnp.arange(LENGTH)[None, :]
    band = (j >= i - 4) & (j <= i + 1)
    outs = [subject.attend(operands, local_window_size=(4, 1)), subject.attend(operands, mask=band)]
    subject.same(*outs, "output under local_window_size beside that under the same mask", 1e-5)
    return None


def biases_add_to_scores(subject: Subject) -> None:
    """A bias multiplies weights by its exponential, before they are normalised."""
    operands = subject.operands()
    bias = jax.random.normal(jax.random.key(6), (2, 4, LENGTH, LENGTH))
    if not subject.supports.bias:
        return subject.refuses("bias", bias=bias)
    plain, moved = subject.weights(operands), subject.weights(operands, bias=bias)
    expected = plain * jnp.exp(bias)
    total = expected.sum(-1, keepdims=True)
    subject.same(moved, expected / jnp.where(total == 0, 1, total), "weights under a bias", 1e-5)
    row = subject.attend(operands, bias=bias[:1, :1, :1])
    whole = subject.attend(operands, bias=jnp.broadcast_to(bias[:1, :1, :1], bias.shape))
    subject.same(row, whole, "output under a bias of one row", 1e-5)
    return None


def scale_scales(subject: Subject) -> None:
    """`scale` takes the place of 1 / sqrt(head dim)."""
    operands = subject.operands()
    if not subject.supports.scale:
        return subject.refuses("scale", scale=0.3)
    params = subject.params(operands)
    root = (0.3 * 8**0.5) ** 0.5
    scaled = subject.attend(operands._replace(q=operands.q * root, k=operands.k * root), params)
    subject.same(
        subject.attend(operands, params, scale=0.3), scaled, "output at scale=0.3 beside scaled operands", 1e-5
    )
    return None


def residual_is_the_log_of_the_sum(subject: Subject) -> None:
    """The residual is the log-sum-exp of the scores."""
    operands = subject.operands()
    if not subject.supports.residual:
        return subject.refuses("return_residual", return_residual=True)
    out, residual = subject.attend(operands, return_residual=True)
    subject.same(out, subject.attend(operands), "output beside a residual")
    if residual.shape != operands.q.shape[:3] or residual.dtype != jnp.float32:
        raise subject.broken(f"the residual is {residual.dtype}{residual.shape}")
    if subject.supports.bias:
        raised = subject.attend(operands, return_residual=True, bias=jnp.full((1, 1, 1, LENGTH), 2.0))[1]
        subject.same(raised, residual + 2, "residual under a bias of 2", 1e-5)
    return None


def dropout_acts_on_weights(subject: Subject) -> None:
    """A share of the weights is dropped, each head apart, and the same ones in the backward pass."""
    operands, rng = subject.operands(), jax.random.key(9)
    if not subject.supports.dropout:
        return subject.refuses("dropout_rate", dropout_rate=0.4, rng=rng)
    plain, dropped = subject.weights(operands), subject.weights(operands, dropout_rate=0.4, rng=rng)
    kept = dropped != 0
    subject.same(dropped, jnp.where(kept, plain / 0.6, 0), "weights under dropout, scaled by 1 / (1 - rate)", 1e-5)
    share = float((kept & (plain > 0)).sum() / (plain > 0).sum())
    if abs(share - 0.6) > 0.05:
        raise subject.broken(f"dropout at rate 0.4 keeps {share:.3f} of the weights", abs(share - 0.6))
    both = (plain[:1, :1] > 0) & (plain > 0)
    alike = (kept == kept[:1, :1]).sum(where=both, axis=(2, 3)) / jnp.maximum(both.sum(axis=(2, 3)), 1)
    if (alike.reshape(-1)[1:] > 0.9).any():
        raise subject.broken("dropout is one for several heads or examples")
    out = lambda v: subject.attend(operands._replace(v=v), dropout_rate=0.4, rng=rng)
    value, pull = jax.vjp(out, operands.v)
    (grad,) = pull(value)
    heads = dropped.reshape(2, 2, 2, LENGTH, LENGTH)
    expected = jnp.einsum("bkgts,btkgh->bskh", heads, value.reshape(2, LENGTH, 2, 2, -1))
    subject.same(grad, expected, "gradient by values under dropout", 1e-5)
    return None
