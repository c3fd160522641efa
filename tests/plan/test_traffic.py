"""Bytes that a compiled program moves, counted by hand."""
# ruff: noqa: E501 (a compiler's lines are as long as they are)

import pytest

from mede2_jax.plan.hlo import Program
from mede2_jax.plan.traffic import Kernel, kernel_bytes, product_flops, stored, traffic

# Four layers: a weight is sliced out of its stack and copied, multiplied with, and the result is kept in a stack; then what only adds.
TEXT = """HloModule jit_train_step, is_scheduled=true

%sliced (stack: bf16[4,256,512], at: s32[]) -> bf16[1,256,512] {
  %stack = bf16[4,256,512]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %one = bf16[1,256,512]{2,1,0} dynamic-slice(%stack, %at, %zero, %zero), dynamic_slice_sizes={1,256,512}
}

%kept (into: bf16[4,128,512], at.1: s32[], what: bf16[128,512]) -> bf16[4,128,512] {
  %into = bf16[4,128,512]{2,1,0} parameter(0)
  %at.1 = s32[] parameter(1)
  %what = bf16[128,512]{1,0} parameter(2)
  %seen = bf16[1,128,512]{2,1,0} bitcast(%what)
  %zero.1 = s32[] constant(0)
  ROOT %put = bf16[4,128,512]{2,1,0} dynamic-update-slice(%into, %seen, %at.1, %zero.1, %zero.1)
}

%doubled (a: bf16[128,512]) -> (bf16[128,512], f32[128]) {
  %a = bf16[128,512]{1,0} parameter(0)
  %twice = bf16[128,512]{1,0} add(%a, %a)
  %line = bf16[128,1]{1,0} slice(%a), slice={[0:128], [0:1]}
  %flat = bf16[128]{0} bitcast(%line)
  %wide = f32[128]{0} convert(%flat)
  ROOT %both = (bf16[128,512]{1,0}, f32[128]{0}) tuple(%twice, %wide)
}

%layer (carry: (s32[], bf16[4,256,512], bf16[128,256], bf16[4,128,512])) -> (s32[], bf16[4,256,512], bf16[128,256], bf16[4,128,512]) {
  %carry = (s32[], bf16[4,256,512]{2,1,0}, bf16[128,256]{1,0}, bf16[4,128,512]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %w = bf16[4,256,512]{2,1,0} get-tuple-element(%carry), index=1
  %x = bf16[128,256]{1,0} get-tuple-element(%carry), index=2
  %keep = bf16[4,128,512]{2,1,0} get-tuple-element(%carry), index=3
  %weight.5 = bf16[1,256,512]{2,1,0} fusion(%w, %i), kind=kCustom, calls=%sliced, metadata={op_name="jit(train_step)/jvp()/while/body/dynamic_slice"}
  %flat.1 = bf16[256,512]{1,0} bitcast(%weight.5)
  %product.1 = (bf16[128,512]{1,0}, s8[33554432]{0}) custom-call(%x, %flat.1), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(train_step)/jvp()/while/body/dot_general"}
  %y = bf16[128,512]{1,0} get-tuple-element(%product.1), index=0
  %stacked.3 = bf16[4,128,512]{2,1,0} fusion(%keep, %i, %y), kind=kCustom, calls=%kept
  %pair.7.remat2 = (bf16[128,512]{1,0}, f32[128]{0}) fusion(%y), kind=kLoop, calls=%doubled, metadata={op_name="jit(train_step)/jvp()/while/body/add"}
  ROOT %out = (s32[], bf16[4,256,512]{2,1,0}, bf16[128,256]{1,0}, bf16[4,128,512]{2,1,0}) tuple(%i, %w, %x, %stacked.3)
}

%more (carry.1: (s32[])) -> pred[] {
  %carry.1 = (s32[]) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (p: bf16[4,256,512], q: bf16[128,256], h: bf16[128,8]) -> bf16[128,256] {
  %p = bf16[4,256,512]{2,1,0} parameter(0)
  %q = bf16[128,256]{1,0} parameter(1)
  %h = bf16[128,8]{1,0} parameter(2)
  %none = bf16[] constant(0)
  %empty = bf16[4,128,512]{2,1,0} broadcast(%none), dimensions={}
  %loop = (s32[], bf16[4,256,512]{2,1,0}, bf16[128,256]{1,0}, bf16[4,128,512]{2,1,0}) while(%p), condition=%more, body=%layer, backend_config={"known_trip_count":{"n":"4"}}
  %narrow = bf16[8,256]{1,0} dot(%h, %q), lhs_contracting_dims={0}, rhs_contracting_dims={0}, metadata={op_name="jit(train_step)/jvp()/adapter/dot_general"}
  %sent = (bf16[128,256]{1,0}, bf16[512,256]{1,0}) all-gather-start(%q), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  %got = bf16[512,256]{1,0} all-gather-done(%sent)
  ROOT %end = bf16[128,256]{1,0} copy(%q)
}
"""
WEIGHT, X, Y, LINE = 2 * 256 * 512, 2 * 128 * 256, 2 * 128 * 512, 2 * 128
"""Bytes of one layer's weight, of what it multiplies and gives, and of one number a row."""


