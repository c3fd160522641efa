"""The TPU kernels, interpreted on the CPU, against `attention`: values, gradients, and what is skipped.

`test_tpu_compiler_accepts` hands them to the real compiler, for pods that are not there; it needs the environment that has it.
"""

import functools
import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mede2_jax.models import attention_tpu
from mede2_jax.models import attention_tpu_kernels as kernels
from mede2_jax.models.attention import SAVED, attention
from mede2_jax.models.attention_tpu import FIRST, FLAG_BITS, LAST, MINOR_BITS, USEFUL, fused_attention, seen_blocks, visits
from mede2_jax.parallel import rules
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig

ROOT = Path(__file__).resolve().parents[2]
LENGTH, BLOCK = 75, 16


def arrays(seed, batch=2, length=LENGTH, heads=6, kv_heads=2, width=16):
    rng = np.random.default_rng(seed)
    q, weight = rng.standard_normal((2, batch, length, heads, width), np.float32)
    return q, *rng.standard_normal((2, batch, length, kv_heads, width), np.float32), weight


def random_ranges(seed, length):
    rng = np.random.default_rng(seed)
    start, end = np.sort(rng.integers(0, length + 1, (2, length)), axis=0)
    empty = rng.random(length) < 0.2
    return np.where(empty, end, start), np.where(empty, start, end)  # also with an end before the start


def packed_causal(sizes, length):
    """Examples one after another, then padding."""
    start, end = np.zeros((2, length), int)
    at = 0
    for size in sizes:
        start[at : at + size], end[at : at + size] = at, at + np.arange(size) + 1
        at += size
    return start, end


def shared_prompt(chosen, prompt, rejected, length):
    """A chosen response backwards, the prompt, a rejected response, then padding."""
    index, used = np.arange(length), np.arange(length) < chosen + prompt + rejected
    start = np.where(index < chosen, index, chosen)
    end = np.where(index < chosen, chosen + prompt, index + 1)
    return start * used, end * used


