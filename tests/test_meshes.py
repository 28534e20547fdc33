"""Batch, heads and sequences that are split over devices: the same line of code, the same numbers, and little sent."""

import numpy as np
import pytest

from attnzoo import (
    Additive,
    Based,
    BigBird,
    CosFormer,
    Delta,
    Forgetting,
    GatedDelta,
    GatedLinear,
    KimiDelta,
    Linear,
    Linformer,
    Local,
    LogLinear,
    NadarayaWatson,
    Nystrom,
    Performer,
    Reformer,
    Retention,
    Sinkhorn,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    Synthesizer,
)
from attnzoo.models import BlockConfig
from attnzoo.testing.zoo import ZOO
from tests import on_devices
from tests.few import few

KERNELS = pytest.mark.parametrize("kernel", few(ZOO, [Softmax(), Linear(), GatedDelta()]), ids=repr)


@KERNELS
def test_split_batch_and_heads_change_nothing(ask, kernel):
    ask(on_devices.with_all_that_it_supports, kernel, 2)


@pytest.mark.parametrize("kernel", [Softmax(), Performer(8), Additive()], ids=repr)
def test_fewer_key_heads_than_devices(ask, kernel):
    ask(on_devices.with_all_that_it_supports, kernel, 1)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_gradients_of_keys_that_devices_share_are_added_up(ask, kv_heads):
    ask(on_devices.keys_that_devices_share, Softmax(), kv_heads)


def test_key_heads_that_devices_do_not_divide(ask):
    ask(on_devices.key_heads_that_devices_do_not_divide)


@pytest.mark.parametrize("kind", few(["Explicit", "Auto"], ["Explicit"]))
@KERNELS
def test_devices_send_each_other_nothing(ask, kernel, kind):
    ask(on_devices.without_a_word_between_devices, kernel, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(63, 0), Linear()], ids=repr)
def test_temporary_memory_falls_with_devices(ask, kernel):
    ask(on_devices.temporary_memory, kernel)


@pytest.mark.parametrize("small", [0, 2**20], ids=["loop", "at once"])
@KERNELS
def test_a_shard_map_of_the_caller(ask, kernel, small):
    ask(on_devices.in_a_shard_map_of_the_caller, kernel, small)


@pytest.mark.parametrize(
    "kernel, kv_heads", [(Softmax(), 1), (SlidingWindow(3, 0), 2), (Linear(), 2), (Performer(8), 1)]
)
def test_decoding(ask, kernel, kv_heads):
    ask(on_devices.step_by_step, kernel, kv_heads)


KEEP_ALL_TOKENS = [Softmax(), Additive(), NadarayaWatson(), Synthesizer(), BigBird(4, 1), SlidingWindow(3, 0)]


@pytest.mark.parametrize("kind", few(["Explicit", "Auto", "Manual"], ["Explicit"]))
@pytest.mark.parametrize("kernel", few(KEEP_ALL_TOKENS, [Softmax()]), ids=repr)
def test_decoding_over_the_length_of_a_cache(ask, kernel, kind):
    ask(on_devices.decoded_over_the_length, kernel, kind)


@pytest.mark.slow
def test_decoding_over_all_axes(ask):
    ask(on_devices.decoded_over_all_axes)


def test_caches_are_made_in_parts(ask):
    ask(on_devices.caches_in_parts)


@pytest.mark.parametrize("context", few([True, False], [True]), ids=["in a mesh", "without"])
@pytest.mark.parametrize("name", on_devices.CALLS)
def test_calls(ask, name, context):
    ask(on_devices.a_call, name, "of batch and heads", context)


@pytest.mark.parametrize("way", list(on_devices.WAYS)[1:])
@pytest.mark.parametrize(
    "name",
    [
        "of a residual", "of weights", "of weights of a few queries", "under remat", "in forward mode",
        "of keys whose sequence is not split", "of a sequence of keys alone",
    ],
)  # fmt: skip
def test_other_ways_to_split(ask, name, way):
    ask(on_devices.a_call, name, way, True)


@pytest.mark.parametrize("kernel", [SlidingWindow(3, 0), Performer(8)], ids=repr)
def test_layers(ask, kernel):
    ask(on_devices.in_layers, kernel)