@pytest.fixture
def program():
    return Program(TEXT)


def found(program, name):
    return next((table, table[name]) for table in program.computations.values() if name in table)


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("weight.5", WEIGHT + 4 + WEIGHT),  # the slice of the stack, where it is, and the copy
        ("product.1", X + WEIGHT + Y),  # without the library's workspace
        ("stacked.3", 4 + Y + Y),  # in place
        ("pair.7.remat2", Y + Y + 2 * LINE),  # all of it, though a slice of it is taken too
        ("empty", 4 * Y),
        ("narrow", 2 * 128 * 8 + X + 2 * 8 * 256),
        ("sent", X + 4 * X),
        ("end", 2 * X),
    ],
)
def test_a_kernel_reads_its_operands_and_writes_its_result_once(program, name, moved):
    assert kernel_bytes(program, *found(program, name)) == moved


def test_products_are_known_by_their_sizes(program):
    assert product_flops(program, *found(program, "product.1")) == pytest.approx(2 * 128 * 256 * 512)
    assert product_flops(program, *found(program, "narrow")) == pytest.approx(2 * 128 * 8 * 256)
    assert product_flops(program, *found(program, "stacked.3")) == 0


@pytest.mark.parametrize(("ridge", "is_large"), [(50, True), (100, False)])
def test_a_step_is_added_up_over_its_layers(program, ridge, is_large):
    """The layers' product has 2 × 128 × 256 × 512 FLOP to 458,752 bytes: 73 a byte."""
    result = traffic(program, ridge, largest=3)
    product, layer = 4 * (X + WEIGHT + Y), 4 * ((2 * WEIGHT + 4) + (2 * Y + 4) + (2 * Y + 2 * LINE))
    rest = 4 * Y + (2 * 128 * 8 + X + 2 * 8 * 256) + 5 * X + 2 * X
    assert result.products == (product if is_large else 0)
    assert result.products + result.other == product + layer + rest
    assert (result.rematerialised, result.rematerialised_bytes) == (4, 4 * (2 * Y + 2 * LINE))
    first = Kernel("weight", "dynamic_slice", 4, 4 * (2 * WEIGHT + 4)) if is_large else Kernel("product", "dot_general", 4, product)
    assert first in result.kernels and len(result.kernels) == 3
    assert result.kernels == sorted(result.kernels, key=lambda one: -one.bytes)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("bf16[2,3]{1,0}", 12),
        ("(bf16[2,3]{1,0}, s8[100]{0})", 12),
        ("s8[100]{0}", 100),
        ("(f32[4]{0}, bf16[8]{0:T(128)S(1)})", 16),
        ("((f32[4]{0}, s32[]), pred[3]{0})", 23),
    ],
)
def test_what_lies_in_main_memory_counts(text, size):
    assert stored(text) == size
