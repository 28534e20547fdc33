"""Kernels of devices in the place of softmax over tiles: what they list, and what a CPU interprets of them."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from attnzoo import (
    Additive,
    ALiBi,
    BigBird,
    Dims,
    Linformer,
    Local,
    NadarayaWatson,
    Nystrom,
    Reformer,
    Sinkhorn,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    attend,
)
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.engines import few as engine
from attnzoo.engines import schedule, streaming
from attnzoo.engines.fused import way
from attnzoo.engines.fused.operands import NOWHERE, Cutting, Operands, Pulled, visible_of
from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.fused.terms import Terms
from attnzoo.engines.fused.tpu import averaged, held, projected, steps
from attnzoo.engines.fused.tpu import softmax as tpu
from attnzoo.engines.fused.tpu.folding import Heads
from attnzoo.engines.fused.tpu.held import Held
from attnzoo.engines.fused.tpu.stepped import Stepped
from attnzoo.engines.fused.tpu.steps import BITS, FIRST, LAST, PAIR, PARTIAL, Steps
from attnzoo.engines.fused.way import Tiles, Way, asking, interpreted
from attnzoo.testing import check_law
from tests import programs
from tests.few import few
from tests.marks import of_results_that_are_filled_up
from tests.oracles.nystrom import members_of_runs

SMALL = Tiles(quantum=8, largest=16, grain=8)
QUERIES, KEYS = 37, 40
OF_TPU = [jax.export.DisabledSafetyCheck.custom_call("tpu_custom_call")]

WINDOW, DILATED = SlidingWindow(5, 3), SlidingWindow(2, 2, dilation=3, global_tokens=2)
BLOCKS, SUMMARIES = Local(block_size=5), SparseTransformer(block_size=6, summary=2)
everything = lambda i, j: np.ones(np.broadcast_shapes(i.shape, j.shape), bool)
LAYOUTS = {
    "all": (lambda mask: mask, streaming.natural_layout, everything),
    "window": (lambda mask: mask.within(WINDOW.band), WINDOW._layout, everything),
    "dilated": (lambda mask: mask.within(DILATED.band), DILATED._layout, everything),
    "blocks": (lambda mask: mask, BLOCKS._layout, lambda i, j: i // 5 == j // 5),
    "summaries": (lambda mask: mask, SUMMARIES._summaries, lambda i, j: SUMMARIES.is_summary(j) | (i < -99)),
}


def listed(pairs):
    """Pairs of tiles of one head, none twice, and whether each is said to be whole."""
    start, middle, other = (np.asarray(x[0, 0]) for x in pairs)
    tile = np.repeat(np.arange(len(middle)), np.diff(start))
    entries = zip(
        tile.tolist(), other[: start[-1]].tolist(), (np.arange(start[-1]) < middle[tile]).tolist(), strict=True
    )
    found = {(a, b): is_whole for a, b, is_whole in entries}
    assert len(found) == start[-1] and (middle >= start[:-1]).all() and (middle <= start[1:]).all()
    return found


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_lists_hold_what_is_seen_once(name, is_causal):
    """Sorted both ways, at offsets known and traced; whole tiles hide nothing, and kernels see what masks do."""
    masked, layout_of, pattern = LAYOUTS[name]
    for offset in (0, 11, -9, jnp.full((1, 1), 7)):
        mask = masked(Mask(QUERIES, KEYS, is_causal, offset))
        cutting = Cutting.of(layout_of, mask, (), SMALL)
        rows, columns = (np.asarray(x[0]) for x in cutting[:2])
        by_row, by_column = map(listed, cutting.lists)
        assert by_row == {(row, column): whole for (column, row), whole in by_column.items()}
        assert rows.shape[1] % SMALL.grain == columns.shape[1] % SMALL.grain == 0
        place = int(np.max(offset))
        i, j = np.arange(QUERIES)[:, None] + place, np.arange(KEYS)[None]
        seen = np.asarray(jax.tree.map(lambda x: x[0, 0], mask).at(np.arange(QUERIES), np.arange(KEYS))) & pattern(i, j)
        met = np.zeros((QUERIES, KEYS), int)
        for (row, column), is_whole in by_row.items():
            pair = np.ix_(rows[row][rows[row] >= 0], columns[column][columns[column] >= 0])
            met[pair] += 1
            assert not is_whole or (seen[pair].all() and (rows[row] >= 0).all() and (columns[column] >= 0).all())
        assert (met[seen] == 1).all()
        np.testing.assert_array_equal(visible_of(mask)(i, j, 0) & pattern(i, j), seen)
        nobody, nothing = np.full((1, 1), -NOWHERE), np.full((1, 1), NOWHERE)
        assert not visible_of(mask)(i, nothing, 0).any() and not visible_of(mask)(nobody, j, 0).any()


@pytest.mark.parametrize("is_traced", [False, True])
def test_steps_begin_and_end_each_tile(is_traced):
    """Also one beside which nothing stands; where pairs are traced, what follows the last step does nothing."""
    xp = jnp if is_traced else np
    pairs = Pairs(*(xp.asarray(x, np.int32)[None, None] for x in ([0, 1, 1, 3], [1, 1, 1], [1, 0, 2])))
    tile, beside, *_, turns = Steps.of(pairs)
    tile, beside = (np.asarray(x[0, 0, 0]) for x in (tile, beside))
    assert (len(tile), turns) == ((6, (3, 6)) if is_traced else (4, (3, 3)))
    np.testing.assert_array_equal(tile[:4] >> BITS, [0, 1, 2, 2])
    np.testing.assert_array_equal(
        tile[:4] & 15, [FIRST | LAST | PAIR, FIRST | LAST, FIRST | PAIR | PARTIAL, LAST | PAIR | PARTIAL]
    )
    np.testing.assert_array_equal(beside[[0, 2, 3]], [1, 0, 2])
    assert not (tile[4:] & 15).any()


def test_pages_hold_whole_tiles_or_whole_lists(monkeypatch):
    """Each step is in one of them; what fills a page up does nothing, and stays where it is."""
    monkeypatch.setattr(steps, "PAGE", 6)
    pairs = Pairs(*(np.asarray(x, np.int32)[None, None] for x in ([0, 2, 5, 5, 13, 14], [1, 5, 5, 9, 14], range(14))))
    paged = Steps.of(pairs)
    assert steps.most(pairs) == 8 and paged.tile.shape == paged.other.shape == (3, 1, 1, 8)
    tile, other = (np.asarray(x[:, 0, 0]) for x in paged[:2])
    assert (tile >> BITS).tolist() == [[0] * 2 + [1] * 3 + [2] * 3, [3] * 8, [4] * 8]
    does = (tile & (FIRST | LAST | PAIR)) > 0
    assert does.sum(axis=1).tolist() == [6, 8, 1] and does[:, 0].all()
    assert other[does].tolist() == [*range(5), 5, *range(5, 14)] and (other[2] == 13).all()
    of_heads = Pairs(
        *(jnp.broadcast_to(x[..., :count], (2, 4, count)) for x, count in zip(pairs, (3, 2, 5), strict=True))
    )
    paged = Steps.of(of_heads)
    assert steps.most(of_heads) == 7 and paged.tile.shape == (8, 1, 1, 7)
    assert paged.first.tolist() == [[b, n] for b in range(2) for n in range(4)] and paged.shared == (False, False)


def test_tiles_suit_the_device():
    """Multiples of its quantum; fewer keys than a tile make a smaller one, and blocks are filled up."""
    tiles = Tiles(quantum=128, largest=512, grain=16)
    assert [tiles.size(*x) for x in ((32768, 512), (32768, 255), (700, 512), (37, 512), (4096, 2048))] == [
        512,
        256,
        384,
        128,
        512,
    ]
    for kernel, size in ((SlidingWindow(255, 0), 256), (SlidingWindow(1, 1), 128), (Local(block_size=20), 32)):
        mask = Mask(4096, 4096, True).within(kernel.band) if isinstance(kernel, SlidingWindow) else Mask(4096, 4096)
        cutting = Cutting.of(kernel._layout, mask, (), tiles)
        assert cutting.rows.shape[2] == cutting.columns.shape[2] == size
    assert schedule.tile_size(4096, 255) == 241  # not XLA's


@pytest.mark.parametrize(
    ("width", "kv", "group", "fold", "beside"),
    [
        (64, 4, 1, 2, 2),
        (64, 4, 3, 2, 2),
        (64, 1, 4, 2, 1),
        (64, 3, 2, 2, 1),
        (8, 2, 2, 4, 2),
        (128, 4, 3, 1, 1),
        (80, 4, 2, 1, 1),
    ],
)
def test_heads_of_a_fold_know_their_numbers(width, kv, group, fold, beside):
    """Those of queries, which stay in order, know where the head of their keys stands; and all come back."""
    tile, length, count = 8, 16, kv * group
    of_heads = lambda count: jnp.broadcast_to(jnp.arange(count)[:, None], (1, length, count, width))
    queries, keys = of_heads(count), of_heads(kv)
    heads = Heads.of(Operands(queries, keys, keys, *[None] * 6), are_alike=True)
    assert heads == (kv, group, fold, beside)
    for x in (queries, keys):
        np.testing.assert_array_equal(heads.inward(heads.outward(x), width), x)
    rows = jnp.broadcast_to(jnp.arange(count)[:, None], (1, count, length))
    np.testing.assert_array_equal(heads.by_query(heads.rows(rows, tile)), rows)
    lanes = lambda x, fold: np.asarray(heads.outward(x))[0, :, 0].reshape(-1, fold, width)[:, :, 0]
    of_queries, of_keys = lanes(queries, fold), lanes(keys, beside)
    assert len(of_queries) == heads.folds == len(of_keys) * heads.turns
    for n, (of_rows, of_lanes) in enumerate(zip(heads.rows(rows, tile)[0, :, 0, :, 0], of_queries, strict=True)):
        assert (
            [int(heads.number(jnp.int32(n), place)) for place in range(fold)] == of_rows.tolist() == of_lanes.tolist()
        )
        places = [int(heads.place_of_key(jnp.int32(n), place)) for place in range(fold)]
        np.testing.assert_array_equal(of_keys[n // heads.turns][places], of_lanes // group)


def operands(length=QUERIES, keys=KEYS, heads=4, kv_heads=2, dim=8, dtype=jnp.float32):
    shapes = (2, length, heads, dim), (2, keys, kv_heads, dim), (2, keys, kv_heads, dim)
    return [jax.random.normal(jax.random.key(n), shape, dtype) for n, shape in enumerate(shapes)]


def pulled(implementation, given, learned, **arguments):
    """Outputs and residuals, and the gradients of a curved function of both by operands and by what is learned."""

    def curved(given, learned):
        out, residual = attend(*given, implementation=implementation, return_residual=True, **arguments, **learned)
        seen = jnp.isfinite(residual)
        return jnp.sin(3 * out).sum() + jnp.cos(jnp.where(seen, residual, 0)).sum(), (out, residual)

    return jax.jit(jax.value_and_grad(curved, (0, 1), has_aux=True))(given, learned)


SEGMENTS = {
    "query_segment_ids": np.arange(QUERIES)[None].repeat(2, 0) // 7,
    "key_value_segment_ids": np.arange(KEYS)[::-1][None].repeat(2, 0) // 9,
}
LENGTHS = {"query_seq_lengths": np.array([30, 9]), "key_value_seq_lengths": np.array([13, KEYS])}
LEARNED = {"scale": 0.7, "soft_cap": 2.0, "sinks": np.array([0.3, -0.2, 0.1, 2.0], np.float32)}
BY_KEY = {"bias": np.where(np.arange(2 * 4 * KEYS) % 7, 0.5, -np.inf).reshape(2, 4, 1, KEYS).astype(np.float32)}
SAME = operands(KEYS)
EQUAL = {  # kernel, operands, what is asked, what is learned beside operands
    "causal": (Softmax(), operands(dim=64), {"is_causal": True, "query_offset": -5} | SEGMENTS, LEARNED),
    "blocks that are drawn": (BigBird(block_size=4, num_random=2), SAME, LENGTHS, {}),
    "distances": (
        NadarayaWatson(9.0),
        operands(kv_heads=1, dim=128),
        {"is_causal": True, "query_offset": np.array([3, -8])},
        BY_KEY,
    ),
    "few keys": (Softmax(), operands(keys=12), {"key_value_seq_lengths": np.array([7, 12])}, {}),
    "few queries": (Softmax(), operands(12, kv_heads=4), {"is_causal": True, "query_offset": 20}, {}),
    "all": (Softmax(), operands(kv_heads=1), LENGTHS, BY_KEY),
    "causal, drawn": (BigBird(block_size=4, num_random=2), operands(KEYS, kv_heads=4), {"is_causal": True}, {}),
    "window": (
        SlidingWindow(5, 0),
        operands(),
        {"is_causal": True, "query_offset": np.array([3, -8])},
        {"soft_cap": 1.0},
    ),
    "dilated": (DILATED, operands(), {"query_offset": 2} | SEGMENTS, {}),
    "dilated, causal": (DILATED, SAME, {"is_causal": True}, {}),
    "blocks": (BLOCKS, operands(kv_heads=4, dim=64), {"query_offset": 3} | LENGTHS, {}),
    "blocks of whole tiles": (Local(block_size=8), SAME, {"is_causal": True}, {}),
    "two sets": (SUMMARIES, SAME, {"is_causal": True}, LEARNED),
    "mask_mod": (Softmax(), operands(), {"mask_mod": lambda head, i, j: (i // 3 + j % 5 + head) % 3 != 0}, {}),
    "prefix": (Softmax(), SAME, {"mask_mod": lambda head, i, j: (j <= i) | (j < 20)}, {}),
    "precise": (Softmax(), SAME, {"is_causal": True, "precision": "bfloat16"}, {}),
}


@pytest.mark.parametrize("name", few(EQUAL, ["causal", "blocks that are drawn"]))
def test_interpreted_it_equals_the_equation(name):
    """Outputs, residuals and all gradients; whatever the default precision is where it is traced."""
    kernel, given, asked, learned = EQUAL[name]
    learned = jax.tree.map(jnp.asarray, learned)
    with interpreted():
        (_, found), grads = pulled("pallas", given, learned, kernel=kernel, **asked)
    plain = {x: asked[x] for x in asked if x != "precision"}
    (_, expected), expected_grads = pulled("reference", given, learned, kernel=kernel, **plain)
    got, wanted = jax.tree.leaves((found, grads)), jax.tree.leaves((expected, expected_grads))
    for x, y in zip(got, wanted, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("kernel", "given", "asked"),
    [
        (Linformer(rank=5), operands(), {"soft_cap": 2.0} | LENGTHS),
        (Linformer(rank=5, share="kv"), operands(), {"scale": 0.1}),
        (Nystrom(landmarks=5), operands(KEYS), LENGTHS),
        (Nystrom(landmarks=8), operands(KEYS), {}),
        (Nystrom(landmarks=7), operands(KEYS), {}),
        (Nystrom(landmarks=50), operands(KEYS, kv_heads=4), {"key_value_seq_lengths": np.array([0, KEYS])}),
    ],
    ids=[
        "projected keys",
        "keys that are projected as those of one head",
        "landmarks of shown tokens",
        "landmarks of segments as long",
        "landmarks of segments, some of which are longer",
        "more landmarks than tokens",
    ],
)
def test_interpreted_it_meets_what_is_few(kernel, given, asked):
    params = kernel.init(jax.random.key(3), Dims.of(*given))

    @functools.partial(jax.jit, static_argnums=0)
    def found(implementation, given, params):
        out = lambda given, params: attend(*given, params=params, kernel=kernel, implementation=implementation, **asked)
        return jax.value_and_grad(lambda *points: jnp.sin(3 * out(*points)).sum(), (0, 1))(given, params)

    with interpreted():
        got = found("pallas", given, params)
    for x, y in zip(*map(jax.tree.leaves, (got, found("reference", given, params))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5 + 1e-6 * np.abs(y).max())


ROUNDED = pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])


@ROUNDED
@pytest.mark.parametrize("sizes", [(5, KEYS, 4), (5, KEYS - 1, 7)], ids=["as long", "longer by a token"])
def test_averages_beside_what_few_queries_find(dtype, error, sizes):
    """Of two folds of heads, and gradients of both; the last tile of keys is no whole one."""
    queries, keys, runs = sizes
    shapes = ((2, queries, 4, 64), *((2, keys, 4, 64),) * 2), ((2, queries, 4, 64), (2, runs, 4, 64))
    (q, k, v), (d_out, d_averages) = (
        [jax.random.normal(jax.random.key(10 * n + len(each)), shape, dtype) for n, shape in enumerate(each)]
        for each in shapes
    )

    def call(*given):
        with asking(Way(SMALL), "a test"):
            return engine.averaged(*given, Call(Mask(queries, keys)), runs)

    @jax.jit
    def found(given, pulled):
        outs, pull = jax.vjp(call, *given)
        return *outs, *pull(pulled)

    with interpreted(), mock.patch.object(averaged, "forward", wraps=averaged.forward) as kernel:
        got = found((q, k, v), (d_out, d_averages.astype(jnp.float32)))
    assert kernel.called
    q, k, v, d_out, d_averages = (np.asarray(x, np.float64) for x in (q, k, v, d_out, d_averages))
    members = members_of_runs(keys, runs)
    weights = np.exp(np.einsum("btnh,bsnh->bnts", q, k) / 8)
    weights /= weights.sum(axis=-1, keepdims=True)
    d_weights = np.einsum("btnh,bsnh->bnts", d_out, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True)) / 8
    wanted = (
        np.einsum("bnts,bsnh->btnh", weights, v),
        np.einsum("rs,bsnh->brnh", members, k),
        np.einsum("bnts,bsnh->btnh", d_scores, k),
        np.einsum("bnts,btnh->bsnh", d_scores, q) + np.einsum("rs,brnh->bsnh", members, d_averages),
        np.einsum("bnts,btnh->bsnh", weights, d_out),
    )
    for x, exact in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), exact, rtol=0, atol=error * np.abs(exact).max())


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16], ids=["by a kernel", "by slices"])
@pytest.mark.parametrize("runs", [1, 4, 7, KEYS - 1, KEYS])
def test_means_of_runs_that_may_be_longer_by_a_token(monkeypatch, dtype, gathers, runs):
    """And their gradients: a kernel projects float32, and declines float16."""
    of_tpu = tpu.device
    monkeypatch.setattr(tpu, "device", lambda *args, **given: of_tpu(*args, **given)._replace(gathers=gathers))
    x, d_means = (jax.random.normal(jax.random.key(n), (2, size, 2, 4), dtype) for n, size in ((1, KEYS), (2, runs)))
    with interpreted(), asking(Way(SMALL), "a test"):
        way.asked().is_met = True  # means alone are not what is asked for
        means, pull = jax.vjp(jax.jit(lambda x: engine.means(x, runs)), x)
        (d_x,) = pull(d_means.astype(jnp.float32))
    weights = members_of_runs(KEYS, runs)
    wanted = (
        np.einsum("rt,btnh->brnh", weights, np.float64(x)),
        np.einsum("rt,brnh->btnh", weights, np.float64(d_means)),
    )
    assert means.dtype == jnp.float32 and d_x.dtype == dtype
    np.testing.assert_allclose(means, wanted[0], atol=1e-6)
    np.testing.assert_allclose(d_x, wanted[1], atol=1e-6 if dtype == jnp.float32 else 1e-3)


def test_averages_where_queries_have_no_fewer_tiles_than_keys():
    test_averages_beside_what_few_queries_find(jnp.float32, 1e-5, sizes=(8, 16, 2))


@ROUNDED
def test_projections_along_a_sequence(dtype, error):
    """Sums over it and gradients of both, of two folds of heads that share keys, whose last tile is no whole one."""
    projection = jax.random.normal(jax.random.key(0), (8, 5, KEYS))
    x = jax.random.normal(jax.random.key(1), (2, KEYS, 4, 64), dtype)
    out, pull = jax.vjp(functools.partial(projected.projected, longest=16, interpret=True), projection, x)
    pulled = jax.random.normal(jax.random.key(2), out.shape)
    e, tokens, d_out = (np.asarray(y, np.float64) for y in (projection.reshape(4, 2, 5, KEYS), x, pulled))
    d_out = d_out.reshape(2, 5, 4, 2, 64)
    wanted = (
        np.einsum("kgrs,bskh->brkgh", e, tokens).reshape(out.shape),
        np.einsum("brkgh,bskh->kgrs", d_out, tokens).reshape(projection.shape),
        np.einsum("brkgh,kgrs->bskh", d_out, e),
    )
    for found, exact in zip((out, *pull(pulled)), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=0, atol=error * np.abs(exact).max())


def test_projections_that_no_kernel_has_room_for_are_left_to_xla():
    shapes = lambda rank, dtype: (jnp.empty((2, rank, KEYS)), jnp.empty((1, KEYS, 2, 64), dtype))
    assert projected.projected(*shapes(8, jnp.float16)) is None
    with jax.enable_x64(True):
        assert projected.projected(*shapes(8, jnp.float64)) is None
    assert projected.Folds.of(*shapes(8, jnp.float32), projected.LONGEST).tile == KEYS
    assert projected.Folds.of(*shapes(2048, jnp.float32), projected.LONGEST).tile == 0


@pytest.mark.parametrize("name", few(["dilated", "causal", "all", "distances", "blocks that are drawn"], []))
def test_each_side_has_a_kernel_where_sums_have_no_room(monkeypatch, name):
    """Also where nothing has room, in steps."""
    monkeypatch.setattr(tpu, "_at_once", lambda *given: None)
    for room in (held.ROOM, 0):
        monkeypatch.setattr(held, "ROOM", room)
        jax.clear_caches()  # programs know nothing of it
        test_interpreted_it_equals_the_equation(name)
    jax.clear_caches()


IN_TWO = ["causal", "blocks that are drawn", "distances", "all", "window", "dilated", "mask_mod"]


@of_results_that_are_filled_up
@pytest.mark.parametrize("name", few(IN_TWO, ["causal"]))
def test_keys_have_two_kernels_where_sums_of_all_have_no_room(monkeypatch, name):
    """Of the last ones beside queries, and of the others alone."""
    at_once, numbers = tpu._at_once, []

    def in_two(*given):
        found = at_once(*given)
        numbers.extend(grid.met[1] for grid in found)
        return [dataclasses.replace(grid, **part) for grid in found for part in ({"first": 2}, {"stop": 2})]

    monkeypatch.setattr(tpu, "_at_once", in_two)
    jax.clear_caches()  # programs know nothing of it
    test_interpreted_it_equals_the_equation(name)
    jax.clear_caches()
    assert min(numbers) > 2


@pytest.mark.parametrize(
    ("name", "page"),
    [pytest.param("causal", 3, marks=of_results_that_are_filled_up), ("blocks that are drawn", 150)],
)
def test_lists_in_pages_give_the_same(monkeypatch, name, page):
    monkeypatch.setattr(steps, "PAGE", page)
    jax.clear_caches()  # programs know nothing of it
    test_interpreted_it_equals_the_equation(name)
    jax.clear_caches()


def listed_operands(kernel, mask, heads=2):
    """Of two heads of keys that fill registers, and the lists of a kernel."""
    q, k = (jnp.ones((2, mask.query_length, count, 64), jnp.bfloat16) for count in (heads, 2))
    cutting = Cutting.of(kernel._layout, mask, (), Tiles(quantum=128, largest=128, grain=64))
    return cutting.operands(q, k, k, Terms(jnp.ones((1, 1))), mask, 1), cutting.lists


def test_what_is_met_again_is_held(monkeypatch):
    """Where there is room; not what steps fetch once, which is once for each head that shares keys, and not queries of
    several such heads.
    """
    mask = Mask(512, 512, False)
    window, blocks = (SlidingWindow(64, 64), mask.within(SlidingWindow(64, 64).band)), (Local(block_size=64), mask)
    ways = lambda *which, **given: [type(x) for x in tpu._grids(*listed_operands(*which, **given), True)]
    assert ways(*window) == [Held, Held]
    assert ways(*blocks) == [Stepped, Stepped]
    assert ways(*window, heads=4) == ways(*blocks, heads=4) == [Held, Stepped]
    given, lists = listed_operands(*window)
    by_row, by_column = tpu._grids(given, lists, True)
    assert by_column.size > by_row.size == 2 * given.k[0].nbytes  # rows of numbers stand beside queries
    program = jax.make_jaxpr(lambda: tpu.forward(given, lists, interpret=True))()
    (moved,) = (x.params["cost_estimate"].bytes_accessed for x in program.eqns if x.primitive.name == "pallas_call")
    rows, numbers = 2 * 4 * given.q[..., 0].size, 4 * sum(x.size for x in lists.by_row)
    assert moved == 4 * given.q.nbytes + rows + numbers
    monkeypatch.setattr(held, "ROOM", by_row.limit)
    assert ways(*window) == [Held, Stepped]
    monkeypatch.setattr(held, "ROOM", held.BESIDE)
    assert ways(*window) == [Stepped, Stepped]


def test_one_kernel_has_all_gradients_where_there_is_room(monkeypatch):
    """By sums of keys, or of queries that are fewer; heads that share keys are met one after another, and read once."""
    mask = Mask(512, 512, False)
    window = SlidingWindow(64, 64), mask.within(SlidingWindow(64, 64).band)
    given, lists = listed_operands(*window, heads=8)
    (grid,) = tpu._at_once(given, lists, True)
    assert grid.is_by_row and grid.size == 6 * given.k[0].nbytes  # sums in float32
    arrays = jax.eval_shape(lambda: tpu._pulled(grid, pulled_like(given)))
    program = jax.make_jaxpr(lambda x: tpu._of_queries(grid, x, grid.share))(arrays)
    (moved,) = (x.params["cost_estimate"].bytes_accessed for x in program.eqns if x.primitive.name == "pallas_call")
    rows, numbers = 3 * 4 * given.q[..., 0].size, 4 * sum(x.size for x in lists.by_row)
    assert moved == 4 * given.q.nbytes + 4 * given.k.nbytes + rows + numbers
    few_queries = SlidingWindow(512, 512), Mask(128, 512, False).within(SlidingWindow(512, 512).band)
    assert [tpu._at_once(*listed_operands(*few_queries, heads=n), True)[0].is_by_row for n in (2, 4)] == [False, True]
    tile = grid.size // grid.met[1] // 3  # of keys and values, whose sums take twice as much
    for room, parts in ((11, [(1, None), (0, 1)]), (8, [(2, None), (0, 2)]), (7, [])):
        monkeypatch.setattr(held, "ROOM", grid.limit - grid.size + room * tile)
        assert [(x.first, x.stop) for x in tpu._at_once(given, lists, True)] == parts


def pulled_like(given):
    row = jnp.zeros((given.q.shape[0], given.q.shape[2], given.q.shape[1]), jnp.float32)
    return Pulled(given.q, row, row, row, given.q, row)


def test_a_tpu_holds_what_it_has_room_for():
    """A v4 has none, and one that nobody names may be a v4."""
    given, lists = listed_operands(SlidingWindow(64, 64), Mask(512, 512, False).within(SlidingWindow(64, 64).band))
    ways = lambda: {type(x) for x in tpu._grids(given, lists, False)}
    assert ways() == {Stepped}
    for kind, cores, kernel in (("TPU v4", 2, Stepped), ("TPU v5", 2, Held), ("TPU v5 lite", 1, Held)):
        with programs.of_tpu(kind, cores):
            assert ways() == {kernel}


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [Softmax(), SUMMARIES, BigBird(block_size=4), NadarayaWatson(2.0)], ids=repr)
def test_in_low_precision_it_errs_as_the_equation_does(kernel):
    given = operands(KEYS, dtype=jnp.bfloat16)
    with interpreted():
        found = pulled("pallas", given, {}, kernel=kernel, is_causal=True)
    plain = pulled("reference", given, {}, kernel=kernel, is_causal=True)
    exact = pulled("reference", [x.astype(jnp.float32) for x in given], {}, kernel=kernel, is_causal=True)
    for x, y, true in zip(*map(jax.tree.leaves, (found, plain, exact)), strict=True):
        error, allowed = (float(jnp.abs(z.astype(jnp.float32) - true).max()) for z in (x, y))
        assert error <= 2 * allowed + float(jnp.finfo(jnp.bfloat16).eps * jnp.abs(true).max())


ROWS = np.arange(QUERIES)
DECLINED = {
    "a bias of positions": (Softmax(), {"bias": ALiBi.of(4)}),
    "a bias by queries": (Softmax(), {"bias": np.zeros((QUERIES, KEYS), np.float32)}),
    "a score_mod": (Softmax(), {"score_mod": lambda score, head, i, j: score + i}),
    "a dense mask": (Softmax(), {"mask": np.ones((QUERIES, KEYS), bool)}),
    "dropout": (Softmax(), {"dropout_rate": 0.5, "rng": jax.random.key(0)}),
    "a mask_mod that closes over arrays": (Softmax(), {"mask_mod": lambda head, i, j: jnp.asarray(ROWS)[i] >= j}),
    "global tokens by name": (SlidingWindow(3, 3), {"global_tokens": np.array([[1, 5]] * 2)}),
    "its scores are no products": (Additive(), {}),
    "it is no softmax over tiles that are known beforehand, and no recurrence": (Sinkhorn(4), {}),
    "chunks of 4 tokens: it takes 64, on a Hopper GPU": (Reformer(chunk_size=4, buckets=4), {}),
    "it is no softmax over": (Local(4, "strided"), {}),
}


@pytest.mark.parametrize("reason", DECLINED)
def test_what_it_declines(reason):
    """By name, with all reasons and another way, before anything is run."""
    kernel, arguments = DECLINED[reason]
    given = operands(KEYS if not kernel.supports.cross else QUERIES)
    params = kernel.init(jax.random.key(0), Dims.of(*given))
    with pytest.raises(NotImplementedError, match=f"'pallas' declines {type(kernel).__name__}.*{reason}.*or 'xla'"):
        jax.eval_shape(
            lambda *x: attend(*x, kernel=kernel, params=params, implementation="pallas", **arguments), *given
        )


def test_lists_that_no_page_holds_are_declined():
    """Drawn ones, of so many tokens, on a TPU alone."""
    given = [jax.ShapeDtypeStruct((1, 2**20, 1, 64), jnp.bfloat16)] * 3
    call = jax.jit(lambda *x: attend(*x, kernel=BigBird(), implementation="pallas"))
    with pytest.raises(NotImplementedError, match=r"declines BigBird.* on tpu: [\d,]+ steps that it must know at once"):
        call.trace(*given).lower(lowering_platforms=("tpu",))


def test_all_reasons_are_listed():
    given = operands(dtype=jnp.float16, dim=300)
    with pytest.raises(NotImplementedError, match=r"dropout came.*float16.*on a TPU.*a head dim of 300"):
        asked = {"dropout_rate": 0.5, "rng": jax.random.key(0), "implementation": "pallas"}
        jax.eval_shape(lambda *x: attend(*x, **asked), *given)


SHAPES = [jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)] * 3


def exported(call, *platforms):
    return jax.export.export(jax.jit(call), platforms=platforms, disabled_checks=OF_TPU)(*SHAPES).mlir_module()


def test_it_is_one_kernel_where_it_is_lowered():
    """One forward and two for gradients on a TPU; elsewhere, and for several platforms, it says what it is for."""
    call = lambda *x: attend(*x, is_causal=True, implementation="pallas").astype(jnp.float32).sum()
    assert exported(call, "tpu").count("@tpu_custom_call") == 1
    gradient = jax.grad(call, (0, 1, 2))
    with jax.enable_x64(True):
        assert exported(gradient, "tpu").count("@tpu_custom_call") == 3
    with pytest.raises(NotImplementedError, match=r"declines Softmax.* on tpu and cpu: .*for one platform"):
        exported(call, "tpu", "cpu")
    q = jnp.ones((1, 8, 2, 8))
    with pytest.raises(NotImplementedError, match=r"declines Softmax.* on cpu: it is a kernel of a TPU"):
        attend(q, q, q, implementation="pallas")
    with pytest.raises(NotImplementedError, match=r"declines Softmax.*no gradients of gradients"), interpreted():
        jax.eval_shape(jax.grad(lambda q: jax.grad(lambda q: call(q, q, q))(q).sum()), q)


def test_its_numbers_have_32_bits():
    """Whatever jax's default is: the compiler of a TPU takes no others."""
    dims = Dims.of(*SHAPES)
    for kernel, count in ((Softmax(), 2), (BigBird(), 2), (Nystrom(landmarks=64), 4), (Linformer(), 8)):
        call = functools.partial(attend, kernel=kernel, implementation="pallas")
        gradient = jax.grad(lambda *x, call=call: call(*x[:3], params=x[3]).astype(jnp.float32).sum(), (0, 1, 2, 3))
        with jax.enable_x64(True), programs.of_tpu("TPU v5 lite"):
            params = jax.eval_shape(lambda rng, kernel=kernel: kernel.init(rng, dims), jax.random.key(0))
            found = programs.of_kernels(gradient, *SHAPES, params)
        assert len(found) == count
        assert not any(wide in program for program in found for wide in ("i64", "f64"))


