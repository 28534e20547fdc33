"""The catalogue's declarations, held to what each kernel must support: more is welcome, less is a defect."""

import pytest

from attnzoo import KERNELS

EVERYTHING = {"causal", "key_mask", "segments", "mask", "bias", "cross", "dropout", "decode"}
REQUIRED = {
    "softmax": EVERYTHING,
    "nadaraya_watson": EVERYTHING,
    "additive": EVERYTHING,
    "sliding_window": EVERYTHING,
    "bigbird": EVERYTHING - {"cross"},
    "linear": {"causal", "key_mask", "segments", "cross", "decode"},
    "performer": {"causal", "key_mask", "segments", "cross", "decode"},
    "linformer": {"key_mask", "cross"},
    "nystrom": {"key_mask"},
    "local": EVERYTHING,
    "reformer": {"key_mask", "bias", "dropout"},
    "sinkhorn": {"key_mask"},
    "synthesizer": EVERYTHING,
    "sparse_transformer": EVERYTHING,
}


def missing(name: str, kernel) -> set[str]:
    """What the kernel should declare and does not."""
    return {field for field in REQUIRED[name] if not getattr(kernel.supports, field)}


@pytest.mark.parametrize("name", KERNELS)
def test_declarations_hold_what_the_table_demands(name):
    assert not missing(name, KERNELS[name])


@pytest.mark.parametrize("name", KERNELS)
def test_a_refusal_has_a_reason(name):
    supports = KERNELS[name].supports
    everything = all(getattr(supports, field) for field in (*EVERYTHING, "scale", "residual"))
    assert everything or "not declared" not in supports.why


def test_quadratic_kernels_say_so():
    quadratic = {"softmax", "nadaraya_watson", "additive", "synthesizer", "sinkhorn", "sparse_transformer"}
    assert {name for name, kernel in KERNELS.items() if kernel.supports.work > 1} == quadratic
    assert {name for name, kernel in KERNELS.items() if kernel.supports.memory > 1} == {"sinkhorn"}