@pytest.mark.slow
def test_recurrent_layers(ask):
    ask(on_devices.in_recurrent_layers)


@pytest.mark.slow
def test_models_and_text(ask):
    ask(on_devices.in_models)


SPLIT_QUICKLY = [
    (Softmax(), name) for name in ("nothing", "packed documents", "padding of whole parts", "arrays", "functions")
] + [
    (SlidingWindow(2, 1), "a window"),
    (Performer(8), "the past"),
    (Performer(8), "nothing"),
    (Performer(8), "documents"),
    (Linear(), "documents and the past"),
    (Linear(), "segments in any order and the past"),
    (CosFormer(30), "the past"),
    (CosFormer(30), "nothing"),
    (Synthesizer(), "the past"),
    (SparseTransformer(3, 1), "the past"),
    (Nystrom(5), "nothing"),
    (Linformer(5), "nothing"),
]
SPLIT = [
    Softmax(), NadarayaWatson(), Additive(), Synthesizer(), Synthesizer(form="random", rank=4), SlidingWindow(2, 1),
    SlidingWindow(2, 3, 2), SlidingWindow(9, 9), SlidingWindow(3, 2, 1, 2), Local(3), Local(4), Local(4, "strided"),
    SparseTransformer(3, 1), SparseTransformer(4, 1), BigBird(2, 1, 1, 1), Linear(), Performer(8), Linformer(5),
    Nystrom(5), Reformer(4, 4), Sinkhorn(4), CosFormer(30), Based(), Forgetting(), LogLinear(3),
]  # fmt: skip


def _is_supported(kernel, name):
    needs = {
        "the past": ["causal"], "packed documents": ["causal", "segments", "dropout"],
        "documents and the past": ["causal", "segments"],
        "documents": ["segments"], "segments in any order": ["segments"],
        "segments in any order and the past": ["causal", "segments"],
        "padding of whole parts": ["causal", "key_mask"], "a rule of biases": ["causal", "bias"],
        "a rule that looks at queries": ["causal", "bias"], "arrays": ["causal", "bias", "mask"],
        "columns of biases": ["bias", "mask"], "an offset": ["causal"], "an offset for each example": ["causal"],
        "a window": ["mask", "bias", "soft_cap", "scale"], "global tokens": ["causal", "global_tokens"],
        "global tokens in both directions": ["global_tokens", "bias", "segments"], "a residual": ["causal", "residual"],
        "functions": ["mask", "score_mod"],
    }  # fmt: skip
    fields = needs.get(name, [])
    return all(getattr(kernel.supports, x) for x in (fields if "causal" in fields else [*fields, "bidirectional"]))


@pytest.mark.parametrize("kernel, name", SPLIT_QUICKLY, ids=repr)
def test_split_sequences_change_nothing(ask, kernel, name):
    if name == "packed documents" and not kernel.supports.dropout:
        name = "segments in any order"
    ask(on_devices.of_a_split_sequence, kernel, name, 4, 24)


ORDERED = [GatedDelta(), Delta(), GatedLinear(), KimiDelta(), Retention(), LogLinear(4)]
ORDERED_QUICKLY = [
    (GatedDelta(), "the past", 4, 45, "Auto", False),
    (GatedLinear(), "padding of whole parts", 8, 64, "Explicit", True),
    (Retention(), "segments in any order and the past", 2, 24, "Explicit", False),
    pytest.param(LogLinear(4), "documents and the past", 4, 24, "Explicit", False, marks=pytest.mark.every_kernel),
]
IN_BOTH_WAYS = ("the past", "padding of whole parts", "documents and the past")
ORDERED_FURTHER = [
    pytest.param(kernel, name, *row, at_once, marks=pytest.mark.slow)
    for kernel in [*ORDERED, Performer(8)]
    for name in (*IN_BOTH_WAYS, "segments in any order and the past", "an offset")
    for row in ((2, 24, "Explicit"), (4, 45, "Auto"), (8, 64, "Explicit"))
    for at_once in ((False, True) if name in IN_BOTH_WAYS else (False,))
    if (kernel, name, *row, at_once) not in ORDERED_QUICKLY
    # XLA's program for one device, of 16 chunks with segments, ends with its process on a CPU.
    and not (at_once and row[1] == 64 and "documents" in name)
]


