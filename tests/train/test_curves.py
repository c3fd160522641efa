"""A run's picture: what is noisy has its mean drawn over it."""

import math

import numpy as np
import pytest
from PIL import Image

from mede2_jax.train.curves import FEW, SPAN, plot_curves, smoothed


@pytest.mark.parametrize("count", [FEW, 100, 1000])
def test_the_mean_is_that_of_the_weights(count):
    """Of each point the weighted mean of all up to it, with weights that fall by the same factor."""
    values = np.random.default_rng(count).normal(size=count)
    keep = 1 - SPAN / count
    expected = [np.average(values[: n + 1], weights=keep ** np.arange(n, -1, -1)) for n in range(count)]
    np.testing.assert_allclose(smoothed(values), expected, rtol=1e-9, atol=1e-12)


def test_few_points_are_read_as_they_are():
    assert smoothed([1.0] * (FEW - 1)) is None


def test_a_value_that_is_no_number_leaves_the_mean_as_it_was():
    values = [math.nan] * 2 + [1.0] * FEW + [math.inf, 1.0]
    assert all(math.isnan(value) for value in smoothed(values)[:2])
    assert smoothed(values)[2:] == pytest.approx([1.0] * (FEW + 2))


@pytest.mark.parametrize("steps", [3, 200])
def test_a_picture_has_a_panel_for_each_kind_of_number(steps, tmp_path):
    noise = np.random.default_rng(0).normal(size=steps)
    history = [{"step": n + 1, "loss": 1 / (n + 1) + 0.1 * abs(noise[n]), "margin": n + noise[n]} for n in range(steps)]
    history += [{"step": steps, "eval_loss": 0.5}]
    plot_curves(history, tmp_path / "one.png")
    plot_curves([{key: value for key, value in record.items() if key != "margin"} for record in history], tmp_path / "other.png")
    wide, narrow = (Image.open(tmp_path / f"{name}.png").size for name in ("one", "other"))
    assert wide[0] == pytest.approx(2 * narrow[0], abs=2) and wide[1] == narrow[1]