@pytest.mark.slow
def test_batches_of_calls_and_rematerialised_ones_are_as_others():
    call = lambda q, k, v: attend(q, k, v, kernel=BigBird(block_size=4), implementation="pallas")
    given = [x[:, None] for x in SAME]
    with interpreted():
        plain = jax.jit(call)(*SAME)
        np.testing.assert_allclose(jax.jit(jax.vmap(call))(*given)[:, 0], plain, atol=1e-6)
        slope = lambda call: jax.jit(jax.grad(lambda q, k, v: jnp.sin(call(q, k, v)).sum()))(*SAME)
        np.testing.assert_allclose(slope(jax.checkpoint(call)), slope(call), atol=1e-6)


def test_a_mesh_splits_what_a_compiler_cannot():
    """Explicit axes: each device has a kernel of its part; what is left to a compiler is refused."""
    cases = ((("a", "b"), False, Softmax()), (("a", "b"), False, BigBird()), (("a", None), True, Softmax()))
    for names, raises, kernel in cases:
        call = functools.partial(attend, kernel=kernel, implementation="pallas")
        mesh = jax.sharding.AbstractMesh((2, 2), ("a", "b"), (jax.sharding.AxisType.Explicit,) * 2)
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(names[0], None, names[1]))
        split_shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split) for x in SHAPES]
        with jax.sharding.use_abstract_mesh(mesh):
            traced = jax.jit(call).trace(*split_shapes)
        if raises:
            with pytest.raises(NotImplementedError, match="axes of the mesh are left to the compiler"):
                traced.lower(lowering_platforms=("tpu",))
        else:
            assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


