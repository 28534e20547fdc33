"""What compiled programs launch and move, counted by hand on small ones."""

import jax
import jax.numpy as jnp
import pytest

from attnzoo.costs import hlo, launches, loops
from attnzoo.costs.launches import Made

# A loop of four steps that takes a row of eight numbers and writes it elsewhere, as a compiler for GPUs writes it.
GPU = """
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

%fused_slice (p.0: f32[4,8], p.1: s32[]) -> f64[1,8] {
  %p.0 = f32[4,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero.0 = s32[] constant(0)
  %wide.0 = f64[4,8]{1,0} convert(%p.0)
  ROOT %row.0 = f64[1,8]{1,0} dynamic-slice(%wide.0, %p.1, %zero.0), dynamic_slice_sizes={1,8}
}

%fused_update (p.2: f32[4,8], p.3: f64[1,8], p.4: s32[]) -> f32[4,8] {
  %p.2 = f32[4,8]{1,0} parameter(0)
  %p.3 = f64[1,8]{1,0} parameter(1)
  %p.4 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %narrow.1 = f32[1,8]{1,0} convert(%p.3)
  %update.1 = f32[4,8]{1,0} dynamic-update-slice(%p.2, %narrow.1, %p.4, %zero.1)
  ROOT %bitcast.1 = f32[4,8]{1,0} bitcast(%update.1)
}

%fused_fresh () -> f32[4,8] {
  %zero.2 = f32[] constant(0)
  %one.2 = s32[] constant(1)
  %full.2 = f32[4,8]{1,0} broadcast(%zero.2), dimensions={}
  %row.2 = f32[1,8]{1,0} broadcast(%zero.2), dimensions={}
  ROOT %update.2 = f32[4,8]{1,0} dynamic-update-slice(%full.2, %row.2, %one.2, %one.2)
}

%fused_step (p.6: s32[]) -> s32[] {
  %p.6 = s32[] parameter(0)
  %one.3 = s32[] constant(1)
  ROOT %next.3 = s32[] add(%p.6, %one.3)
}

%body (state.4: (s32[], f32[4,8], f32[4,8])) -> (s32[], f32[4,8], /*index=2*/f32[4,8]) {
  %state.4 = (s32[], f32[4,8]{1,0}, f32[4,8]{1,0}) parameter(0)
  %i.4 = s32[] get-tuple-element(%state.4), index=0
  %x.4 = f32[4,8]{1,0} get-tuple-element(%state.4), index=1
  %y.4 = f32[4,8]{1,0} get-tuple-element(%state.4), index=2
  %row.4 = f64[1,8]{1,0} fusion(%x.4, %i.4), kind=kLoop, calls=%fused_slice
  %new.4 = f32[4,8]{1,0} fusion(%y.4, %row.4, %i.4), kind=kLoop, calls=%fused_update
  %next.4 = s32[] fusion(%i.4), kind=kLoop, calls=%fused_step
  ROOT %out.4 = (s32[], f32[4,8]{1,0}, f32[4,8]{1,0}) tuple(%next.4, %x.4, /*index=2*/%new.4)
}

%condition (state.5: (s32[], f32[4,8], f32[4,8])) -> pred[] {
  %state.5 = (s32[], f32[4,8]{1,0}, f32[4,8]{1,0}) parameter(0)
  %i.5 = s32[] get-tuple-element(%state.5), index=0
  %limit.5 = s32[] constant(4)
  ROOT %less.5 = pred[] compare(%i.5, %limit.5), direction=LT
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0), metadata={op_name="x"}
  %zero = s32[] constant(0)
  %start = s32[] copy(%zero)
  %fresh = f32[4,8]{1,0} fusion(), kind=kLoop, calls=%fused_fresh
  %state = (s32[], f32[4,8]{1,0}, f32[4,8]{1,0}) tuple(%start, %x, %fresh)
  %loop = (s32[], f32[4,8]{1,0}, f32[4,8]{1,0}) while(%state), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}, backend_config={"known_trip_count":{"n":"4"}}
  %y = f32[4,8]{1,0} get-tuple-element(%loop), index=2
  %product = (f32[4,8]{1,0}, s8[4194304]{0}) custom-call(%x, %y), custom_call_target="__cublas$gemm"
  ROOT %result = f32[4,8]{1,0} get-tuple-element(%product), index=0
}
"""  # noqa: E501
# Of a step: a row read (its float32 numbers, and where it stands), a row of float64 written; that read, and a row
# updated in place; the counter. Before it: a counter, and an array that a fusion makes whole. After it: a product.
GPU_MADE = Made(4 * 3 + 3, 4, 4 * ((32 + 4 + 64) + (64 + 4 + 32) + (4 + 4)) + (4 + 4) + 128 + 3 * 128)

