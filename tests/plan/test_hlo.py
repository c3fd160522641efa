"""What is read off a compiled program's text."""
# ruff: noqa: E501 (a compiler's lines are as long as they are)

import pytest

from mede2_jax.config import UserError
from mede2_jax.plan.hlo import Collective, Program, axes_of, first_group, type_bytes

MESH = {"data": 2, "fsdp": 4, "tensor": 1}
# A scan of 28 layers with a loop of 5 inside, as XLA writes it for GPUs (noted trips) and for TPUs (none): what runs how often is known.
TEXT = """HloModule jit_train_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%counted (in: (u32[], bf16[64,8])) -> pred[] {
  %in = (u32[]{:T(128)}, bf16[64,8]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %limit = u32[]{:T(128)} constant(10)
  %i = u32[]{:T(128)} get-tuple-element(%in), index=0
  ROOT %more = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%inner (in.1: (u32[], bf16[64,8])) -> (u32[], bf16[64,8]) {
  %in.1 = (u32[], bf16[64,8]{1,0}) parameter(0)
  %i.1 = u32[] get-tuple-element(%in.1), index=0
  %x = bf16[64,8]{1,0} get-tuple-element(%in.1), index=1
  %two = u32[] constant(2)
  %next = u32[] add(%i.1, %two)
  %sent = (bf16[64,8]{1,0}, bf16[64,8]{1,0}, u32[], u32[]) collective-permute-start(%x), channel_id=7, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %got = bf16[64,8]{1,0} collective-permute-done(%sent)
  ROOT %out = (u32[], bf16[64,8]{1,0}) tuple(%next, %got)
}

%layer (carry: (s32[], bf16[16,32], bf16[64,8])) -> (s32[], bf16[16,32], bf16[64,8]) {
  %carry = (s32[], bf16[16,32]{1,0}, bf16[64,8]{1,0}) parameter(0)
  %w = bf16[16,32]{1,0} get-tuple-element(%carry), index=1
  %y = bf16[64,8]{1,0} get-tuple-element(%carry), index=2
  %whole = ((bf16[16,32]{1,0}, bf16[16,32]{1,0}), (bf16[64,32]{1,0}, /*index=1*/bf16[64,32]{1,0})) all-gather-start(%w, %w), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}, metadata={op_name="jit(train_step)/jvp()/while/body/gate"}
  %done = (bf16[64,32]{1,0}, bf16[64,32]{1,0}) all-gather-done(%whole)
  %loop = (u32[], bf16[64,8]{1,0}) while(%y), condition=%counted, body=%inner, metadata={op_name="ring"}
  ROOT %new = (s32[], bf16[16,32]{1,0}, bf16[64,8]{1,0}) tuple(%w, %w, %y)
}

%layers (carry.1: (s32[])) -> pred[] {
  %carry.1 = (s32[]) parameter(0)
  ROOT %yes = pred[] constant(true)
}

%async_collective_fusion.9 (p: bf16[100]) -> bf16[800] {
  %p = bf16[100]{0} parameter(0)
  ROOT %piece = bf16[800]{0} all-gather(%p), channel_id=11, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}

%begin (p.1: bf16[100]) -> bf16[800] {
  %p.1 = bf16[100]{0} parameter(0)
  ROOT %piece.1 = bf16[800]{0} all-gather(%p.1), channel_id=11, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}

%all-reduce-scatter.2 (g: f32[400]) -> f32[50] {
  %g = f32[400]{0} parameter(0)
  %summed = f32[400]{0} all-reduce(%g), channel_id=12, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %own = f32[50]{0} dynamic-slice(%summed, %zero), dynamic_slice_sizes={50}
}

ENTRY %main (w.2: bf16[16,32], head: bf16[100], g.1: f32[400]) -> f32[50] {
  %w.2 = bf16[16,32]{1,0} parameter(0)
  %head = bf16[100]{0} parameter(1)
  %g.1 = f32[400]{0} parameter(2)
  %start = bf16[800]{0} fusion(%head), kind=kCustom, calls=%begin
  %scan = (s32[], bf16[16,32]{1,0}, bf16[64,8]{1,0}) while(%w.2), condition=%layers, body=%layer, backend_config={"known_trip_count":{"n":"28"}}
  %spread = bf16[800]{0} fusion(%start), kind=kCustom, calls=%async_collective_fusion.9
  %big = f32[1000,1000]{1,0} broadcast(%g.1), metadata={op_name="jit(train_step)/transpose(jvp())/big"}
  %near = f32[2000,1000]{1,0:T(8,128)S(1)} broadcast(%g.1)
  %lone = f32[] all-reduce(%g.1), channel_id=13, replica_groups={{0},{1}}, to_apply=%add
  ROOT %mine = f32[50]{0} fusion(%g.1), kind=kCustom, calls=%all-reduce-scatter.2
}
"""


