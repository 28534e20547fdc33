"""Lines of code that experiments print run as they are printed."""

import pathlib
import runpy
import tempfile

import jax
import numpy as np
import pytest

from attnzoo import KERNELS, Dims
from experiments.show import calls
from tests.few import few

DIMS = Dims(2, 24, 24, 4, 2, 8, 8)


def run(line, dims=DIMS, dtype="float32", length=None):
    """What comes out of a line, given what it may name."""
    length = length or dims.query_length
    of = lambda *shape: jax.random.normal(jax.random.key(0), shape, dtype)
    key = of(dims.batch, length, dims.num_key_value_heads, dims.head_dim)
    given = {"query": of(dims.batch, length, dims.num_heads, dims.head_dim), "key": key, "value": key}
    given["x"] = of(dims.batch, length, dims.num_heads * dims.head_dim)
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder, "line.py")
        script.write_text(line)
        given |= runpy.run_path(str(script), given)
    out = given["out"]
    assert out.shape in (given["query"].shape, given["x"].shape) and out.dtype == dtype
    assert np.isfinite(np.asarray(out, np.float32)).all()
    return given


WRITTEN = [*((name, "float32") for name in KERNELS), ("softmax", "bfloat16"), ("gated_delta", "bfloat16")]
# Of each form of a line: a call, one with arguments, layers, a layer of a length, gates of tokens.
QUICK = ("softmax", "sliding_window", "bigbird", "linear", "performer", "linformer", "additive", "forgetting")


@pytest.mark.parametrize(("name", "dtype"), few(WRITTEN, [*((x, "float32") for x in QUICK), WRITTEN[-1]], several=True))
def test_lines_run_of_every_kernel_in_both_forms_and_where_it_decodes(name, dtype):
    kernel = KERNELS[name]()
    for is_causal in (True, False):
        if kernel.supports.causal if is_causal else kernel.supports.bidirectional:
            line = calls.attending(kernel, DIMS, dtype, is_causal=is_causal)
            assert (", is_causal=True" in line) is is_causal and line == calls.attending(
                repr(kernel), DIMS, dtype, is_causal=is_causal
            )
            run(line, dtype=dtype)
    if kernel.supports.decode:
        run(calls.decoding(kernel, DIMS._replace(query_length=1), dtype), dtype=dtype, length=5)


def test_a_layer_is_there_where_a_kernel_asks_for_more_than_heads():
    """What it learns, which may be of a length, or more of each token; of a plug-in in a row that is not known."""
    lines = {name: calls.attending(KERNELS[name](), DIMS, "float32", is_causal=False) for name in KERNELS}
    layered = {name for name, line in lines.items() if "MultiHeadAttention" in line}
    assert layered == {
        "additive", "linformer", "sinkhorn", "synthesizer", "gated_delta", "delta", "gated_linear", "state_space",
        "kimi_delta", "forgetting", "log_linear",
    }  # fmt: skip
    assert {name for name in layered if "max_length=24" in lines[name]} == {"linformer", "synthesizer"}
    run(calls.attending("tests.broken_kernels.Plain()", DIMS, "float32", is_causal=True))


def test_a_line_has_the_fields_that_are_no_defaults_and_the_implementation():
    told = calls.attending("SlidingWindow(left=15, right=0, dilation=1, global_tokens=0)", DIMS, "float32",
                           is_causal=True, implementation="xla")  # fmt: skip
    call = "import attnzoo; out = attnzoo.attend(query, key, value, kernel=attnzoo.SlidingWindow(left=15, right=0)"
    assert told == f'{call}, is_causal=True, implementation="xla")'
    run(told)
    layer = calls.attending(KERNELS["delta"](), DIMS, "float32", is_causal=True, implementation="pallas")
    assert layer.endswith('  # attend(..., implementation="pallas") was timed, which a layer does not name')
    run(layer)
    assert calls.attending("GatedDeltaNet()", DIMS, "float32", is_causal=True) == (
        "import attnzoo.models; out = attnzoo.models.presets.GatedDeltaNet()"
    )