# A loop in a loop, whose lengths nobody tells, over what was fetched into another memory, as a compiler for TPUs
# writes it.
TPU = """
HloModule jit_g, is_scheduled=true

%fused (p.0: bf16[16,64]) -> f32[8,128] {
  %p.0 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %out.0 = f32[8,128]{1,0:T(8,128)} some-op(%p.0)
}

%inner_body (state.1: (s32[], bf16[16,64])) -> (s32[], bf16[16,64]) {
  %state.1 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %j.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %x.1 = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state.1), index=1
  %two.1 = s32[]{:T(128)} constant(2)
  %written.1 = f32[8,128]{1,0:T(8,128)} fusion(%x.1), kind=kLoop, calls=%fused
  %next.1 = s32[]{:T(128)} add(%j.1, %two.1)
  ROOT %out.1 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}) tuple(%next.1, %x.1)
}

%inner_condition (state.2: (s32[], bf16[16,64])) -> pred[] {
  %state.2 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %j.2 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %limit.2 = s32[]{:T(128)} constant(5)
  ROOT %less.2 = pred[]{:T(512)} compare(%j.2, %limit.2), direction=LT
}

%body (state.3: (s32[], bf16[16,64], s32[])) -> (s32[], bf16[16,64], s32[]) {
  %state.3 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) parameter(0)
  %i.3 = s32[]{:T(128)} get-tuple-element(%state.3), index=0
  %x.3 = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state.3), index=1
  %limit.3 = s32[]{:T(128)} get-tuple-element(%state.3), index=2
  %zero.3 = s32[]{:T(128)} constant(0)
  %one.3 = s32[]{:T(128)} constant(1)
  %inner.3 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}) tuple(%zero.3, %x.3)
  %loop.3 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}) while(%inner.3), condition=%inner_condition, body=%inner_body
  %next.3 = s32[]{:T(128)} add(%i.3, %one.3)
  ROOT %out.3 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) tuple(%next.3, %x.3, %limit.3)
}

%condition (state.4: (s32[], bf16[16,64], s32[])) -> pred[] {
  %state.4 = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) parameter(0)
  %i.4 = s32[]{:T(128)} get-tuple-element(%state.4), index=0
  %limit.4 = s32[]{:T(128)} get-tuple-element(%state.4), index=2
  ROOT %less.4 = pred[]{:T(512)} compare(%i.4, %limit.4), direction=LT
}

ENTRY %main (q: bf16[16,64], n: s32[]) -> s32[] {
  %q = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %n = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %three = s32[]{:T(128)} constant(3)
  %fetch = (bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, bf16[16,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%q)
  %near = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} copy-done(%fetch)
  %state = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) tuple(%zero, %near, %three)
  %loop = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}) while(%state), condition=%condition, body=%body, metadata={op_name="jit(g)/while"}
  ROOT %result = s32[]{:T(128)} get-tuple-element(%loop), index=0
}
"""  # noqa: E501
# Rows of 64 numbers fill tiles of 128, and what is fetched is read once; three steps of three (0, 2 and 4) write 4 KiB.
TPU_MADE = Made(1 + 3 * 3, 3 * 3, 16 * 128 * 2 + 9 * 8 * 128 * 4)


def made(text: str) -> Made:
    return launches.made_by(hlo.parse(text))


@pytest.mark.parametrize(("text", "expected"), [(GPU, GPU_MADE), (TPU, TPU_MADE)], ids=["gpu", "tpu"])
def test_a_program_launches_and_moves_what_was_counted_by_hand(text, expected):
    assert made(text) == expected


def test_a_kernel_moves_what_it_says():
    """And where it says nothing, its operands and results, once each."""
    config = 'backend_config={"custom_call_config":{"cost_estimate":{"flops":"9","bytes_accessed":"4096"}}}'
    call = """
ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%x), custom_call_target="tpu_custom_call", CONFIG
}
"""
    assert made(call.replace("CONFIG", config)) == Made(1, 0, 4096.0)
    assert made(call.replace(", CONFIG", "")) == Made(1, 0, 2 * 8 * 128 * 4.0)


def test_a_loop_whose_length_is_not_told_is_followed():
    assert made(GPU.replace('"known_trip_count":{"n":"4"}', "")) == GPU_MADE


def test_a_loop_that_depends_on_data_is_said_and_not_guessed():
    with pytest.raises(loops.Unknown, match=r"as often as data say: jit\(g\)/while"):
        made(TPU.replace("tuple(%zero, %near, %three)", "tuple(%zero, %near, %n)"))


def test_a_branch_counts_as_the_one_that_moves_most():
    branches = """
%few (p.0: f32[8]) -> f32[8] {
  ROOT %p.0 = f32[8]{0} parameter(0)
}

%many (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %copy.1 = f32[8]{0} copy(%p.1)
}

ENTRY %main (n: s32[], x: f32[8]) -> f32[8] {
  %n = s32[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %y = f32[8]{0} conditional(%n, %x, %x), branch_computations={%few, %many}
}
"""
    assert made(branches) == Made(1, 0, 64)


def test_programs_of_this_machine_are_read_too():
    def steps(x):
        return jax.lax.fori_loop(0, 7, lambda _, x: jnp.sin(x) @ x, x)

    found = launches.made(jax.jit(steps).lower(jnp.ones((16, 16))).compile())
    assert found.steps == 7 and found.launches >= 7 and found.bytes >= 7 * 2 * 16 * 16 * 4


def test_types_tell_sizes_layouts_and_memories():
    (first, second) = hlo.arrays("(bf16[3,5]{0,1:T(8,128)(2,1)S(1)}, pred[])")
    assert (first.numbers, first.bytes, first.space) == (15, 8 * 128 * 2, 1)  # 5 fill up to 8, 3 to 128
    assert (second.dtype, second.sizes, second.bytes) == ("pred", (), 1)
    assert [hlo.width(dtype) for dtype in ("f8e4m3fn", "s4", "c64", "token")] == [1, 0.5, 8, 0]