@pytest.fixture(scope="module")
def program():
    return Program(TEXT)


def test_transfers_are_weighted_by_the_loops_around_them(program):
    found = {(one.kind, one.axes): one for one in program.collectives(MESH)}
    assert set(found) == {("collective-permute", "fsdp"), ("all-gather", "fsdp"), ("all-gather", "data+fsdp"), ("reduce-scatter", "fsdp")}
    gathered = found["all-gather", "fsdp"]
    assert (gathered.runs, gathered.operand_bytes, gathered.received) == (28, 2 * 16 * 32 * 2, 28 * 3 * 2048)
    # The condition says i < 10, the body i + 2: five trips in each of 28 layers.
    assert found["collective-permute", "fsdp"].runs == 140
    assert found["collective-permute", "fsdp"].received == 140 * 64 * 8 * 2
    assert not program.unknown_loops


@pytest.mark.parametrize(
    ("kind", "received"),
    [
        ("all-gather", 300),  # the other three devices' pieces
        ("reduce-scatter", 75),  # what the other three have of its quarter
        ("all-to-all", 75),
        ("all-reduce", 150),  # a reduce-scatter, and an all-gather of what it gives
        ("collective-permute", 100),
    ],
)
def test_bytes_that_a_device_receives(kind, received):
    """By the algorithms that move the least (Thakur et al. 2005), for 100 bytes a device on four of them, in a loop of five."""
    assert Collective(kind, "", 100, 5, (0, 2, 4, 6), "fsdp").received == 5 * received


def test_a_transfer_spread_over_fusions_counts_once(program):
    (head,) = [one for one in program.collectives(MESH) if one.axes == "data+fsdp"]
    assert (head.runs, head.received) == (1, 7 * 200)


def test_a_reduce_scatter_that_tpus_write_as_an_all_reduce(program):
    (scattered,) = [one for one in program.collectives(MESH) if one.kind == "reduce-scatter"]
    assert scattered.received == 1600 * 3 / 4


def test_a_loop_with_transfers_and_unknown_trips_is_named():
    text = TEXT.replace("direction=LT", "direction=NE")
    program = Program(text)
    (permuted,) = [one for one in program.collectives(MESH) if one.kind == "collective-permute"]
    assert permuted.runs == 28
    assert set(program.unknown_loops) == {"ring"}


def test_largest_values_are_those_in_main_memory(program):
    first = program.largest(1)[0]
    assert (first.type, first.bytes, first.source) == ("f32[1000,1000]", 4_000_000, "backward big")


@pytest.mark.parametrize(
    ("written", "group", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", (0, 1, 2, 3), "fsdp"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4), "data"),
        ("replica_groups=[1,8]<=[8]", tuple(range(8)), "data+fsdp"),
        ("replica_groups=mesh['axis_0'=8] {'axis_0'}", tuple(range(8)), "data+fsdp"),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3), "fsdp"),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4), "data"),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", (0, 4), "data"),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3), "fsdp"),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}, x", (0, 1, 2, 3), "fsdp"),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", (0, 4), "data"),
        ("replica_groups=mesh['a'=4,'c'=2], device_ids=([8]) {'a'}", (0, 2, 4, 6), "data+fsdp"),
        ("replica_groups={}", tuple(range(8)), "data+fsdp"),
        ("source_target_pairs={{0,4},{4,0},{1,5},{5,1}}", (0, 4), "data"),
        ("source_target_pairs={{0,3},{1,0},{2,1},{3,2},{4,7},{5,4},{6,5},{7,6}}", (0, 1, 2, 3), "fsdp"),
    ],
)
def test_groups_in_every_way_they_are_written(written, group, axes):
    found = first_group(f", channel_id=1, {written}", 8)
    assert found == group
    assert axes_of(found, MESH) == axes


def test_groups_in_an_unknown_way_are_not_guessed():
    with pytest.raises(UserError, match=r"a form that plan does not know: replica_groups=spiral\[8\]"):
        first_group(", channel_id=1, replica_groups=spiral[8], dimensions={0}", 8)


@pytest.mark.parametrize(
    ("text", "size"),
    [("bf16[2,3]{1,0:T(8,128)(2,1)}", 12), ("(f32[4], pred[5], s32[])", 25), ("f8e4m3fn[16]", 16), ("s4[10]", 5), ("u32[0,4]", 0)],
)
def test_sizes_of_types(text, size):
    assert type_bytes(text) == size