@pytest.mark.parametrize("kernel, name, count, length, kind, at_once", [*ORDERED_QUICKLY, *ORDERED_FURTHER], ids=repr)
def test_split_sequences_with_an_order_in_time(ask, kernel, name, count, length, kind, at_once):
    question = on_devices.of_a_split_sequence, kernel, name, count, length, kind
    ask(on_devices.in_chunks_of_four, at_once, *question)


@pytest.mark.slow
@pytest.mark.parametrize("count, length", [(2, 6), (4, 24), (8, 24)])
@pytest.mark.parametrize("name", on_devices.ASKED_OF_A_SEQUENCE)
@pytest.mark.parametrize("kernel", SPLIT, ids=repr)
def test_all_that_is_asked_of_split_sequences(ask, kernel, name, count, length):
    if not _is_supported(kernel, name):
        pytest.skip("the kernel has no such thing")
    ask(on_devices.of_a_split_sequence, kernel, name, count, length)


@pytest.mark.parametrize(
    "kernel", few([Softmax(), SlidingWindow(3, 2), Performer(8), Reformer(4, 4)], [Softmax()]), ids=repr
)
def test_parts_of_unequal_length_under_auto_axes(ask, kernel):
    ask(on_devices.of_a_split_sequence, kernel, "the past" if kernel.supports.causal else "nothing", 4, 23, "Auto")


@pytest.mark.parametrize(
    "kernel, name",
    [
        (Softmax(), "the past"),
        (Linear(), "segments in any order"),
        (Nystrom(5), "nothing"),
        (Reformer(4, 4), "nothing"),
        (Local(4), "packed documents"),
    ],
    ids=repr,
)
def test_fewer_heads_than_parts(ask, kernel, name):
    ask(on_devices.of_a_split_sequence, kernel, name, 8, 24, "Explicit", 1)


@KERNELS
def test_a_shard_map_of_the_caller_over_the_sequence(ask, kernel):
    ask(on_devices.in_a_shard_map_over_the_sequence, kernel)


# How often each of 8 devices sends its part of the queries: 64 tokens of 8 heads of 16. A state is 17 / 64 of it, what
# is added up is sent twice but for an eighth, and keys and values count for two.
STATE, ADDED_UP, HANDED_AROUND = 17 / 64, 7 / 4, 7
PERMUTE, GATHER, REDUCE, EXCHANGE = "collective-permute", "all-gather", "all-reduce", "all-to-all"
BOUNDS = [
    (Softmax(), False, 2 * HANDED_AROUND, [PERMUTE]),
    (Softmax(), True, 2 * HANDED_AROUND + 4.2, [PERMUTE]),  # zigzag: all four once more, and what weighs the outputs
    (NadarayaWatson(), False, 2 * HANDED_AROUND, [PERMUTE]),
    (Additive(units=8), False, 1.5 * HANDED_AROUND, [PERMUTE]),  # of half as many units as a head has
    (Synthesizer(units=8), False, 1.6 * HANDED_AROUND, [PERMUTE]),
    (SlidingWindow(16, 0), True, 2 * 16 / 64, [PERMUTE]),
    (SlidingWindow(100, 20), False, 2 * 120 / 64, [PERMUTE]),
    (SlidingWindow(8, 8, 1, 2), False, 2 * 16 / 64 + 5 * ADDED_UP * 2 / 64, [PERMUTE, GATHER, REDUCE]),
    (Local(64), True, 0, []),
    (SparseTransformer(64, 8), True, 2 * HANDED_AROUND / 8, [GATHER]),
    (Linear(), False, ADDED_UP * STATE, [REDUCE]),
    (Linear(), True, 4 * STATE, [PERMUTE]),  # log2 of the devices, and once more
    (Performer(16), False, ADDED_UP * STATE * 1.2, [REDUCE, GATHER]),
    (Performer(16), True, 4 * STATE * 1.2, [PERMUTE]),
    (Retention(), True, 4 * 16 / 64 * 1.01, [PERMUTE]),
    (GatedLinear(), True, 4 * STATE, [PERMUTE]),  # a decay for each channel beside the state
    (GatedDelta(), True, 4 * 2 * 16 / 64, [PERMUTE]),  # a matrix beside it
    (Based(), True, 4 * STATE * 153 / 16, [PERMUTE]),  # of 153 features
    (CosFormer(512), True, 4 * STATE * 2.2, [PERMUTE]),  # of two waves, and what they weigh
    (Forgetting(), True, (4 + 1 / 16) * 7 / 8, [EXCHANGE]),  # and a number of each token
    (Linformer(16), False, 2 * ADDED_UP * 16 / 64, [REDUCE]),
    (Nystrom(8, 2), False, 3 * ADDED_UP * 8 / 64 * 1.3, [REDUCE, GATHER]),
    (BigBird(8, 1, 1, 1), True, 4 * 7 / 8, [EXCHANGE]),
    (Reformer(16), False, 4 * 7 / 8, [EXCHANGE]),
    (Sinkhorn(16), False, 4 * 7 / 8, [EXCHANGE]),
]


