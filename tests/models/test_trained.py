"""Products with float32 parameters in bfloat16 activations: the same values, and gradients that are summed in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mede2_jax.models.trained import product, spread

ROWS, TOKENS, WIDTH, OUT = 8, 64, 16, 24


def values(*shape, seed=0, dtype=jnp.bfloat16):
    """Whole numbers, so small that their products and sums of 16 are exact in bfloat16, and sums of 512 in float32 alone."""
    return jax.random.randint(jax.random.key(seed), shape, 0, 3).astype(dtype)


def objective(trained, x, change):
    y = product(x, trained["kernel"]) * spread(trained["scale"], change) + spread(trained["bias"], change)
    return (y * change).sum().astype(jnp.float32)


def parameters(dtype=jnp.float32):
    return {
        "kernel": values(WIDTH, OUT, seed=1, dtype=dtype),
        "scale": values(OUT, seed=2, dtype=dtype),
        "bias": values(OUT, seed=3, dtype=dtype),
    }


@pytest.mark.slow
def test_values_are_those_of_a_cast():
    x, change, trained = values(ROWS, TOKENS, WIDTH), values(ROWS, TOKENS, OUT, seed=4), parameters()
    cast = {name: value.astype(jnp.bfloat16) for name, value in trained.items()}
    assert product(x, trained["kernel"]).dtype == spread(trained["bias"], change).dtype == jnp.bfloat16
    np.testing.assert_array_equal(product(x, trained["kernel"]), x @ cast["kernel"])
    np.testing.assert_array_equal(change * spread(trained["scale"], change), change * cast["scale"])
    by_x, by_cast = (jax.grad(objective, argnums=1)(each, x, change) for each in (trained, cast))
    np.testing.assert_array_equal(by_x, by_cast)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", ["kernel", "scale", "bias"])
def test_gradients_are_sums_in_float32(name, devices):
    """Of the activations as they are, by NumPy in float64; each device has some of the rows."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("rows",))
    rows, whole = NamedSharding(mesh, PartitionSpec("rows")), NamedSharding(mesh, PartitionSpec())
    x, change, trained = values(ROWS, TOKENS, WIDTH), values(ROWS, TOKENS, OUT, seed=4), parameters()
    found = jax.jit(jax.grad(objective), in_shardings=(whole, rows, rows), out_shardings=whole)(trained, x, change)[name]
    assert found.dtype == jnp.float32
    x, change, kernel, scale = (np.float64(each) for each in (x, change, trained["kernel"], trained["scale"]))
    by_kernel = np.einsum("rti,rto->io", x, change * scale)
    expected = {"kernel": by_kernel, "scale": (change * (x @ kernel)).sum((0, 1)), "bias": change.sum((0, 1))}[name]
    assert np.abs(expected).max() > 256  # past what bfloat16 holds exactly
    np.testing.assert_array_equal(found, expected)


def test_what_is_not_wider_is_cast_as_ever():
    x, trained = values(ROWS, TOKENS, WIDTH, dtype=jnp.float32), parameters(jnp.bfloat16)
    assert product(x, trained["kernel"]).dtype == jnp.float32
    np.testing.assert_array_equal(product(x, trained["kernel"]), x @ trained["kernel"].astype(jnp.float32))
    assert "custom_vjp" not in str(jax.make_jaxpr(product)(x, trained["kernel"]))
