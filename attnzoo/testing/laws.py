"""What every kernel obeys in its values and gradients."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.door import attention as door
from attnzoo.testing.subject import GROUPED, LENGTH, LONG, Operands, Subject, brought, changed, curved, known, normal

# How many times the error of plain low precision a vendor's route may have.
ALLOWED = {"output": 2, "gradient by q": 3, "gradient by k": 3, "gradient by v": 3}


WIDE = 64  # as heads mostly are; narrow ones, of which laws are made, are computed in little time

# Positions in any order, one of them twice and one none.
GLOBAL = np.array([[11, 4, 11], [-1, 0, LENGTH - 2]])


def _arguments(subject: Subject, operands: Operands) -> dict:
    """Everything at once that the kernel supports. The first key and the last queries of one example are hidden."""
    s = subject.supports
    length, heads = operands.q.shape[1:3]
    chosen: dict[str, Any] = {"query_seq_lengths": np.array([length, length - 4])}
    if s.causal:
        chosen |= {"is_causal": True, "query_offset": 2}
    if s.key_mask:
        chosen["key_mask"] = np.arange(length)[None] % 5 != np.array([[0], [3]])
    if s.segments:
        ids = np.arange(length)[None] * np.array([[3], [2]]) // length
        chosen |= {"query_segment_ids": ids, "key_value_segment_ids": ids}
    if s.scale:
        chosen["scale"] = 0.7
    if s.soft_cap:
        chosen["soft_cap"] = 1.5
    if s.residual:
        chosen["sinks"] = np.linspace(-1, 1, heads, dtype=np.float32)
    if s.mask:
        chosen["mask"] = np.random.default_rng(2).random((2, 1, length, length)) < 0.8
    if s.bias:
        chosen["bias"] = _scattered(normal(3, (1, heads, length, length)))
    if s.dropout:
        chosen |= {"dropout_rate": 0.3, "rng": jax.random.key(4)}
    if s.global_tokens:
        chosen["global_tokens"] = np.minimum(GLOBAL, length - 1)
    return chosen


def _scattered(bias):
    """A bias as additive masks are: some entries, and the later half of every other row, hide by what is lowest."""
    row, column = np.arange(bias.shape[2])[:, None], np.arange(bias.shape[3])[None, :]
    bias = np.where((row % 2 == 0) & (column > bias.shape[3] // 2), -np.inf, bias)
    bias = np.where((row + column) % 7 == 0, -np.inf, bias)
    return np.where((row + column) % 11 == 0, jnp.finfo(bias.dtype).min, bias)


def shape_and_dtype_are_kept(subject: Subject) -> None:
    """Outputs have the shape of query and value, the dtype of the query, and are finite in low precision."""
    for dtype, value_dim in ((jnp.float32, 5), (jnp.bfloat16, 8), (jnp.float16, 8)):
        operands = subject.operands(dtype=dtype, value_dim=value_dim)
        out = subject.attend(operands)
        expected = (*operands.q.shape[:3], value_dim)
        if out.shape != expected or out.dtype != dtype:
            raise subject.broken(f"output is {out.dtype}{out.shape}, expected {dtype.__name__}{expected}")
        subject.finite(out, f"output in {dtype.__name__} is")


def low_precision_loses_little(subject: Subject) -> None:
    """In low precision the fast route errs at most twice as much as the equation does there, but for one rounding."""
    for dtype in (jnp.bfloat16, jnp.float16):
        operands = subject.operands(**GROUPED, dtype=dtype)
        exact = subject.attend(Operands(*(x.astype(jnp.float32) for x in operands)), implementation="reference")
        routes = (subject.attend(operands, implementation=name) for name in ("xla", "reference"))
        error, plain = (float(np.abs(x.astype(jnp.float32) - exact).max()) for x in routes)
        if not error <= 2 * plain + float(jnp.finfo(dtype).eps * np.abs(exact).max()):
            raise subject.broken(f"in {dtype.__name__} it is off by {error:.3g}, its equation by {plain:.3g}", error)


def vendors_are_right_or_decline(subject: Subject) -> None:
    """A route of a device, where it does not decline with reasons, errs little more than the equation does."""
    forms = _forms(subject)
    padded: dict[str, Any] = {}
    if subject.supports.scale:
        padded["scale"] = 0.2
    if subject.supports.key_mask:
        padded["key_value_seq_lengths"] = jnp.array([0, 201])
    asked: tuple[tuple[Any, bool, dict[str, Any]], ...]
    asked = (jnp.bfloat16, forms[-1], {}), (jnp.float16, forms[0], {}), (jnp.bfloat16, forms[-1], padded)
    for (dtype, is_causal, further), implementation in itertools.product(asked, ("cudnn", "pallas")):
        operands = subject.operands(length=256, dim=64, dtype=dtype)
        params = subject.params(operands)
        given = {"params": params, "is_causal": is_causal, **further}
        try:
            out, gradients = subject.pulled(operands, implementation=implementation, **given)
        except NotImplementedError as refusal:
            if "declines" not in str(refusal) or type(subject.kernel).__name__ not in str(refusal):
                raise subject.broken(f"the refusal of {implementation!r} does not tell why: {refusal}") from None
            continue
        precise = Operands(*(x.astype(jnp.float32) for x in operands))
        plain, exact = (subject.pulled(x, implementation="reference", **given) for x in (operands, precise))
        found = [(out, *gradients.operands) for out, gradients in ((out, gradients), plain, exact)]
        for (name, times), got, rounded, precisely in zip(ALLOWED.items(), *found, strict=True):
            error, allowed = (float(np.abs(x.astype(jnp.float32) - precisely).max()) for x in (got, rounded))
            if not error <= times * allowed + float(jnp.finfo(dtype).eps * np.abs(precisely).max()):
                raise subject.broken(f"{name} by {implementation!r} in {dtype.__name__} is off by {error:.3g}", error)


def transformations_change_nothing(subject: Subject) -> None:
    """jit, remat and vmap give what the bare call gives, gradients included."""
    operands = subject.operands()
    params = subject.params(operands)
    expected, gradients = subject.pulled(operands, params)
    subject.same(subject.attend(operands, params), expected, "output beside that under jit", 1e-5)
    again = subject.pulled(operands, params, remat=True)
    subject.same(again, (expected, gradients), "output or gradient under remat", 1e-5)
    mapped = known(jax.vmap(lambda operands: subject.attend(operands, params))(operands))
    subject.same(mapped, expected, "output under vmap, without a batch axis,", 1e-5)


def forward_mode_equals_the_equation(subject: Subject) -> None:
    """`implementation="forward"` gives the directional derivatives of the equation, with all that it supports."""
    operands = subject.operands(**GROUPED)
    params = subject.params(operands)
    arguments = _arguments(subject, operands)
    bias = arguments.pop("bias", None)
    points = [operands, params, None if bias is None else np.where(np.abs(bias) < 100, bias, 0)]
    moves = jax.tree.map(lambda x: normal(x.size, x.shape, x.dtype), points)

    def pushed(name):
        def call(operands, params, bias):
            given = {} if bias is None else {"bias": bias}
            return subject.attend(operands, params, implementation=name, **arguments, **given)

        return known(jax.jit(lambda points, moves: jax.jvp(call, points, moves))(points, moves))

    (out, slope), (expected, plain) = pushed("forward"), pushed("reference")
    subject.same(out, expected, "output by 'forward'", 2e-5)
    subject.same(slope, plain, "directional derivative by 'forward'", 2e-4)


def every_operand_counts(subject: Subject) -> None:
    """The output moves with queries, keys and values, but for those that `supports.ignores` names."""
    operands = subject.operands()
    params = subject.params(operands)
    out = subject.attend(operands, params)
    for field, name in zip(Operands._fields, ("query", "key", "value"), strict=True):
        moved = operands._replace(**{field: 1.5 * getattr(operands, field) - 0.5})
        feels = not np.array_equal(subject.attend(moved, params), out)
        if feels == (name in subject.supports.ignores):
            raise subject.broken(f"the output {'moves' if feels else 'does not move'} with {name}")
    for name, given in brought(subject.kernel, operands).get("tokens", {}).items():
        tokens = brought(subject.kernel, operands)["tokens"] | {name: 0.5 * given}
        if np.array_equal(subject.attend(operands, params, tokens=tokens), out):
            raise subject.broken(f"the output does not move with tokens[{name!r}]")


def batched_equals_head(subject: Subject) -> None:
    """The fast route equals the equation: values, and gradients by everything, bare and with all that it supports."""
    _routes_agree(subject, subject.operands(**GROUPED), _forms(subject))
    wide = subject.operands(dim=WIDE)
    out, expected = (subject.attend(wide, implementation=x, **_arguments(subject, wide)) for x in ("xla", "reference"))
    subject.same(out, expected, f"output of heads of {WIDE} with masks, `batched` beside `head`,", 1e-4)


def long_sequences_work(subject: Subject) -> None:
    """The fast route equals the equation on sequences that it has to cut into tiles, chunks or blocks."""
    _routes_agree(subject, subject.operands(length=LONG, heads=1, dim=2), _forms(subject)[-1:])


def _routes_agree(subject: Subject, operands: Operands, forms: list[bool]) -> None:
    params = subject.params(operands)
    bare = [{"is_causal": form} for form in forms]
    for given, arguments in (*(("without masks", x) for x in bare), ("with masks", _arguments(subject, operands))):
        routes = [subject.pulled(operands, params, implementation=x, **arguments) for x in ("xla", "reference")]
        (out, gradients), (expected, plain) = routes
        case = f"{given}, is_causal={arguments.get('is_causal', False)}, `batched` beside `head`,"
        subject.same(out, expected, f"output {case}", 2e-5)
        for part, got, wanted in zip(("q, k, v", "params", "bias"), gradients, plain, strict=True):
            subject.same(got, wanted, f"gradient by {part} {case}", 2e-4)


def _forms(subject: Subject) -> list[bool]:
    """The values of `is_causal` that the kernel supports."""
    return [form for form in (False, True) if (subject.supports.causal if form else subject.supports.bidirectional)]


def equal_kernels_never_retrace(subject: Subject) -> None:
    """A kernel with equal fields is equal, and costs no second compilation."""
    operands = subject.operands()
    subject.attend(operands)
    programs = lambda: door._attend._cache_size()  # type: ignore[attr-defined]  # jax does not declare it
    before = programs()
    twin = dataclasses.replace(subject, kernel=dataclasses.replace(copy.copy(subject.kernel)))
    if twin.kernel != subject.kernel:
        raise subject.broken("a copy with equal fields is not equal: it must be a frozen dataclass with eq")
    twin.attend(operands)
    if programs() != before:
        raise subject.broken("an equal kernel was traced again: its hash or its equality is not that of its fields")


def the_future_cannot_touch_the_past(subject: Subject) -> None:
    """Causal outputs do not move by a bit when later tokens do, at any offset."""
    if not subject.supports.bidirectional:
        subject.refuses("is_causal=False", is_causal=False)
    if not subject.supports.causal:
        return subject.refuses("is_causal", is_causal=True)
    q, k, v = subject.operands()
    before = subject.pulled(Operands(q, k, v), is_causal=True)[0][:, :20]
    for size in (1e-3, 100.0, 1.0):
        later = np.s_[:, 20:]
        moved = Operands(changed(q, later, 1 - 3 * size), changed(k, later, 1 + 8 * size), changed(v, later, 1, size))
        after = subject.pulled(moved, is_causal=True)[0][:, :20]
        subject.same(before, after, f"output before a change of later tokens by {size}, beside that after it,")
    for offset, last in ((-3, 23), (3, 17)):
        one, other = (
            subject.attend(Operands(q, *keys), is_causal=True, query_offset=offset)[:, :last]
            for keys in ((k, v), (moved.k, moved.v))
        )
        what = f"output at query_offset={offset} before a change of later keys, beside that after it,"
        subject.same(one, other, what)
        if offset < 0:
            subject.zero(one[:, :-offset], "output of queries before the first key")
    wide = subject.operands(dim=WIDE)
    moved = Operands(*(changed(x, later, 3.0) for x in wide))
    one, other = (subject.attend(x, is_causal=True)[:, :20] for x in (wide, moved))
    subject.same(one, other, f"output of heads of {WIDE} before a change of later tokens, beside that after it,")
    return None


def hidden_keys_touch_nothing(subject: Subject) -> None:
    """What stands in hidden keys, NaN and infinity included, changes neither outputs nor gradients."""
    operands = subject.operands()
    lengths = np.array([23, LENGTH])
    if not subject.supports.key_mask:
        subject.refuses("key_mask", key_mask=np.arange(LENGTH) < lengths[:, None])
        return subject.refuses("key_value_seq_lengths", key_value_seq_lengths=lengths)
    hidden = (np.arange(LENGTH) >= lengths[:, None])[..., None, None]
    clean = subject.pulled(operands, key_value_seq_lengths=lengths)
    for garbage in (7.0, np.nan, np.inf):
        dirty = Operands(operands.q, *(np.where(hidden, garbage, x) for x in operands[1:]))
        out, gradients = subject.pulled(dirty, key_value_seq_lengths=lengths)
        subject.same(out, clean[0], f"output with {garbage} in hidden keys")
        subject.same(gradients, clean[1], f"gradient with {garbage} in hidden keys", subject.unordered)
    subject.zero([np.where(hidden, x, 0) for x in clean[1].operands[1:]], "gradient of hidden keys and values")
    mask = np.arange(LENGTH)[None] % 5 != np.array([[1], [2]])
    dirty = Operands(operands.q, *(np.where(mask[..., None, None], x, 50.0) for x in operands[1:]))
    for form in _forms(subject):
        one, other = (subject.attend(x, key_mask=mask, is_causal=form) for x in (operands, dirty))
        subject.same(one, other, f"output with other hidden keys under key_mask, is_causal={form},")
    return None


def hidden_keys_count_for_nothing(subject: Subject) -> None:
    """The last query gives what it gives where hidden keys are not there at all.

    Asked where other keys may change places and it gives the same: hidden keys move what goes by places, as decays and
    windows do.
    """
    operands = subject.operands()
    params = subject.params(operands)
    order = np.random.default_rng(6).permutation(LENGTH - 1)
    kept = np.append(np.sort(order[12:]), LENGTH - 1)
    hidden = np.broadcast_to(~np.isin(np.arange(LENGTH), kept), (2, LENGTH))
    hiding = {}
    if subject.supports.key_mask:
        hiding["key_mask"] = {"key_mask": ~hidden}
    if subject.supports.segments:
        hiding["segments"] = {"query_segment_ids": hidden.astype(int), "key_value_segment_ids": hidden.astype(int)}

    def last(form, places=np.s_[:], **given):
        return subject.attend(Operands(*(x[:, places] for x in operands)), params, is_causal=form, **given)[:, -1]

    for form in _forms(subject) if hiding else ():
        if not np.allclose(last(form), last(form, np.append(order, LENGTH - 1)), rtol=1e-4, atol=1e-4):
            continue
        bare = last(form, kept)
        for name, given in hiding.items():
            what = f"output of the last query beside keys hidden by {name}, and where there are none, is_causal={form},"
            subject.same(last(form, **given), bare, what, 1e-4)


def padding_changes_nothing(subject: Subject) -> None:
    """A padded example gives what the bare one gives."""
    operands = subject.operands(batch=1)
    lengths = np.array([23])
    if not subject.supports.key_mask:
        return subject.refuses("key_value_seq_lengths", key_value_seq_lengths=np.array([23, 23]))
    params, padding = subject.params(operands), {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
    for form, garbage in itertools.product(_forms(subject), (1.0, np.nan)):
        short = subject.attend(Operands(*(x[:, :23] for x in operands)), params, is_causal=form)
        filled = Operands(*(changed(x, np.s_[:, 23:], garbage) for x in operands))
        padded = subject.attend(filled, params, is_causal=form, **padding)
        subject.same(padded[:, :23], short, f"output of a padded example beside the bare one, is_causal={form},", 2e-5)
        subject.zero(padded[:, 23:], "output of padding")
    return None


def batch_mates_cannot_touch_each_other(subject: Subject) -> None:
    """An example does not move by a bit when another one does."""
    operands = subject.operands()
    out = subject.attend(operands)
    for factor, mate in itertools.product((30.0, np.nan), (0, 1)):
        moved = Operands(*(changed(x, 1 - mate, factor) for x in operands))
        subject.same(out[mate], subject.attend(moved)[mate], f"output of the mate of an example times {factor}")


def packed_neighbours_cannot_touch_each_other(subject: Subject) -> None:
    """A segment does not move by a bit when another one does."""
    operands = subject.operands()
    ids = np.broadcast_to((np.arange(LENGTH) >= 21).astype(int), (2, LENGTH))
    segments = {"query_segment_ids": ids, "key_value_segment_ids": ids}
    if not subject.supports.segments:
        return subject.refuses("query_segment_ids", **segments)
    neighbours = ("before", np.s_[:, :21], np.s_[:, 21:]), ("behind", np.s_[:, 21:], np.s_[:, :21])
    for form, (where, kept, changing) in itertools.product(_forms(subject), neighbours):
        moved = Operands(*(changed(x, changing, 5.0) for x in operands))
        one, other = (subject.attend(x, is_causal=form, **segments)[kept] for x in (operands, moved))
        subject.same(one, other, f"output {where} a changed segment, is_causal={form},")
    if np.array_equal(subject.attend(operands, **segments), subject.attend(operands)):
        raise subject.broken("segments change nothing")
    return None


def blind_queries_give_nothing(subject: Subject) -> None:
    """A query that sees nothing gives exactly 0, with zero gradients, whatever hides its keys; all stays finite."""
    nobody, everything = np.zeros((2, LENGTH), bool), _arguments(subject, subject.operands())
    example, token = np.arange(2)[:, None] == nobody, np.arange(LENGTH)[None]
    _blind(subject, example, "padding", everything | {"query_seq_lengths": np.array([0, LENGTH])})
    if subject.supports.key_mask:
        _blind(subject, example, "keys that are all padding", {"key_value_seq_lengths": np.array([0, LENGTH])})
    if subject.supports.key_mask and subject.supports.causal:
        # At an offset of 2, queries 0..3 see keys 0..5 at most.
        hidden = everything | {"key_mask": np.broadcast_to(token > 5, (2, LENGTH))}
        _blind(subject, nobody | (token < 4), "a causal prefix that is all hidden", hidden)
    if subject.supports.segments:
        ids = everything["query_segment_ids"]
        keyless = everything | {"key_value_segment_ids": np.where(ids == 1, 0, ids)}
        _blind(subject, ids == 1, "a segment without keys", keyless)


def _blind(subject, blind, cause, arguments):
    out, gradients = subject.pulled(subject.operands(), **arguments)
    blind = blind[..., None, None]
    cause = f"of queries that see nothing because of {cause}"
    subject.zero(np.where(blind, out, 0), f"output {cause}")
    subject.zero(np.where(blind, gradients.operands.q, 0), f"gradient {cause}")
    subject.finite((out, gradients), "output or gradients beside those " + cause + " are")


def empty_axes_and_single_tokens_work(subject: Subject) -> None:
    """No batch, no queries, no keys, or one of each."""
    for length, keys, batch in ((0, 0, 2), (1, 1, 2), (3, 3, 0), (5, 0, 2), (0, 5, 2), (1, 5, 2)):
        if length != keys and not subject.supports.cross:
            continue
        operands = subject.operands(length=length, keys=keys, batch=batch)
        out = subject.attend(operands, subject.params(operands, longest=5))
        if out.shape != operands.q.shape or not np.isfinite(out).all():
            raise subject.broken(f"B={batch}, T={length}, S={keys} gives {out.shape}")
        if keys == 0:
            subject.zero(out, "output without keys")


def any_length_works(subject: Subject) -> None:
    """Lengths that no block divides, in each form."""
    forms = _forms(subject)
    for length, is_causal in ((2, forms[0]), (64, forms[-1])):
        operands = subject.operands(**GROUPED, length=length, batch=1)
        params = subject.params(operands)
        given = {"params": params, "is_causal": is_causal}
        one, other = (subject.attend(operands, implementation=x, **given) for x in ("xla", "reference"))
        subject.same(one, other, f"output at length {length}, is_causal={is_causal}, `batched` beside `head`,", 2e-5)


def keys_of_another_length(subject: Subject) -> None:
    """Cross-attention, or its refusal."""
    operands = subject.operands(**GROUPED, length=11, keys=LENGTH)
    if not subject.supports.cross:
        return subject.refuses("key of another length", operands=operands)
    params = subject.params(operands)
    one, other = (subject.attend(operands, params, implementation=name) for name in ("xla", "reference"))
    subject.same(one, other, "output of cross-attention, `batched` beside `head`", 2e-5)
    return None


def shared_key_heads_equal_repeated_ones(subject: Subject) -> None:
    """GQA gives what repeated heads of keys give."""
    q, k, v = subject.operands(**GROUPED)
    params = subject.params(Operands(q, k, v))
    repeated = Operands(q, np.repeat(k, 2, axis=2), np.repeat(v, 2, axis=2))
    one, other = (subject.attend(x, params) for x in (Operands(q, k, v), repeated))
    subject.same(one, other, "output of GQA beside that of repeated heads", 1e-5)


def masks_hide(subject: Subject) -> None:
    """Weights are exactly 0 where a dense mask hides; a local window is such a mask."""
    operands = subject.operands()
    mask = np.random.default_rng(5).random((2, 2, LENGTH, LENGTH)) < 0.5
    if not subject.supports.mask:
        subject.refuses("mask", mask=mask)
        return subject.refuses("local_window_size", local_window_size=3)
    subject.zero(np.where(mask, 0, subject.weights(operands, mask=mask)), "weights where the mask hides")
    i, j = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None, :]
    band = np.broadcast_to((j >= i - 4) & (j <= i + 1), mask.shape)
    one, other = (subject.weights(operands, **given) for given in ({"local_window_size": (4, 1)}, {"mask": band}))
    subject.same(one, other, "weights under local_window_size beside those under the same mask", 1e-5)
    return None


def biases_add_to_scores(subject: Subject) -> None:
    """A bias multiplies weights by its exponential, before they are normalised."""
    operands = subject.operands()
    bias = normal(6, (2, 2, LENGTH, LENGTH))
    if not subject.supports.bias:
        return subject.refuses("bias", bias=bias)
    plain, moved = subject.weights(operands), subject.weights(operands, bias=bias)
    expected = plain * np.exp(bias)
    total = expected.sum(-1, keepdims=True)
    subject.same(moved, expected / np.where(total == 0, 1, total), "weights under a bias", 1e-5)
    row = subject.weights(operands, bias=bias[:1, :1, :1])
    whole = subject.weights(operands, bias=np.broadcast_to(bias[:1, :1, :1], bias.shape))
    subject.same(row, whole, "weights under a bias of one row", 1e-5)
    return None


def functions_stand_for_arrays(subject: Subject) -> None:
    """A `mask_mod` hides as an array does, a `score_mod` adds as a bias does, and what it closes over has gradients."""
    operands, s = subject.operands(), subject.supports
    heads = operands.q.shape[2]
    table = normal(7, (heads, 2 * LENGTH))
    near = lambda head, i, j: (abs(i - j) < 4 + head) | (j % 5 == 0)
    scored = lambda table: lambda score, head, i, j: score + table[head, i - j + LENGTH]
    if not s.mask:
        subject.refuses("mask_mod", mask_mod=near)
    if not s.score_mod:
        return subject.refuses("score_mod", score_mod=scored(table))
    head, i, j = np.ogrid[:heads, :LENGTH, :LENGTH]
    params, arrays = subject.params(operands), {"mask": near(head, i, j)[None]} if s.mask else {}
    functions = {"mask_mod": near} if s.mask else {}

    def by_function(table):
        return subject.attend(operands, params, score_mod=scored(table), **functions)

    def by_array(table):
        return subject.attend(operands, params, bias=table[head, i - j + LENGTH][None], **arrays)

    def pulled(call):
        def loss(table):
            out = call(table)
            return curved(out).sum(), out

        return known(jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(table)))

    (slope, out), (expected_slope, expected) = pulled(by_function), pulled(by_array)
    subject.same(out, expected, "output by functions beside that by arrays", 1e-5)
    subject.same(slope, expected_slope, "gradient by what a score_mod closes over, beside that by a bias,", 1e-4)
    return None


def scale_scales(subject: Subject) -> None:
    """`scale` takes the place of 1 / sqrt(head dim): of scores, or of outputs where queries and keys have unit norm."""
    operands = subject.operands()
    if not subject.supports.scale:
        return subject.refuses("scale", scale=0.3)
    params, given = subject.params(operands), brought(subject.kernel, operands)
    plain, named = (subject.attend(operands, params, **given, **x) for x in ({}, {"scale": 8**-0.5}))
    subject.same(named, plain, "output at scale=1 / sqrt(head dim) beside that without a scale", 1e-5)
    for scale in (0.3, 2.5):
        times = scale * 8**0.5
        scaled = operands._replace(q=operands.q * times**0.5, k=operands.k * times**0.5)
        expected = subject.attend(scaled, params, **given)
        if np.allclose(expected, plain, atol=1e-5):
            expected = times * plain
        ours = subject.attend(operands, params, **given, scale=scale)
        subject.same(ours, expected, f"output at scale={scale} beside scaled operands", 1e-5)
    return None


def soft_caps_bound_scores(subject: Subject) -> None:
    """Under a small `soft_cap`, scores hardly differ; a larger one moves larger scores alone; none bounds a bias."""
    operands = subject.operands()
    if not subject.supports.soft_cap:
        return subject.refuses("soft_cap", soft_cap=0.3)
    params = subject.params(operands)
    plain, large = (subject.attend(operands, params, **given) for given in ({}, {"soft_cap": 1e4}))
    subject.same(large, plain, "output under a large soft cap", 1e-4)
    small = subject.attend(operands, params, soft_cap=1e-6)
    alike = subject.attend(operands, params, scale=0.0)
    subject.same(small, alike, "output under a small soft cap beside that of equal scores", 1e-5)
    for cap, scale in ((0.5, 8**-0.5), (30.0, 1e3)):
        bounded, free = (subject.attend(operands, params, scale=scale, **x) for x in ({"soft_cap": cap}, {}))
        if np.array_equal(bounded, free):
            raise subject.broken(f"the output does not move with soft_cap={cap} at scale={scale:.3g}")
    if subject.supports.bias:
        bias = 3 * normal(6, (1, 1, LENGTH, LENGTH))
        one, other = (
            subject.attend(operands, params, bias=bias, **given) for given in ({"soft_cap": 1e-6}, {"scale": 0.0})
        )
        subject.same(one, other, "output under a small soft cap and a bias, beside that of the bias alone", 1e-5)
    return None


def sinks_join_the_sum(subject: Subject) -> None:
    """Outputs are less by the share that e^sink has of the sum of exponentials, and the residual is that of all."""
    operands = subject.operands()
    sinks = np.array([-30.0, -1.0, 0.5, 30.0], np.float32)[: operands.q.shape[2]]
    if not subject.supports.residual:
        return subject.refuses("sinks", sinks=sinks)
    params = subject.params(operands)
    given = {"query_seq_lengths": np.array([LENGTH, LENGTH - 4]), "return_residual": True}
    (plain, lse), (out, both) = (subject.attend(operands, params, **given, **x) for x in ({}, {"sinks": sinks}))
    lse = np.asarray(lse, np.float64)
    sums = np.exp(lse) + np.where(lse > -np.inf, np.exp(sinks.astype(np.float64)), 0)
    share = np.exp(lse) / np.where(sums > 0, sums, 1)
    subject.same(out, (plain * share[..., None]).astype(out.dtype), "output beside sinks", 1e-5)
    some = sums > 0
    subject.same(both[some], np.log(sums[some]).astype(both.dtype), "residual beside sinks", 1e-5)
    return None


def global_tokens_see_and_are_seen(subject: Subject) -> None:
    """What `global_tokens` names sees all that is not hidden otherwise, and is seen by all; nothing else changes."""
    operands = subject.operands()
    if not subject.supports.global_tokens:
        return subject.refuses("global_tokens", global_tokens=GLOBAL)
    place = np.arange(LENGTH)
    named = (GLOBAL[:, :, None] == place).any(axis=1)
    shown = np.arange(LENGTH)[None] != np.array([[2], [4]])
    for is_causal in _forms(subject):
        given = {"is_causal": is_causal, "key_mask": shown}
        plain = subject.weights(operands, **given) > 0
        left = shown[:, None, None] & (place <= place[:, None] if is_causal else True)
        expected = plain | ((named[:, None, :, None] | named[:, None, None]) & left)
        for global_tokens in (GLOBAL, named):
            seen = subject.weights(operands, global_tokens=global_tokens, **given) > 0
            if (seen != expected).any():
                wrong = np.argwhere(seen != expected)[0].tolist()
                raise subject.broken(f"under is_causal={is_causal}, of (example, head, query, key) {wrong} is wrong")
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
        raised = subject.attend(operands, return_residual=True, bias=np.full((1, 1, 1, LENGTH), 2.0, np.float32))[1]
        subject.same(raised, residual + 2, "residual under a bias of 2", 1e-5)
    return None


def dropout_acts_on_weights(subject: Subject) -> None:
    """A share of the weights is dropped, each head apart, and the same ones in the backward pass."""
    operands, rng = subject.operands(**GROUPED), jax.random.key(9)
    if not subject.supports.dropout:
        return subject.refuses("dropout_rate", dropout_rate=0.4, rng=rng)
    plain, dropped = subject.weights(operands), subject.weights(operands, dropout_rate=0.4, rng=rng)
    kept = dropped != 0
    subject.same(dropped, np.where(kept, plain / 0.6, 0), "weights under dropout, scaled by 1 / (1 - rate)", 1e-5)
    share = float((kept & (plain > 0)).sum() / (plain > 0).sum())
    if abs(share - 0.6) > 0.05:
        raise subject.broken(f"dropout at rate 0.4 keeps {share:.3f} of the weights", abs(share - 0.6))
    both = (plain[:1, :1] > 0) & (plain > 0)
    alike = (kept == kept[:1, :1]).sum(where=both, axis=(2, 3)) / np.maximum(both.sum(axis=(2, 3)), 1)
    if (alike.reshape(-1)[1:] > 0.9).any():
        raise subject.broken("dropout is one for several heads or examples")
    shared = subject.weights(operands, dropout_rate=0.4, rng=rng, broadcast_dropout=True)
    gone = ((shared == 0) & (plain > 0)).any(axis=(0, 1))
    subject.same(
        shared, np.where(gone, 0, plain / 0.6), "weights under dropout that all heads and examples share", 1e-5
    )
    if not gone.any():
        raise subject.broken("dropout that all heads and examples share drops nothing")
    out, gradients = subject.pulled(operands, dropout_rate=0.4, rng=rng)
    heads = dropped.reshape(2, 2, 2, LENGTH, LENGTH)
    pulled = np.asarray(jax.grad(lambda out: curved(out).sum())(out)).reshape(2, LENGTH, 2, 2, -1)
    expected = np.einsum("bkgts,btkgh->bskh", heads, pulled)
    subject.same(gradients.operands.v, expected, "gradient by values under dropout", 1e-5)
    return None
