"""The GPU kernels, run by Pallas' interpreter, against the blockwise implementation; and on a GPU as they are, where there is one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import random_case

from mede2_jax.models.attention import attention, use_backend
from mede2_jax.models.attention_gpu import HALF, SINGLE, Tile, Tiles, fused_attention, key_bounds, query_bounds
from mede2_jax.parallel import rules
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig

TILES = Tiles(forward=Tile(32, 16, 4, 2), d_q=Tile(16, 32, 4, 2), d_kv=Tile(32, 64, 4, 2))
"""Queries and keys differ in each kernel, so that neither can be taken for the other."""


def packed(lengths, length):
    """Causal examples one after the other, and padding."""
    start = np.concatenate([np.full(n, sum(lengths[:i])) for i, n in enumerate(lengths)])
    end = np.arange(len(start)) + 1
    return tuple(np.pad(x, (0, length - len(x))).astype(np.int32)[None] for x in (start, end))


def shared(chosen, prompt, rejected):
    """[chosen reversed | prompt | rejected]."""
    own = np.arange(chosen + prompt + rejected)
    start = np.where(own < chosen, own, chosen)
    end = np.where(own < chosen, chosen + prompt, own + 1)
    return start.astype(np.int32)[None], end.astype(np.int32)[None]


def windows(length, size):
    start = np.arange(length) // size * size
    return start.astype(np.int32)[None], np.minimum(start + size, length).astype(np.int32)[None]


def both(function, *case):
    """Output and gradients under a weight that differs everywhere."""

    @jax.jit
    def run(q, k, v, start, end):
        weight = np.cos(np.arange(q.size, dtype=np.float32)).reshape(q.shape)
        out, pull = jax.vjp(lambda *x: function(*x, start, end).astype(jnp.float32), q, k, v)
        return out, *pull(weight)

    return run(*case)


def interpreted(*arguments, tiles=TILES):
    return fused_attention(*arguments, tiles=tiles, interpret=True)


def agree(case, tolerance=1e-5, tiles=TILES):
    ours = both(functools.partial(interpreted, tiles=tiles), *case)
    theirs = both(lambda *x: attention(*x, block=32), *case)
    for name, a, b in zip(("out", "dq", "dk", "dv"), ours, theirs, strict=True):
        assert np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max() <= tolerance, name
    empty = case[4] <= case[3]
    assert not np.asarray(ours[0])[empty].any(), "an empty range gives zeros"


@pytest.mark.slow
def test_random_ranges():
    agree(random_case(0, batch=2, length=75, heads=4, kv_heads=2))


@pytest.mark.slow
@pytest.mark.parametrize(("length", "keys"), [(70, 300), (300, 70)])
def test_queries_and_keys_that_are_not_as_many(length, keys):
    agree(random_case(12, batch=2, length=length, keys=keys, heads=4, kv_heads=2))


@pytest.mark.slow
def test_each_block_of_keys_is_seen_by_others_that_are_not_as_many():
    q, k, v, *_ = random_case(13, batch=1, length=140, keys=560, heads=2, kv_heads=1)
    start = 4 * np.arange(140, dtype=np.int32)[None]
    agree((q, k, v, start, start + 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranges",
    [packed([60, 31, 20], 128), shared(50, 30, 40), windows(150, 16), packed([3], 140)],
    ids=["packed", "shared prompt", "windows", "mostly padding"],
)
def test_rows_as_training_has_them(ranges):
    q, k, v, *_ = random_case(3, batch=1, length=ranges[0].shape[1], heads=3, kv_heads=1, width=20)
    agree((q, k, v, *ranges))


@pytest.mark.slow
def test_bfloat16_is_as_near_as_its_rounding():
    q, k, v, start, end = random_case(4, batch=1, length=64)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    ours = both(interpreted, *half, start, end)
    exact = both(lambda *x: attention(*x, block=32), *(np.asarray(x, np.float32) for x in half), start, end)
    for a, b in zip(ours, exact, strict=True):
        error = np.linalg.norm(np.asarray(a, np.float32) - np.asarray(b)) / np.linalg.norm(np.asarray(b))
        assert error < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [HALF, SINGLE], ids=["half", "single"])
def test_the_blocks_of_a_gpu(tiles):
    """As a GPU has them, several of each, with the released models' head width: exact in float32, whatever they are for."""
    lengths = packed([150, 61, 3, 60], 300)
    q, k, v, *_ = random_case(9, batch=1, length=300, heads=2, kv_heads=1, width=128)
    agree((q, k, v, *lengths), tiles=tiles)