# One of each way in which parts meet.
MEETING = [
    (Softmax(), True), (SlidingWindow(8, 8, 1, 2), False), (Linear(), True), (Nystrom(8, 2), False),
    (Forgetting(), True),
]  # fmt: skip


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    "kernel, is_causal, most, kinds", few(BOUNDS, [x for x in BOUNDS if x[:2] in MEETING], several=True), ids=repr
)
def test_what_devices_send(ask, kernel, is_causal, most, kinds):
    ask(on_devices.parts_sent, kernel, is_causal, most, kinds)


@pytest.mark.parametrize(
    "kernel, is_causal, most",
    [
        (Performer(16), True, 4 * STATE * 1.2),
        (Performer(16), False, 8 * STATE * 1.2),  # a state from either side
        (Retention(), True, 4 * 16 / 64 * 1.01),
        (GatedDelta(), True, 4 * 2 * 16 / 64),
    ],
    ids=repr,
)
def test_what_devices_send_of_packed_documents(ask, kernel, is_causal, most):
    ask(on_devices.documents_sent, kernel, is_causal, most + 0.06)  # and an id of each token


def test_a_window_of_fewer_queries_than_keys(ask):
    ask(on_devices.window_over_more_keys, SlidingWindow(2, 0), 2 * (1 + 7) / 3)  # tokens before and behind a part of 3


def test_what_devices_send_where_projected_keys_would_be_more(ask):
    ask(on_devices.keys_of_few_heads_sent, Additive(), 2 * HANDED_AROUND)


IDS = np.arange(24)[None] // 6


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({"is_causal": True}, 36),
        pytest.param({"local_window_size": (3, 0), "query_offset": np.zeros(4, int)}, 15, marks=pytest.mark.slow),
        ({"query_segment_ids": IDS.repeat(4, 0), "key_value_segment_ids": IDS.repeat(4, 0)}, 16),
        pytest.param({"key_value_seq_lengths": np.array([3, 1, 2, 3])}, 8, marks=pytest.mark.slow),
    ],
    ids=["the past", "a window somewhere", "packed documents", "padding"],
)
def test_keys_that_no_query_sees_pass_by(ask, asked, expected):
    ask(on_devices.visits_of_a_ring, asked, expected)


AS_THE_OUTPUT = 5 * (8 + 4)
KEYS_IN_PARTS = [
    (Softmax(), "arrays", 5, AS_THE_OUTPUT),
    (Softmax(), "the past", 5, AS_THE_OUTPUT),
    (NadarayaWatson(), "padding", 5, AS_THE_OUTPUT),
    (Additive(), "the past", 5, AS_THE_OUTPUT),
    (Performer(8), "padding", 5, 9 * 9 + 4),
    (CosFormer(30), "padding", 5, 2 * 8 * 9 / 2),  # of half as many heads
    (Linformer(5), "padding", 5, 2 * 5 * 8),
    (Nystrom(4), "padding", 24, 2 * 4 * (8 + 4)),
]


