"""Costs are formulas, held to the count over shapes that the laws do not visit; states are what decoding must keep."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import attnzoo
from attnzoo import KERNELS, Dims, Linformer, Softmax, counting
from attnzoo.compute import dense
from attnzoo.interface import Kernel, Support
from tests.zoo import DECODING, FURTHER, ZOO

EVEN = Dims(2, 1536, 1536, 4, 2, 16, 48)
WIDE = Dims(1, 4099, 4099, 2, 2, 128, 64)
CROSS = Dims(1, 700, 2900, 4, 1, 32, 32)
CASES = [
    (kernel, dims, is_causal)
    for kernel in dict.fromkeys([*ZOO, *FURTHER, *(kernel() for kernel in KERNELS.values())])
    for dims in (EVEN, WIDE, CROSS)
    for is_causal in (False, True)
    if (kernel.supports.causal or not is_causal) and (kernel.supports.cross or dims is not CROSS)
]


@pytest.mark.parametrize(("kernel", "dims", "is_causal"), CASES, ids=str)
def test_operations_are_those_of_the_count(kernel, dims, is_causal):
    counted = counting.cost_of(kernel, dims, is_causal=is_causal)
    assert kernel.cost(dims, is_causal=is_causal).flops == pytest.approx(counted.flops, rel=0.1)


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_bytes_hold_operands_and_result_in_their_dtype(kernel):
    tokens = EVEN.batch * EVEN.query_length
    operands = tokens * (EVEN.num_heads + EVEN.num_key_value_heads) * (EVEN.head_dim + EVEN.value_dim)
    single, half = (kernel.cost(EVEN, dtype=dtype).bytes for dtype in (jnp.float32, jnp.bfloat16))
    assert single >= 4 * operands
    assert half == single / 2


# Numbers of 4 bytes for each example, over H = 16 and Hv = 48, of 4 query heads and 2 key heads.
STATES = {
    "Softmax()": 1536 * 2 * (16 + 48),
    "NadarayaWatson(bandwidth=1.0)": 1536 * 2 * (16 + 48),
    "Additive(units=None)": 1536 * (4 * 16 + 2 * 48),
    "SlidingWindow(left=5, right=3, dilation=1, global_tokens=0)": 5 * 2 * (16 + 48),
    "SlidingWindow(left=2, right=2, dilation=3, global_tokens=2)": (2 * 3 + 2) * 2 * (16 + 48),
    "BigBird(block_size=4, num_random=2, num_window=3, num_global=1, seed=0)": 1536 * 2 * (16 + 48),
    # Sums of features and values, of features, of values, the number of keys, and the running maximum.
    "Linear(feature_map='elu+1', epsilon=1e-06)": 2 * (16 * 48 + 16 + 48 + 1 + 1),
    "Performer(features=16, orthogonal=True, seed=0)": 4 * (16 * 48 + 16 + 48 + 1 + 1),
    "Linformer(rank=5, share='none')": None,
    "Nystrom(landmarks=5, iterations=6)": None,
    "Local(block_size=4, layout='contiguous')": 3 * 2 * (16 + 48),
    "Reformer(chunk_size=4, buckets=4, rounds=2, seed=0)": None,
    "Sinkhorn(block_size=4, iterations=3, temperature=0.75)": None,
    "Synthesizer(form='dense', units=None, rank=32)": 1536 * 2 * (16 + 48),
    "SparseTransformer(block_size=6, summary=2)": 1536 * 2 * (16 + 48),
}


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_a_state_is_what_decoding_keeps(kernel):
    numbers, state = STATES[repr(kernel)], kernel.cost(EVEN, is_causal=kernel.supports.causal).state_bytes
    assert state == (None if numbers is None else EVEN.batch * 4 * numbers)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("kernel", DECODING, ids=repr)
def test_a_state_is_as_large_as_its_cost_says(kernel, dtype):
    dims = Dims(2, 41, 41, 4, 2, 16, 48)
    sizes = {"batch": 2, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "value_dim": 48}
    params = kernel.init(jax.random.key(0), dims)
    state = attnzoo.start(**sizes, max_length=41, kernel=kernel, params=params, dtype=dtype)
    actual = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache))
    assert kernel.cost(dims, is_causal=True, dtype=dtype).state_bytes == actual


def test_shared_projections_are_read_once():
    none, heads, kv = (Linformer(rank=5, share=share).cost(EVEN).bytes for share in ("none", "heads", "kv"))
    projection = 4 * 5 * EVEN.key_length
    assert (none - heads, heads - kv) == (2 * 3 * projection, projection)


def test_causality_halves_the_work_of_softmax():
    dims = Dims(1, 32768, 32768, 2, 2, 32, 32)
    assert Softmax().cost(dims, is_causal=True).flops == pytest.approx(Softmax().cost(dims).flops / 2, rel=0.05)


@dataclasses.dataclass(frozen=True)
class PlugIn(Kernel):
    """What an author outside writes: an equation, with a learned temperature."""

    supports = Support(causal=True, decode=True)

    def init(self, rng, dims):
        return jnp.ones((dims.num_heads,))

    def head(self, params, draws, q, k, v, visible):
        return dense.attend(dense.scores(q, k) * params, v, visible)[0]


def test_a_kernel_without_a_formula_is_counted():
    cost = PlugIn().cost(EVEN, is_causal=True)
    pairs = EVEN.batch * EVEN.num_heads * EVEN.query_length * EVEN.key_length
    assert cost.flops == pytest.approx(pairs * 2 * (EVEN.head_dim + EVEN.value_dim), rel=0.1)
    assert cost.state_bytes == 4 * EVEN.batch * 1536 * 2 * (16 + 48)
    silent = dataclasses.make_dataclass("Silent", [], bases=(PlugIn,), frozen=True, namespace={"supports": Support()})
    assert silent().cost(EVEN).state_bytes is None


def test_params_count_as_operands_of_the_count():
    shape = jax.ShapeDtypeStruct((3, 5), jnp.float32)
    assert counting.flops(lambda x, y: x * y + x, shape, shape) == 30