@pytest.mark.slow
def test_sixteen_bits_have_blocks_of_their_own():
    q, k, v, *_ = random_case(10, batch=1, length=200, heads=2, kv_heads=1, width=64)
    case = (*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)), *shared(70, 60, 70))
    chosen = both(functools.partial(interpreted, tiles=None), *case)
    half, single = (interpreted(*case, tiles=tiles).astype(jnp.float32) for tiles in (HALF, SINGLE))
    assert np.array_equal(chosen[0], half) and not np.array_equal(half, single), "the two must differ to be told apart"
    exact = both(lambda *x: attention(*x, block=32), *(np.asarray(x, np.float32) for x in case[:3]), *case[3:])
    for name, a, b in zip(("out", "dq", "dk", "dv"), chosen, exact, strict=True):
        error = np.linalg.norm(np.asarray(a, np.float32) - np.asarray(b)) / np.linalg.norm(np.asarray(b))
        assert error < 1e-2, name


@pytest.mark.slow
def test_blocks_that_nobody_sees_are_not_read():
    """Not-a-number in the keys of one example must not reach the other: a weight of 0 times NaN would be NaN."""
    q, k, v, *_ = random_case(5, batch=1, length=256, heads=2, kv_heads=1)
    ranges = packed([128, 128], 256)
    broken = [x.copy() for x in (q, k, v)]
    for x in broken:
        x[:, 128:] = np.nan
    whole, partly = (both(interpreted, *x, *ranges) for x in ((q, k, v), broken))
    for a, b in zip(whole, partly, strict=True):
        assert np.array_equal(np.asarray(a)[:, :128], np.asarray(b)[:, :128])


def brute_force(start, end, queries, keys):
    """[query blocks, key blocks]: whether some query sees some key, and whether all queries see all keys."""
    key = np.arange(start.shape[0])
    visible = (key >= start[:, None]) & (key < end[:, None])
    blocks = visible.reshape(len(start) // queries, queries, len(start) // keys, keys)
    return blocks.any((1, 3)), blocks.all((1, 3))


@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (32, 16), (16, 64)])
@pytest.mark.parametrize("kind", ["random", "packed", "shared", "windows", "nothing"])
def test_bounds_hold_all_that_is_seen_and_whole_blocks_are_whole(kind, queries, keys):
    length = 256
    start, end = {
        "random": lambda: random_case(7, batch=1, length=length)[3:],
        "packed": lambda: packed([100, 70, 30], length),
        "shared": lambda: shared(90, 80, 86),
        "windows": lambda: windows(length, 64),
        "nothing": lambda: (np.zeros((1, length), np.int32), np.zeros((1, length), np.int32)),
    }[kind]()
    some, every = brute_force(np.asarray(start)[0], np.asarray(end)[0], queries, keys)
    for bounds, seen, whole in (
        (key_bounds(start, end, queries, keys), some, every),
        (query_bounds(start, end, queries, keys, length // keys), some.T, every.T),
    ):
        first, begin, finish, last = (np.asarray(x)[0] for x in bounds)
        assert (first <= begin).all() and (begin <= finish).all() and (finish <= last).all()
        block = np.arange(seen.shape[1])
        assert not (seen & ~((block >= first[:, None]) & (block < last[:, None]))).any(), "something that is seen would be skipped"
        assert whole[(block >= begin[:, None]) & (block < finish[:, None])].all(), "a block would go unmasked that is not seen in full"
    if kind == "packed":
        first, begin, finish, last = (np.asarray(x)[0] for x in key_bounds(start, end, queries, keys))
        assert (last - first).sum() < 0.5 * some.size and (finish > begin).any(), "the bounds must leave something out"


def test_fused_is_refused_where_there_are_no_kernels():
    q, k, v, start, end = random_case(8, batch=1, length=16)
    with use_backend("fused"), pytest.raises(ValueError, match="no fused attention kernels for platform 'cpu'"):
        attention(q, k, v, start, end)


def test_the_platform_is_the_meshs():
    with rules.use_mesh(make_mesh(MeshConfig(fsdp=8))):
        assert rules.platform() == "cpu"


@pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="no GPU here; tests/benchmarks/attention_gpu.py checks and times the kernels on one"
)
@pytest.mark.parametrize("seed", range(3))
def test_on_a_gpu(seed):
    case = random_case(seed, batch=2, length=300, heads=4, kv_heads=2, width=80)
    ours = both(fused_attention, *case)
    with jax.default_matmul_precision("highest"), use_backend("xla"):
        theirs = both(attention, *case)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(a - b)).max() <= 1e-4
