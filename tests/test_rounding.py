"""Rounding that keeps small updates: on average, to the neighbours only, the same everywhere."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mede2_jax.rounding import Account, Rounder, Sums, add, salt, stochastic

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)


def weights(shape, scale=0.02, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_each_number_goes_to_a_neighbour_and_on_average_stays_where_it_was(dtype):
    one = np.float32(0.0213)
    below, above = sorted(
        {float(one.astype(dtype)), float(np.nextafter(one.astype(dtype), dtype.type(0 if one.astype(dtype) > one else 1)))}
    )
    for sign in (1, -1):
        rounded = stochastic(np.full((500, 800), sign * one, np.float32), dtype, salt("a"), np).astype(np.float64)
        assert set(np.unique(rounded)) == {sign * below, sign * above}
        share = (one - below) / (above - below)
        spread = np.sqrt(share * (1 - share) / rounded.size) * (above - below)
        assert abs(rounded.mean() - sign * float(one)) < 5 * spread


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_what_the_dtype_has_is_left_as_it_is(dtype):
    exact = np.array([[0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, 6.1035e-05, 3e-39]], np.float32).astype(dtype).astype(np.float32)
    for seed in range(20):
        assert np.array_equal(stochastic(exact, dtype, seed, np).astype(np.float32), exact)
    assert np.isnan(stochastic(np.full((1, 3), np.nan, np.float32), dtype, 7, np).astype(np.float32)).all()
    assert np.isnan(stochastic(np.array([[np.uint32(0x7FFFFFFF)]]).view(np.float32), dtype, 7, np).astype(np.float32)).all()


def test_the_bits_are_the_same_in_numpy_in_jax_in_blocks_and_on_devices():
    values, mesh = weights((64, 96)), jax.make_mesh((4, 2), ("x", "y"))
    whole = stochastic(values, BF16, salt("a/b", 3), np)
    blocks = [stochastic(values[start : start + 24], BF16, salt("a/b", 3), np, start) for start in range(0, 64, 24)]
    assert np.array_equal(np.concatenate(blocks), whole)
    rounded = jax.jit(lambda x, s: stochastic(x, jnp.bfloat16, s, jnp))
    placed = jax.device_put(values, jax.NamedSharding(mesh, jax.P("x", "y")))
    for array in (values, placed):
        assert np.array_equal(np.asarray(rounded(array, jnp.uint32(salt("a/b", 3)))), whole)
    others = {stochastic(values, BF16, salt(*name), np).tobytes() for name in (("a/b",), ("a/b", 0), ("a/b", 3), ("a/c", 3))}
    assert len(others) == 4, "each tensor and each layer has bits of its own"


def test_bits_of_neighbours_know_nothing_of_one_another():
    """A row, a column and a layer: correlated rounding would add up in a product."""
    half = np.full((256, 256), 1.0 + 2**-8, np.float32)  # halfway between two bfloat16 numbers
    up = np.stack([stochastic(half, BF16, salt("k", layer), np).astype(np.float32) > 1.004 for layer in range(8)]) - 0.5
    assert abs(up.mean()) < 0.003
    for axis in range(3):
        along = (up * np.roll(up, 1, axis)).mean() * 4
        assert abs(along) < 0.01, (axis, along)
        means = up.mean(axis=axis)
        assert means.std() == pytest.approx(0.5 / np.sqrt(up.shape[axis]), rel=0.05)


def test_a_small_update_survives_and_a_large_one_is_rounded_as_everywhere():
    base = weights((512, 512)).astype(BF16)
    small, large = weights(base.shape, 2e-6, 1), weights(base.shape, 2e-3, 1)
    nearest, sums = add(base, small, BF16, "nearest", salt("a"), np)
    assert np.array_equal(nearest, (base.astype(np.float32) + small).astype(BF16)) and 1 - sums.kept / sums.square > 0.7
    written, sums = add(base, small, BF16, "auto", salt("a"), np)
    assert abs(1 - sums.kept / sums.square) < 0.05 and sums.nearest / sums.square < 0.3
    for how in ("auto", "nearest"):
        written, sums = add(base, large, BF16, how, salt("a"), np)
        assert np.array_equal(written, (base.astype(np.float32) + large).astype(BF16)) and sums.kept == sums.nearest
    written, sums = add(base, large, BF16, "stochastic", salt("a"), np)
    assert not np.array_equal(written, (base.astype(np.float32) + large).astype(BF16)) and abs(1 - sums.kept / sums.square) < 0.01
    exact, sums = add(base, small, np.dtype(np.float32), "auto", salt("a"), np)
    assert np.array_equal(exact, base.astype(np.float32) + small)


def test_no_update_changes_nothing():
    base = weights((8, 8)).astype(BF16)
    written, sums = add(base, np.zeros((8, 8), np.float32), BF16, "auto", 3, np)
    account = Account()
    account.add(sums, 64, 2, 8)
    assert np.array_equal(written, base) and account.lost == account.noise == 0.0 and "no update" in account.describe("bfloat16")


def test_the_account_of_blocks_is_that_of_the_whole():
    base, update = weights((96, 64)).astype(BF16), weights((96, 64), 3e-6, 1)
    whole, blocks = Rounder("stochastic"), Rounder("stochastic")
    written = whole.add(base, update, BF16, "a/kernel", 2, 0, rank=4)
    parts = [blocks.add(base[i : i + 32], update[i : i + 32], BF16, "a/kernel", 2, i, rank=4) for i in range(0, 96, 32)]
    assert np.array_equal(np.concatenate(parts), written)
    for name in ("square", "nearest", "kept", "error"):
        assert getattr(blocks.account, name) == pytest.approx(getattr(whole.account, name), rel=1e-4), name
    direct = np.float32(written) - np.float32(base)
    assert whole.account.kept == pytest.approx(float((direct * update).sum()), rel=1e-4)
    assert whole.account.error == pytest.approx(float(((direct - update) ** 2).sum()), rel=1e-4)


def test_noise_is_foretold():
    """Adam's first step on B with gradients G of no structure, as `Account.noise` assumes: the error's share of ⟨G, Δ⟩ is as it says."""
    rng, rank, shares, account = np.random.default_rng(0), 4, [], Account()
    for seed in range(100):
        base, gradient = weights((128, 64), seed=seed).astype(BF16), rng.standard_normal((128, 64)).astype(np.float32)
        a = rng.uniform(-1, 1, (128, rank)).astype(np.float32) / np.float32(128**0.5)
        update = np.float32(2e-4) * (a @ np.sign(a.T @ gradient))
        written, sums = add(base, update, BF16, "stochastic", salt("k", seed), np)
        account.add(sums, base.size, rank, 128)
        error = written.astype(np.float32) - (base.astype(np.float32) + update)
        shares.append(((gradient * error).sum(), (gradient * update).sum()))
    error, signal = np.array(shares).T
    assert np.sqrt((error**2).sum()) / signal.sum() == pytest.approx(account.noise, rel=0.25)


def test_sums_of_several_layers_are_taken_together():
    account, one = Account(), Account()
    account.add(Sums(*(np.array([value, value]) for value in (4.0, 1.0, 3.9, 0.5))), 100, None, 10)
    for _ in range(2):
        one.add(Sums(4.0, 1.0, 3.9, 0.5), 100, None, 10)
    assert account == one and account.lost == pytest.approx(0.025) and account.lost_to_nearest == 0.75
    assert "loses 2.5% of the update, where rounding to the nearest would have lost 75.0%" in account.describe("bfloat16")
