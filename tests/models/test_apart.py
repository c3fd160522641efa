"""Stacks held apart are the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mede2_jax.models.apart import Apart, is_apart, layer_of, put_together, take_apart
from mede2_jax.models.layers import Linear, scan_keeping, scan_layers

LAYERS = 5


def stack():
    return jax.random.normal(jax.random.key(0), (LAYERS, 8, 6))


def test_a_stack_is_taken_apart_and_put_together():
    whole = np.asarray(stack())
    given = stack()
    apart = take_apart(given, LAYERS)
    assert given.is_deleted(), "what is held twice would not fit"
    assert [np.array_equal(layer, whole[number]) for number, layer in enumerate(apart.layers)] == [True] * LAYERS
    assert np.array_equal(layer_of({"a": apart}, 3)["a"], whole[3])
    again = put_together(apart)
    assert np.array_equal(again, whole) and all(layer.is_deleted() for layer in apart.layers)
    assert put_together(again) is again


def test_it_stays_where_it_was():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("fsdp", "tensor"))
    place = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    apart = take_apart(jax.device_put(stack(), place), LAYERS)
    assert {layer.sharding for layer in apart.layers} == {NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))}
    assert take_apart(place, LAYERS).layers == (NamedSharding(mesh, PartitionSpec("fsdp", "tensor")),) * LAYERS
    assert put_together(apart).sharding == place


def test_shapes_are_taken_apart_too():
    shapes = take_apart(jax.ShapeDtypeStruct((LAYERS, 8, 6), jnp.bfloat16), LAYERS)
    assert shapes.layers == (jax.ShapeDtypeStruct((8, 6), jnp.bfloat16),) * LAYERS
    assert len(jax.tree.leaves({"a": shapes})) == LAYERS and is_apart(shapes) and not is_apart(stack())


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full", "dots_no_batch"])
def test_layers_run_alike(remat):
    """With a bias that stays stacked beside a kernel that is held apart, as of an adapter and its frozen base."""
    module = Linear(6, 6, (None, None), bias=True, dtype=jnp.float32, rngs=nnx.Rngs(0), stack=LAYERS)
    graph, state = nnx.split(module)
    params = nnx.to_pure_dict(state) | {"bias": jax.random.normal(jax.random.key(2), (LAYERS, 6))}
    kernel = np.asarray(params["kernel"])
    x, factors = jax.random.normal(jax.random.key(1), (3, 6)), jnp.arange(1.0, LAYERS + 1)

    def result(kernel, bias):
        layers = nnx.merge(graph, {"kernel": kernel, "bias": bias})
        step = lambda layer, x, factor: x + factor * jnp.tanh(layer(x))  # noqa: E731
        return (scan_layers(layers, step, x, remat=remat, per_layer=factors) ** 2).sum()

    together = jax.value_and_grad(result, argnums=1)(jnp.asarray(kernel), params["bias"])
    apart = jax.value_and_grad(result, argnums=1)(Apart(list(jnp.asarray(kernel))), params["bias"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), together, apart)


def test_what_is_kept_of_each_layer_is_stacked():
    module = Linear(6, 6, (None, None), bias=False, dtype=jnp.float32, rngs=nnx.Rngs(0), stack=LAYERS)
    graph, state = nnx.split(module)
    kernel = 20 * np.asarray(nnx.to_pure_dict(state)["kernel"])
    results = []
    for given in (jnp.asarray(kernel), Apart(list(jnp.asarray(kernel)))):
        layers = nnx.merge(graph, {"kernel": given})
        results.append(scan_keeping(layers, lambda layer, x, _: (layer(x), (x, x.sum())), jnp.ones((3, 6))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)
    assert results[1][1][0].shape == (LAYERS, 3, 6)