@pytest.mark.parametrize("kernel, name, length, most", KEYS_IN_PARTS, ids=repr)
def test_keys_in_parts_beside_whole_queries(ask, kernel, name, length, most):
    kinds = [REDUCE, GATHER] if isinstance(kernel, Performer | Nystrom) else [REDUCE]
    ask(on_devices.keys_in_parts, kernel, name, length, 1.5 * most, kinds)  # what 4 devices add up is sent so often


def test_messages_in_loops_are_counted(ask):
    ask(on_devices.messages_in_loops)


def test_messages_to_oneself_are_not_counted(ask):
    ask(on_devices.messages_to_oneself)


def test_axes_that_are_not_there_are_refused(ask):
    ask(on_devices.axes_that_are_not_there)


@pytest.mark.slow
def test_an_axis_splits_one_thing(ask):
    ask(on_devices.axes_that_split_something_else)


@pytest.mark.slow
def test_functions_that_close_over_what_is_split(ask):
    ask(on_devices.functions_of_what_is_split)


PUBLISHED = BlockConfig(
    width=32, num_heads=4, num_kv_heads=2, norm="both", norm_kind="rms", activation="swiglu", normalize_qk="rms",
    conv_width=3, qkv_activation="silu", normalize_out=True, gate="silu", sinks=True, soft_cap=3.0, logits_soft_cap=5.0,
)  # fmt: skip


@pytest.mark.parametrize("kind", few(["Explicit", "Auto"], ["Explicit"]))
@pytest.mark.parametrize(
    "config",
    [
        BlockConfig(width=32, num_heads=4),
        pytest.param(BlockConfig(width=32, num_heads=4, num_kv_heads=2, norm="after"), marks=pytest.mark.slow),
        pytest.param(BlockConfig(width=32, num_heads=4, remat=True, dtype="bfloat16"), marks=pytest.mark.slow),
        pytest.param(PUBLISHED, marks=pytest.mark.slow),
    ],
    ids=["plain", "shared keys", "remat in bfloat16", "all that published blocks have"],
)
def test_training_with_split_parameters(ask, config, kind):
    ask(on_devices.training_in_parts, kind, config)


@pytest.mark.slow
def test_training_with_split_gates_of_tokens(ask):
    ask(on_devices.training_in_parts, "Explicit", BlockConfig(width=32, num_heads=4, gate="silu"), None, GatedLinear())


@pytest.mark.slow
def test_training_with_parameters_split_by_rules(ask):
    ask(on_devices.training_in_parts, "Explicit", BlockConfig(width=32, num_heads=4), on_devices.RULES)


def test_checkpoints_of_other_devices(ask, tmp_path):
    ask(on_devices.checkpoint_of_a_mesh, str(tmp_path / "saved"))


@pytest.mark.parametrize(
    "kind, kernel", [("Explicit", Softmax()), pytest.param("Auto", GatedDelta(), marks=pytest.mark.slow)], ids=str
)
def test_logical_names_of_flax(ask, kind, kernel):
    ask(on_devices.logical_names_of_flax, kind, kernel)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"task": "mqar(pairs=4, vocabulary=2048)", "dropout": 0.1},
        pytest.param({"task": "listops(min_length=10, max_length=30)", "pooling": "cls"}, marks=pytest.mark.slow),
        pytest.param({"task": "masked_text", "positions": "t5", "eval_lengths": "64"}, marks=pytest.mark.slow),
        pytest.param({"task": "text", "kernels": "linear", "tokens": 96, "tied": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_cell_of_a_sweep(ask, given, tmp_path):
    ask(on_devices.learned_on_a_mesh, str(tmp_path), given)


def test_text_from_parameters_in_parts(ask):
    ask(on_devices.text_from_parameters_in_parts)


@pytest.mark.slow
def test_pairs_of_documents(ask):
    ask(on_devices.pairs_of_documents)


def test_parameters_of_a_linen_layer(ask):
    ask(on_devices.linen_in_parts)


@pytest.mark.slow
def test_recurrent_models(ask):
    ask(on_devices.in_recurrent_models)


def test_axes_of_no_mesh_are_refused(ask):
    ask(on_devices.axes_of_no_mesh)
