"""Attention over key ranges, against plain softmax attention, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mede2_jax.models.attention import attention
from mede2_jax.parallel import rules
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig


def plain(q, k, v, start, end):
    """T×S scores, written out."""
    groups = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scores = jnp.einsum("bqnh,bsnh->bnqs", q, k) / jnp.sqrt(q.shape[-1])
    key = jnp.arange(k.shape[1])
    visible = (key >= start[:, :, None]) & (key < end[:, :, None])
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnqs,bsnh->bqnh", jnp.where(visible[:, None], weights, 0.0), v)


def random_case(seed, batch=2, length=75, heads=4, kv_heads=2, width=16, keys=None):
    rng, keys = np.random.default_rng(seed), keys or length
    q = rng.standard_normal((batch, length, heads, width), np.float32)
    k, v = rng.standard_normal((2, batch, keys, kv_heads, width), np.float32)
    bounds = np.sort(rng.integers(0, keys + 1, (2, batch, length)), axis=0).astype(np.int32)
    bounds[:, rng.random((batch, length)) < 0.2] = 0  # empty ranges
    return q, k, v, bounds[0], bounds[1]


def agree(case, **options):
    weight = np.cos(np.arange(case[0].size, dtype=np.float32)).reshape(case[0].shape)
    out = attention(*case, **options)
    expected = plain(*case)
    expected = jnp.nan_to_num(expected)
    assert np.abs(np.asarray(out - expected)).max() <= 1e-5
    empty = case[4] <= case[3]
    assert not np.asarray(out)[empty].any(), "an empty range gives zeros"

    def loss(function):
        return lambda q, k, v: (jnp.nan_to_num(function(q, k, v, *case[3:])) * weight).sum()

    ours = jax.grad(loss(lambda *a: attention(*a, **options)), argnums=(0, 1, 2))(*case[:3])
    # The reference's softmax over nothing is not differentiable; its gradient there is zero by definition.
    filled = (np.where(empty, 0, case[3]), np.where(empty, 1, case[4]))
    theirs = jax.grad(lambda q, k, v: (jnp.where(empty[:, :, None, None], 0.0, plain(q, k, v, *filled)) * weight).sum(), argnums=(0, 1, 2))(
        *case[:3]
    )
    for name, a, b in zip("qkv", ours, theirs, strict=True):
        assert np.abs(np.asarray(a - b)).max() <= 2e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(("length", "keys"), [(24, 75), (75, 20), (1, 40)])
def test_queries_and_keys_that_are_not_as_many(length, keys):
    agree(random_case(11, length=length, keys=keys), block=8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [8, 32, 256])
def test_random_ranges(seed, block):
    agree(random_case(seed), block=block)


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 1), (7, 1), (6, 3)])
def test_head_ratios(heads, kv_heads):
    agree(random_case(9, heads=heads, kv_heads=kv_heads), block=32)


def test_nothing_but_empty_ranges():
    q, k, v, start, _ = random_case(5)
    out, gradients = jax.value_and_grad(lambda q: attention(q, k, v, start * 0, start * 0, block=32).sum())(q)
    assert float(out) == 0.0
    assert not np.asarray(gradients).any()


@pytest.mark.slow
def test_causal_by_gradients():
    """Output i depends on inputs j <= i of its own segment, and on no other."""
    length, border = 24, 10
    q, k, v, _, _ = random_case(6, batch=1, length=length)
    index = np.arange(length)
    start = np.where(index < border, 0, border)[None].astype(np.int32)
    end = (index + 1)[None].astype(np.int32)
    jacobian = jax.jacobian(lambda v: attention(q, k, v, start, end, block=8).sum((2, 3))[0])(v)  # [T, 1, T, K, H]
    depends = np.abs(np.asarray(jacobian)[:, 0]).sum((2, 3)) > 0
    assert (depends == ((index[None] <= index[:, None]) & (index[None] >= start[0][:, None]))).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "heads", "kv_heads"),
    [({"data": 2, "fsdp": 2, "tensor": 2}, 4, 2), ({"data": 1, "fsdp": 2, "tensor": 4}, 8, 2), ({"data": 4, "fsdp": 1, "tensor": 2}, 3, 3)],
)
def test_on_a_mesh(mesh, heads, kv_heads):
    """Also when the query heads are split further than there are key heads, or do not divide at all."""
    case = random_case(7, batch=4, heads=heads, kv_heads=kv_heads)
    device_mesh = make_mesh(MeshConfig(**mesh))

    def loss(q, k, v):
        with rules.use_mesh(device_mesh):
            return (attention(q, k, v, *case[3:], block=32) ** 2).sum()

    sharded = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*case[:3])
    single = jax.value_and_grad(lambda q, k, v: (attention(q, k, v, *case[3:], block=32) ** 2).sum(), argnums=(0, 1, 2))(*case[:3])
    assert float(sharded[0]) == pytest.approx(float(single[0]), rel=1e-6)
    for a, b in zip(sharded[1], map(np.asarray, single[1]), strict=True):
        # By the largest: sums over a group of heads are up to 22 here, where neighbours in float32 are 1.9e-6 apart.
        assert np.abs(np.asarray(a) - b).max() <= 1e-6 * max(1.0, np.abs(b).max())


def test_no_array_of_length_by_length():
    case = random_case(8, batch=1, length=1024, heads=2, kv_heads=1)
    compiled = (
        jax.jit(jax.grad(lambda q, k, v: attention(q, k, v, *case[3:], block=128).sum(), argnums=(0, 1, 2))).lower(*case[:3]).compile()
    )
    assert "1024,1024" not in compiled.as_text()
