"""Batch and heads that are split over devices: the same line of code, the same numbers, and nothing sent."""

import concurrent.futures
import multiprocessing
import os

import pytest

from attnzoo import Additive, Linear, Performer, SlidingWindow, Softmax
from attnzoo.testing.zoo import ZOO
from tests import on_devices

# One of each engine; others, which stand on the same, if slow.
QUICK = ("Softmax", "Performer", "Reformer")
KERNELS = [
    pytest.param(kernel, id=repr(kernel), marks=[pytest.mark.slow] * (type(kernel).__name__ not in QUICK))
    for kernel in ZOO
]


@pytest.fixture(scope="module")
def ask():
    """Puts a question of `on_devices` to a process with several devices, which it has from the start or never."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={on_devices.DEVICES}"
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(os.getpid).result()
        os.environ["XLA_FLAGS"] = flags

        def asked(question, *args):
            failure = process.submit(on_devices.told, question, *args).result()
            assert failure is None, failure

        yield asked


@pytest.mark.parametrize("kernel", KERNELS)
def test_split_batch_and_heads_change_nothing(ask, kernel):
    ask(on_devices.with_all_that_it_supports, kernel, 2)


@pytest.mark.parametrize("kernel", [Softmax(), Performer(8), Additive()], ids=repr)
def test_fewer_key_heads_than_devices(ask, kernel):
    ask(on_devices.with_all_that_it_supports, kernel, 1)


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_devices_send_each_other_nothing(ask, kernel, kind):
    ask(on_devices.without_a_word_between_devices, kernel, kind)


@pytest.mark.parametrize("small", [0, 2**20], ids=["loop", "at once"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_shard_map_of_the_caller(ask, kernel, small):
    ask(on_devices.in_a_shard_map_of_the_caller, kernel, small)


@pytest.mark.parametrize(
    "kernel, kv_heads", [(Softmax(), 1), (SlidingWindow(3, 0), 2), (Linear(), 2), (Performer(8), 1)]
)
def test_decoding(ask, kernel, kv_heads):
    ask(on_devices.step_by_step, kernel, kv_heads)


@pytest.mark.parametrize("context", [True, False], ids=["in a mesh", "without"])
@pytest.mark.parametrize("name", on_devices.CALLS)
def test_calls(ask, name, context):
    ask(on_devices.a_call, name, "of batch and heads", context)


@pytest.mark.parametrize("way", list(on_devices.WAYS)[1:])
@pytest.mark.parametrize("name", ["of a residual", "of weights", "under remat"])
def test_other_ways_to_split(ask, name, way):
    ask(on_devices.a_call, name, way, True)


@pytest.mark.parametrize("kernel", [pytest.param(SlidingWindow(3, 0), marks=pytest.mark.slow), Performer(8)], ids=repr)
def test_layers(ask, kernel):
    ask(on_devices.in_layers, kernel)


def test_models_and_text(ask):
    ask(on_devices.in_models)