LAWS = (
    "low_precision_loses_little",
    "transformations_change_nothing",
    "the_future_cannot_touch_the_past",
    "hidden_keys_touch_nothing",
    "padding_changes_nothing",
    "packed_neighbours_cannot_touch_each_other",
    "any_length_works",
    "shared_key_heads_equal_repeated_ones",
    "scale_scales",
    "sinks_join_the_sum",
    "residual_is_the_log_of_the_sum",
)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kernel", [Softmax(), DILATED, BigBird(block_size=4, num_random=2), SUMMARIES], ids=repr)
def test_it_obeys_laws(kernel, law):
    jax.clear_caches()  # programs of tests know "pallas" by its name alone
    with interpreted():
        check_law(kernel, law, "pallas")
    jax.clear_caches()


@pytest.mark.slow
def test_a_peer_gives_the_same():
    """jax's splash attention, for a causal window, interpreted as well."""
    given = operands(256, 256, heads=2, kv_heads=2, dim=64)
    with interpreted(quantum=128, largest=128):
        out = attend(*given, kernel=SlidingWindow(100, 0), is_causal=True, scale=1.0, implementation="pallas")
    mask = splash_attention_mask.LocalMask((256, 256), (100, 0), 0)
    peer = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * 2), head_shards=1, q_seq_shards=1, interpret=True
    )
    expected = jax.vmap(peer)(*(jnp.moveaxis(x, 2, 1) for x in given))
    np.testing.assert_allclose(out, jnp.moveaxis(expected, 1, 2), atol=2e-5)
