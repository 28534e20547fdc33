"""Operations are counted from programs, beside what equations say; states are what decoding must keep."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

import attnzoo
from attnzoo import BigBird, Dims, Linear, Linformer, Local, Nystrom, Performer, SlidingWindow, Softmax, cost_of, costs
from attnzoo.contract.support import Support
from attnzoo.costs import counting
from attnzoo.engines import dense
from attnzoo.kernel import Kernel
from attnzoo.testing.zoo import DECODING, ZOO

EVEN = Dims(2, 1536, 1536, 4, 2, 16, 48)
BOTH = EVEN.head_dim + EVEN.value_dim
# Operations of the products alone, for each query of each head.
PRODUCTS = {
    Softmax(): 2 * BOTH * 1536,
    SlidingWindow(left=255, right=0): 2 * BOTH * 128 * 3,  # tiles of 128 queries meet three of keys
    Local(block_size=64): 2 * BOTH * 64,
    BigBird(block_size=16, num_random=3): 2 * BOTH * (16 * 8 + 2 * 16),  # and two blocks of queries see all
    Linformer(rank=64): 2 * BOTH * 64 * 2,
    Linear(): 2 * 2 * EVEN.head_dim * EVEN.value_dim * 3 / 4,  # sums of a key serve the two queries that share it
    Nystrom(landmarks=32): 2 * BOTH * 32 * 2,
    Performer(features=128): 2 * 2 * 128 * BOTH,
}


@pytest.mark.parametrize("kernel", PRODUCTS, ids=repr)
def test_operations_are_little_more_than_those_of_the_products(kernel):
    counted = cost_of(kernel, EVEN).flops / (EVEN.batch * EVEN.num_heads * EVEN.query_length)
    assert PRODUCTS[kernel] <= counted <= 1.4 * PRODUCTS[kernel]


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_bytes_hold_operands_and_result_in_their_dtype(kernel):
    tokens = EVEN.batch * EVEN.query_length
    operands = tokens * (EVEN.num_heads + EVEN.num_key_value_heads) * BOTH
    operands += sum(tokens * EVEN.num_heads * math.prod(x.shape) for x in kernel.token_inputs(EVEN).values())
    single, half = (costs.bytes_moved(kernel, EVEN, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    assert single >= 4 * operands
    assert single - half == 2 * operands


# Numbers of 4 bytes for each example, over H = 16 and Hv = 48, of 4 query heads and 2 key heads.
STATES = {
    "Softmax()": 1536 * 2 * (16 + 48),
    "NadarayaWatson(bandwidth=1.0)": 1536 * 2 * (16 + 48),
    "Additive(units=None)": 1536 * (4 * 16 + 2 * 48),
    "SlidingWindow(left=5, right=3, dilation=1, global_tokens=0)": 5 * 2 * (16 + 48),
    "SlidingWindow(left=2, right=2, dilation=3, global_tokens=2)": (2 * 3 + 2) * 2 * (16 + 48),
    "BigBird(block_size=4, num_random=2, num_window=3, num_global=1, seed=0)": 1536 * 2 * (16 + 48),
    # Sums of features and values, and of features.
    "Linear(feature_map='elu+1', epsilon=1e-06)": 2 * (16 * 48 + 16),
    # Those, sums of values, the number of keys, and the running maximum.
    "Performer(features=16, orthogonal=True, seed=0)": 4 * (16 * 48 + 16 + 48 + 1 + 1),
    "Linformer(rank=5, share='none')": None,
    "Nystrom(landmarks=5, iterations=6)": None,
    "Local(block_size=4, layout='contiguous')": 3 * 2 * (16 + 48),
    "Reformer(chunk_size=4, buckets=4, rounds=2, seed=0)": None,
    "Sinkhorn(block_size=4, iterations=3, temperature=0.75)": None,
    "Synthesizer(form='dense', units=None, rank=32)": 1536 * 2 * (16 + 48),
    "SparseTransformer(block_size=6, summary=2)": 1536 * 2 * (16 + 48),
}


@pytest.mark.parametrize("kernel", [kernel for kernel in ZOO if repr(kernel) in STATES], ids=repr)
def test_a_state_is_what_decoding_keeps(kernel):
    numbers, state = STATES[repr(kernel)], kernel.state_bytes(EVEN)
    assert state == (None if numbers is None else EVEN.batch * 4 * numbers)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("kernel", DECODING, ids=repr)
def test_a_state_is_as_large_as_it_says(kernel, dtype):
    dims = Dims(2, 41, 41, 4, 2, 16, 48)
    sizes = {"batch": 2, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "value_dim": 48}
    params = kernel.init(jax.random.key(0), dims)
    state = attnzoo.start(**sizes, max_length=41, kernel=kernel, params=params, dtype=dtype)
    actual = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache))
    assert kernel.state_bytes(dims, dtype) == actual


def test_shared_projections_are_read_once():
    none, heads, kv = (
        attnzoo.costs.bytes_moved(Linformer(rank=5, share=share), EVEN) for share in ("none", "heads", "kv")
    )
    projection = 4 * 5 * EVEN.key_length
    assert (none - heads, heads - kv) == (2 * 3 * projection, projection)


def test_causality_halves_the_work_of_softmax():
    dims = Dims(1, 32768, 32768, 2, 2, 32, 32)
    assert cost_of(Softmax(), dims, is_causal=True).flops == pytest.approx(cost_of(Softmax(), dims).flops / 2, rel=0.05)


@dataclasses.dataclass(frozen=True)
class PlugIn(Kernel):
    """What an author outside writes: an equation, with a learned temperature."""

    supports = Support(causal=True, decode=True)

    def init(self, rng, dims):
        return jnp.ones((dims.num_heads,))

    def head(self, params, draws, q, k, v, visible):
        return dense.attend(dense.scores(q, k) * params, v, visible)[0]


def test_anyones_kernel_is_counted():
    cost = cost_of(PlugIn(), EVEN, is_causal=True)
    pairs = EVEN.batch * EVEN.num_heads * EVEN.query_length * EVEN.key_length
    assert cost.flops == pytest.approx(pairs * 2 * (EVEN.head_dim + EVEN.value_dim), rel=0.1)
    assert cost.state_bytes == 4 * EVEN.batch * 1536 * 2 * (16 + 48)
    silent = dataclasses.make_dataclass("Silent", [], bases=(PlugIn,), frozen=True, namespace={"supports": Support()})
    assert silent().state_bytes(EVEN) is None


def test_params_count_as_operands_of_the_count():
    shape = jax.ShapeDtypeStruct((3, 5), jnp.float32)
    assert counting.flops(lambda x, y: x * y + x, shape, shape) == 30