def windows(size, used, length):
    """Every patch sees its window."""
    index = np.arange(length)
    return np.where(index < used, index // size * size, 0), np.where(index < used, np.minimum((index // size + 1) * size, used), 0)


RANGES = {
    "random 0": lambda length: random_ranges(0, length),
    "random 1": lambda length: random_ranges(1, length),
    "packed": lambda length: packed_causal((length // 2, 5, length // 4), length),
    "one causal": lambda length: packed_causal((length,), length),
    "pair": lambda length: shared_prompt(length // 3, length // 4, length // 5, length),
    "windows": lambda length: windows(8, length - 20, length),
    "everything": lambda length: (np.zeros(length, int), np.full(length, length)),
    "nothing": lambda length: np.zeros((2, length), int),
}


def ranges(*kinds, length=LENGTH):
    start, end = zip(*(RANGES[kind](length) for kind in kinds), strict=True)
    return np.stack(start).astype(np.int32), np.stack(end).astype(np.int32)


def with_gradients(function):
    """(output, gradients by q, k and v) of `function`, weighted so that every output counts differently."""

    def loss(q, k, v, weight, start, end):
        out = function(q, k, v, start, end)
        return (out.astype(jnp.float32) * weight).sum(), out

    def run(*arguments):
        (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
        return {"out": out, **dict(zip("qkv", gradients, strict=True))}

    return jax.jit(run)


ours = with_gradients(functools.partial(fused_attention, block=BLOCK, interpret=True))
theirs = with_gradients(attention)


def agree(found, expected, tolerance=1e-5):
    for name, value in expected.items():
        assert np.abs(np.asarray(found[name], np.float32) - np.asarray(value)).max() <= tolerance * max(1, np.abs(value).max()), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds", [("random 0", "packed"), ("pair", "random 1"), ("windows", "one causal"), ("nothing", "everything"), ("nothing", "nothing")]
)
def test_equals_attention(kinds):
    """Rows of one batch differ in how many blocks they visit."""
    start, end = ranges(*kinds)
    found = ours(*arrays(0), start, end)
    agree(found, theirs(*arrays(0), start, end))
    assert not np.asarray(found["out"])[end <= start].any(), "an empty range gives zeros"
    assert not np.asarray(found["q"])[end <= start].any()


@pytest.mark.slow
@pytest.mark.parametrize("part", [slice(40, 64), slice(0, 5)])
def test_a_part_of_the_queries_and_all_keys(part):
    """And the other way round: all queries, and the keys that some of them see."""
    q, k, v, weight = arrays(3)
    start, end = ranges("random 0", "packed")
    case = (q[:, part], k, v, weight[:, part], start[:, part], end[:, part])
    agree(ours(*case), theirs(*case))
    keys = part.stop
    case = (q, k[:, :keys], v[:, :keys], weight, np.minimum(start, keys), np.minimum(end, keys))
    agree(ours(*case), theirs(*case))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "kv_heads", "step", "grids"),
    [
        (4, 4, 4, ((2, 1), (2, 1))),  # two key heads a step
        (6, 2, 1, ((6, 1), (2, 3))),  # the queries of a key head take three steps
    ],
)
def test_heads_of_a_step(heads, kv_heads, step, grids, monkeypatch):
    monkeypatch.setattr(attention_tpu, "STEP_BYTES", step * BLOCK * 128 * 4)
    seen = []
    grid = attention_tpu._Plan.grid.fget
    monkeypatch.setattr(attention_tpu._Plan, "grid", property(lambda plan: seen.append((plan.by_key, grid(plan))) or grid(plan)))
    case = arrays(1, heads=heads, kv_heads=kv_heads)
    start, end = ranges("random 0", "pair")
    found = with_gradients(lambda *a: fused_attention(*a, block=BLOCK, interpret=True))(*case, start, end)
    assert set(seen) == {(False, grids[0]), (True, grids[1])}
    agree(found, theirs(*case, start, end))


@pytest.mark.slow
def test_bfloat16():
    """Against float32 on the same numbers: 2⁻⁸ of the largest value for rounding the result, and as much for the weights."""
    case = [jnp.asarray(x, jnp.bfloat16) for x in arrays(2)]
    start, end = ranges("pair", "windows")
    found = ours(*case, start, end)
    assert {x.dtype for x in found.values()} == {jnp.dtype("bfloat16")}
    agree(found, theirs(*(x.astype(jnp.float32) for x in case), start, end), 2 * 2**-8)


def brute_force(start, end, block):
    """Which query block sees which key block, one query and one key at a time."""
    blocks = -(-len(start) // block)
    seen = np.zeros((blocks, blocks), bool)
    for query, (first, last) in enumerate(zip(start, end, strict=True)):
        for key in range(first, last):
            seen[query // block, key // block] = True
    return seen


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("by_key", [False, True])
def test_visits(kind, by_key):
    """Every block pair that is seen, once, in order; one idle visit where a block has none; nothing else."""
    length = 96
    start, end = ranges(kind, length=length)
    seen = brute_force(start[0], end[0], BLOCK)
    assert (np.asarray(seen_blocks(start, end, BLOCK, length // BLOCK))[0] == seen).all()
    seen = seen.T if by_key else seen
    (codes,), (count,) = (np.asarray(x) for x in visits(jnp.asarray(seen[None])))
    expected = []
    for major, row in enumerate(seen):
        minors = np.flatnonzero(row)
        if not len(minors):
            expected.append((major, 0, FIRST | LAST))
        for minor in minors:
            expected.append((major, minor, USEFUL | (minor == minors[0]) * FIRST | (minor == minors[-1]) * LAST))
    place, flags = codes >> FLAG_BITS, codes & (1 << FLAG_BITS) - 1
    found = list(zip(place >> MINOR_BITS, place & (1 << MINOR_BITS) - 1, flags, strict=True))
    assert found[:count] == expected
    assert all(rest == (*expected[-1][:2], 0) for rest in found[count:]), "what is left repeats the last, idle"


def test_kernels_run_once_a_visit(monkeypatch):
    """Counted in the running kernels: blocks that nobody sees are not computed, forward or backward."""
    steps = []
    visible = kernels.Visit.visible

    def counted(visit, *refs):
        jax.debug.callback(lambda key: steps.append(int(key)), visit.first_key)
        return visible(visit, *refs)

    monkeypatch.setattr(kernels.Visit, "visible", counted)
    start, end = ranges("one causal", "windows", length=96)
    case = arrays(3, length=96, heads=1, kv_heads=1)
    run = with_gradients(lambda *a: fused_attention(*a, block=BLOCK, interpret=True))
    jax.block_until_ready(run(*case, start, end))
    jax.effects_barrier()
    causal, windowed = 6 * 7 // 2, 5  # 76 patches in windows of 8 lie in five blocks of 16
    assert len(steps) == 3 * (causal + windowed)


def test_unseen_blocks_are_not_read():
    """NaN in keys that nobody sees, and in queries that see nothing, reaches nothing."""
    case = arrays(4)
    start, end = ranges("random 0", "windows")
    unused = np.arange(LENGTH) < BLOCK  # the first block sees nothing, and nobody sees it
    start, end = (np.where(unused, 0, np.maximum(x, BLOCK)) for x in (start, end))
    expected = ours(*case, start, end)
    spoiled = [x.copy() for x in case]
    for x in spoiled[:3]:
        x[:, :BLOCK] = np.nan
    found = ours(*spoiled, start, end)
    for name, value in expected.items():
        assert (np.asarray(found[name]) == np.asarray(value)).all(), name


def test_saved_under_the_policy_name():
    """A policy that keeps SAVED recomputes no forward kernel; without it, there is a second one."""
    case, (start, end) = arrays(5), ranges("pair", "pair")

    def kernels_of(policy):
        function = jax.checkpoint(lambda q, k, v: fused_attention(q, k, v, start, end, block=BLOCK, interpret=True), policy=policy)
        text = str(jax.make_jaxpr(jax.grad(lambda *a: (function(*a) * case[3]).sum(), argnums=(0, 1, 2)))(*case[:3]))
        return [text.count(f"name=attention_{kernel}\n") for kernel in ("forward", "queries", "keys")]

    assert kernels_of(jax.checkpoint_policies.save_only_these_names(SAVED)) == [1, 1, 1]
    assert kernels_of(jax.checkpoint_policies.nothing_saveable) == [2, 1, 1]


@pytest.mark.slow
def test_on_a_mesh():
    """Rows and heads split over devices, whose grids differ in length."""
    case = arrays(6, batch=4, heads=4, kv_heads=2)
    start, end = ranges("random 0", "windows", "nothing", "pair")

    def split(q, k, v, start, end):
        axes = ("rows", None, "heads", None), *(("rows", None, "kv_heads", None),) * 2, *(("rows", None),) * 2
        with rules.use_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
            return rules.per_shard(functools.partial(fused_attention, block=BLOCK, interpret=True), (q, k, v, start, end), axes, axes[0])

    agree(with_gradients(split)(*case, start, end), theirs(*case, start, end))


@pytest.mark.slow
def test_on_a_simulated_tpu():
    """Memory that starts as NaN and reads out of bounds that raise: nothing is used before it was written."""
    simulated = pltpu.InterpretParams(uninitialized_memory="nan", out_of_bounds_reads="raise")
    case = arrays(7, batch=2, length=20, heads=2, kv_heads=1)
    start, end = ranges("pair", "nothing", length=20)
    agree(with_gradients(functools.partial(fused_attention, block=8, interpret=simulated))(*case, start, end), theirs(*case, start, end))


def test_too_many_visits():
    shapes = [jax.ShapeDtypeStruct((100, 32768, *tail), jnp.int32 if not tail else jnp.bfloat16) for tail in ((8, 64),) * 3 + ((),) * 2]
    with pytest.raises(ValueError, match="100 rows of 32768 tokens"):
        jax.eval_shape(fused_attention, *shapes)


TEXT, VISION = (4096, 64, 8, 128), (16384, 16, 16, 80)  # the decoder of 72B, Qwen2.5-VL's vision tower
LONG, TILES = (32768, 28, 4, 128), (1025, 16, 16, 64)  # the decoder of 7B, InternVL3's vision tower


# Runs where libtpu is; nothing runs on a TPU, so nobody's is in the way.
COMPILE = """
import functools, json, os, sys
os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from mede2_jax.models.attention_tpu import fused_attention

topology, dtype, shapes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
devices = topologies.get_topology_desc(topology, "tpu").devices
mesh, rows = Mesh(np.array(devices), ("data",)), PartitionSpec("data")
shaped = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, rows))
split = jax.shard_map(fused_attention, mesh=mesh, in_specs=(rows,) * 5, out_specs=rows, check_vma=False)

def both(q, k, v, weight, start, end):
    out, back = jax.vjp(lambda *qkv: split(*qkv, start, end), q, k, v)
    return out, back(weight)

for length, heads, kv_heads, width in shapes:
    queries, keys = (shaped((len(devices), length, count, width), dtype) for count in (heads, kv_heads))
    bounds = shaped((len(devices), length), "int32")
    text = jax.jit(both).lower(queries, keys, keys, queries, bounds, bounds).compile().as_text()
    square = any(f"{size},{size}" in text for size in (length, -(-length // 128) * 128))
    named = sum(f"attention_{kernel}" in text for kernel in ("forward", "queries", "keys"))
    print(json.dumps([text.count('custom_call_target="tpu_custom_call"'), named, square]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("topology", "shapes"), [("v5e:4x4", (TEXT, VISION, LONG, TILES)), ("v5p:2x2x2", (TEXT, VISION)), ("v6e:4x4", (TEXT, VISION))]
)
def test_tpu_compiler_accepts(topology, shapes, dtype, plan_env):
    command = [str(plan_env("tpu") / "bin" / "python"), "-c", COMPILE, topology, dtype, json.dumps(shapes)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # Three kernels, by their names, and nothing of T×T.
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[3, 3, False]] * len(shapes)
