"""A table split over devices is looked up without being put together."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.parallel.rules import lookup, named_sharding, use_mesh

MESHES = [(2, 2, 2), (1, 8, 1), (1, 1, 8), (4, 2, 1), (1, 2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: "x".join(map(str, sizes)))
@pytest.mark.parametrize(("vocab", "width", "rows"), [(48, 32, 8), (45, 32, 8), (48, 27, 8), (48, 32, 1), (45, 27, 2)])
def test_values_and_gradients_are_those_of_one_device(sizes, vocab, width, rows):
    """Also where an axis does not divide the vocabulary, the width or the rows."""
    rng = np.random.default_rng(0)
    table, weights = rng.normal(size=(vocab, width)).astype(np.float32), rng.normal(size=(rows, 6, width)).astype(np.float32)
    tokens = rng.integers(0, vocab, (rows, 6)).astype(np.int32)
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))

    def loss(table, tokens, weights):
        with use_mesh(mesh):
            found = lookup(table, tokens)
        return jnp.sum(jnp.tanh(found) * weights), found

    def expected_loss(table):
        return jnp.sum(jnp.tanh(table[tokens]) * weights)

    places = [named_sharding(("vocab", "embed"), table.shape, mesh), named_sharding(("rows", None), tokens.shape, mesh)]
    arguments = jax.device_put(table, places[0]), jax.device_put(tokens, places[1]), weights
    (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(*arguments)
    np.testing.assert_array_equal(found, table[tokens])
    np.testing.assert_allclose(gradient, jax.grad(expected_loss)(table), atol=1e-6)


def test_the_table_stays_where_it_is():
    """With 2 × 2 × 2 devices, no collective of the lookup moves more than what was looked up."""
    mesh, (vocab, width, rows, length) = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), (4096, 32, 8, 4)

    def run(table, tokens):
        with use_mesh(mesh):
            return lookup(table, tokens)

    shapes = jax.ShapeDtypeStruct((vocab, width), jnp.float32), jax.ShapeDtypeStruct((rows, length), jnp.int32)
    layouts = named_sharding(("vocab", "embed"), (vocab, width), mesh), named_sharding(("rows", None), (rows, length), mesh)
    program = jax.jit(run, in_shardings=layouts).lower(*shapes).compile().as_text()
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (?:all-gather|all-reduce|all-to-all|collective-permute)\(", program)
    assert moved, program
    assert max(np.prod([int(size) for size in shape.split(",")]) for shape in moved) <= rows * length * width // 2
