"""Rows whose tokens are split over devices: the numbers of whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mede2_jax.config import UserError
from mede2_jax.models.attention import attention
from mede2_jax.parallel import rules
from mede2_jax.parallel.mesh import check_rows_divide, make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig

MESHES = [{"fsdp": 1, "sequence": 8}, {"fsdp": 2, "sequence": 2, "tensor": 2}, {"data": 2, "fsdp": 1, "sequence": 4}]


def test_only_a_mesh_that_splits_rows_has_the_axis():
    assert dict(make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2)).shape) == {"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2}
    assert dict(make_mesh(MeshConfig(fsdp=1, sequence=-1)).shape) == {"data": 1, "fsdp": 1, "sequence": 8, "tensor": 1}
    mesh = make_mesh(MeshConfig(fsdp=2, sequence=4))
    assert rules.partition_spec(("embed", "mlp"), (64, 64), mesh) == PartitionSpec(("fsdp", "sequence"), None)
    assert rules.partition_spec(("rows", "tokens", None), (2, 64, 64), mesh) == PartitionSpec("fsdp", "sequence", None)
    assert rules.partition_spec(("rows", "tokens"), (8, 64), make_mesh(MeshConfig())) == PartitionSpec("fsdp", None)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_embedded_tokens_are_those_of_the_table(sizes):
    mesh = make_mesh(MeshConfig(**sizes))
    table = np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)
    tokens = np.random.default_rng(1).integers(0, 48, (4, 64)).astype(np.int32)
    place = rules.named_sharding(("vocab", "embed"), table.shape, mesh)

    def look(table, tokens):
        with rules.use_mesh(mesh):
            return rules.lookup(table, tokens)

    found = jax.jit(look, in_shardings=(place, None))(table, tokens)
    np.testing.assert_array_equal(np.asarray(found), table[tokens])
    assert found.sharding.is_equivalent_to(rules.named_sharding(("rows", "tokens", None), found.shape, mesh), 3)
    weight = np.random.default_rng(2).standard_normal(found.shape).astype(np.float32)
    ours = jax.jit(jax.grad(lambda table: (look(table, tokens) * weight).sum()), in_shardings=(place,))(table)
    theirs = jax.grad(lambda table: (jnp.take(table, tokens, axis=0) * weight).sum())(table)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_attention_of_split_rows_is_that_of_whole_ones(sizes):
    mesh, rng = make_mesh(MeshConfig(**sizes)), np.random.default_rng(3)
    q = rng.standard_normal((2, 64, 4, 16), np.float32)
    k, v = rng.standard_normal((2, 2, 64, 2, 16), np.float32)
    start = np.minimum(rng.integers(0, 64, (2, 64)), np.arange(64)).astype(np.int32)
    end = np.broadcast_to(np.arange(64) + 1, (2, 64)).astype(np.int32)
    weight = rng.standard_normal(q.shape, np.float32)

    def loss(mesh):
        def run(q, k, v):
            with rules.use_mesh(mesh):
                out = attention(q, k, v, start, end, block=8)
            return (out * weight).sum(), out

        return jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (our_gradients, ours), (their_gradients, theirs) = loss(mesh), loss(None)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_rows_that_do_not_divide_are_one_line():
    mesh = make_mesh(MeshConfig(fsdp=1, sequence=8))
    check_rows_divide(4096, mesh)
    with pytest.raises(UserError, match=r"mesh.sequence=8 does not divide rows of 1003 tokens; choose a divisor, or a data.row_tokens"):
        check_rows_divide(1003, mesh)
    with pytest.raises(UserError, match=r"mesh data=1 × fsdp=1 × sequence=3 × tensor=1 does not match 8 device"):
        make_mesh(MeshConfig(fsdp=1, sequence=3))
