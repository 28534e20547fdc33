"""Schedules as arithmetic: the program of a million tokens is short, and what it visits is what is seen."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
from attnzoo import Additive, BigBird, Dims, Local, SlidingWindow, Softmax, SparseTransformer
from attnzoo.contract.mask import Band, Mask
from attnzoo.costs import counting
from attnzoo.engines import schedule
from attnzoo.engines.progressions import as_arithmetic

MILLION = 2**20
NUMBERS = {
    "tiles": np.append(np.arange(100_000), [-1] * 352).reshape(-1, 512),
    "residues": np.argsort(np.arange(9001) % 7, kind="stable"),
    "ends of blocks": np.arange(2**16).reshape(-1, 128)[:, 96:],
    "a window and a global tile": np.stack([np.zeros(999), *(np.arange(999) + shift for shift in (-1, 0, 1))], 1),
    "turns": np.repeat(np.arange(400), np.arange(400) // 8),
    "no order": np.random.default_rng(0).integers(-9, 2**31 - 1, 2000),
    "none": np.zeros((0, 3), int),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_spelled_exactly(name):
    numbers = NUMBERS[name].astype(np.int64)
    spelled = jax.jit(lambda: as_arithmetic(numbers))
    np.testing.assert_array_equal(spelled(), numbers.astype(np.int32))
    assert len(spelled.lower().as_text()) < (40_000 if name != "no order" else 60_000)


def pairs(schedules):
    """The pairs of tiles that schedules visit, none twice, and whether each is said to be whole."""
    found = {}
    for visited in schedules:
        turns = np.ones(len(visited.rows), int) if visited.turns is None else visited.turns
        for entry, group in itertools.product(range(len(visited.rows)), range(visited.rows.shape[1])):
            for turn, block in itertools.product(range(turns[entry]), visited.blocks[entry, group]):
                pair = int(visited.rows[entry, group]), int(block + turn * visited.blocks.shape[2])
                assert block < 0 or pair not in found
                found |= {pair: visited.is_whole} if block >= 0 else {}
    return found


BANDS = [(), (Band(9, 2),), (Band(2, 9, 3),), (Band(40, 0), Band(5, 5))]


@pytest.mark.parametrize("bands", BANDS, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_visited_is_what_is_seen(bands, is_causal):
    dilation, pinned = (bands[0].dilation if bands else 1), 2
    for (queries, keys), offset, step in itertools.product([(37, 37), (5, 61), (50, 20)], (0, 13, -9), (16, 80, 2**21)):
        mask = Mask(queries, keys, is_causal, offset, bands)
        rows = schedule.interleaved(queries, 4, dilation, offset)
        columns = schedule.interleaved(keys, 4, dilation)
        found = pairs(schedule.visible_tiles(mask, rows, columns, dilation=dilation, pinned=pinned, pairs=step))
        assert all((row, len(columns) + tile) in found for row in range(len(rows)) for tile in range(pinned))
        for row, column in itertools.product(range(len(rows)), range(len(columns))):
            seen = np.asarray(mask.at(rows[row], columns[column]))
            assert (row, column) in found or not seen.any()
            assert not found.get((row, column)) or seen.all()


LONG = [
    Softmax(),
    SlidingWindow(128, 128, 1, 2),
    SlidingWindow(64, 0, 3),
    BigBird(),
    Local(5),
    SparseTransformer(),
    Additive(),
]


@pytest.mark.parametrize("kernel", LONG, ids=repr)
def test_a_million_tokens_are_a_short_program(kernel):
    q = jax.ShapeDtypeStruct((1, MILLION, 1, 8), jnp.float32)
    params = jax.eval_shape(lambda: kernel.init(jax.random.key(0), Dims(1, MILLION, MILLION, 1, 1, 8, 8)))

    def loss(q, k, v, params):
        return attnzoo.attend(q, k, v, kernel=kernel, params=params, is_causal=True).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, q, q, params)
    assert len(traced.lower().as_text()) < 1e6
    assert counting.largest_of(traced.jaxpr.jaxpr) < 100 * MILLION


def test_a_window_at_a_traced_offset_costs_no_more_than_its_width():
    def work(keys):
        q, k = (jnp.zeros((1, length, 1, 8)) for length in (128, keys))
        kernels = SlidingWindow(64, 0), SlidingWindow(64, 0, 3, 2), Local(64)
        call = lambda kernel: lambda offset: attnzoo.attend(q, k, k, kernel=kernel, is_causal=True, query_offset=offset)
        return [counting.flops(call(kernel), jnp.int32(0)) for kernel in kernels]

    assert work(4096) == work(65536)
