"""Linear layers in 8 bits, against torch's own rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from quantizing import by_torch, scales_by_torch

from mede2_jax.models.layers import Linear
from mede2_jax.models.lora import LoRAConfig, LoRALinear
from mede2_jax.models.quantized import QuantizedLinear, quantize

RNG = np.random.default_rng(0)


def kernels(*shape):
    """Channels of very different sizes, one of them all zeros."""
    kernel = RNG.standard_normal(shape, np.float32) * np.exp(RNG.uniform(-6, 6, (*shape[:-2], 1, shape[-1]))).astype(np.float32)
    kernel[..., 3] = 0
    return kernel


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3"])
def test_the_numbers_are_torchs(dtype):
    kernel = kernels(96, 40)
    held, scale, (off, whole) = jax.jit(quantize, static_argnums=1)(kernel, dtype)
    scale = np.asarray(scale)
    np.testing.assert_allclose(scale, scales_by_torch(kernel, dtype), rtol=2e-7)
    expected = by_torch(kernel, scale, dtype)
    np.testing.assert_array_equal(np.asarray(held, np.float32), expected)
    error = kernel - expected * scale
    assert float(off) == pytest.approx((error**2).sum(), rel=1e-5) and float(whole) == pytest.approx((kernel**2).sum(), rel=1e-5)
    if dtype == "int8":
        assert np.all(np.abs(error).max(0) <= 0.5001 * scale) and np.abs(expected).max() == 127


@pytest.mark.slow
def test_a_stack_is_its_layers():
    kernel = kernels(3, 64, 24)
    held, scale, sums = quantize(jnp.asarray(kernel), "int8")
    for layer in range(3):
        one = quantize(jnp.asarray(kernel[layer]), "int8")
        for whole, part in zip((held, scale), one[:2], strict=True):
            np.testing.assert_array_equal(np.asarray(whole[layer]), np.asarray(part))
        np.testing.assert_allclose(sums[layer], one[2], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3"])
def test_forward_and_backward_are_those_of_the_rounded_kernel(dtype, bias):
    """With an adapter beside it, too."""
    plain = Linear(96, 40, ("embed", "mlp"), bias=bias, dtype=jnp.float32, rngs=nnx.Rngs(0))
    kernel = kernels(96, 40) * 0.01
    held, scale, _ = quantize(jnp.asarray(kernel), dtype)
    rounded = by_torch(kernel, np.asarray(scale), dtype)
    if bias:
        plain.bias[...] = jnp.asarray(RNG.standard_normal(40, np.float32))
    narrow = QuantizedLinear(plain, dtype)
    narrow.kernel[...], narrow.kernel_scale[...] = held, scale
    plain.kernel[...] = jnp.asarray(rounded) * scale
    x = jnp.asarray(RNG.standard_normal((2, 5, 96), np.float32))
    for one, other in ((narrow, plain), (adapted(narrow), adapted(plain))):
        ours, our_backward = jax.vjp(one, x)
        theirs, their_backward = jax.vjp(other, x)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(np.abs(theirs).max()))
        change = jnp.asarray(RNG.standard_normal(ours.shape, np.float32))
        (ours,), (theirs,) = our_backward(change), their_backward(change)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(np.abs(theirs).max()))
    assert narrow.kernel[...].dtype.itemsize == 1


def adapted(linear):
    layer = LoRALinear(linear, LoRAConfig(rank=4), rngs=nnx.Rngs(1))
    layer.lora_b[...] = jnp.asarray(np.random.default_rng(1).standard_normal((4, 40), np.float32))
    return layer


def test_int8_products_are_exact_in_bfloat16_up_to_the_sum():
    """Whole numbers to 127 lose nothing as bfloat16, so that rounding is that of any bfloat16 product."""
    whole = np.arange(-127, 128, dtype=np.int8)
    np.testing.assert_array_equal(np.asarray(jnp.asarray(whole).astype(jnp.bfloat16), np.float32), whole)
    assert torch.tensor(whole).to(torch.bfloat16).to(torch.float32).numpy().tolist() == whole.tolist()
