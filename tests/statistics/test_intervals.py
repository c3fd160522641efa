"""Standard errors, Wilson, and the bootstrap against plain loops, all possible resamples, and the normal distribution."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from mede2_jax.statistics import intervals
from mede2_jax.statistics.intervals import (
    Estimate,
    Interval,
    accuracy,
    bootstrap,
    item_accuracies,
    mean_over_items,
    share_intervals,
    wilson,
    wilson_of_share,
)

Z = 1.959963984540054


def test_the_standard_error_is_over_items():
    samples = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
    found = accuracy(samples.sum(axis=1), 4)
    assert found.value == 0.5
    assert round(found.standard_error, 4) == 0.2282
    assert round(samples.std(ddof=1) / math.sqrt(samples.size), 4) == 0.1291  # as if all samples were items
    assert item_accuracies(samples.sum(axis=1), 4).tolist() == [0.75, 0, 1, 0.25]


def test_each_item_counts_alike_whatever_its_samples():
    assert accuracy(np.array([1, 0]), np.array([1, 9])) == Estimate(0.5, 0.5)


def test_the_standard_error_of_one_item_is_not_known():
    assert accuracy(np.array([3]), 4) == Estimate(0.75, None)


def test_the_standard_error_of_equal_items_is_zero():
    assert mean_over_items(np.array([0.25, 0.25, 0.25])) == Estimate(0.25, 0.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"at least one of each, found the shape \(0, 1\)"),
        ([0.5, math.nan], "item 1: nan is no value"),
        ([math.inf], "item 0: inf is no"),
    ],
)
def test_values_without_a_mean(values, message):
    with pytest.raises(ValueError, match=message):
        mean_over_items(np.array(values))


@pytest.mark.parametrize(("right", "samples"), [([5], 4), ([-1], 4), ([0], 0), ([0.5], 1), ([[1]], 1)])
def test_accuracies_that_no_item_has(right, samples):
    with pytest.raises(ValueError, match=r"right of|whole numbers|one count an item"):
        item_accuracies(np.array(right), samples)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (0, 10, 0, 27.75),
        (10, 10, 72.25, 100),
        (93, 150, 54.02, 69.38),
        (99, 150, 58.10, 73.10),
        (104, 286, 31.00, 42.09),
        (140, 286, 43.21, 54.72),
        (531, 2000, 24.66, 28.53),
        (809, 2000, 38.32, 42.62),
    ],
)
def test_wilson(right, total, low, high):
    found = wilson(right, total)
    assert (round(100 * found.low, 2), round(100 * found.high, 2)) == (low, high)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (1, 3), (7, 30), (143, 286), (1999, 2000)])
def test_wilson_is_where_the_score_test_is_at_its_level(right, total):
    found, share = wilson(right, total), right / total
    middle, half = share + Z**2 / (2 * total), Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    assert [found.low, found.high] == pytest.approx([(middle + sign * half) / (1 + Z**2 / total) for sign in (-1, 1)], abs=1e-12)


def test_wilson_at_another_confidence():
    wide, narrow = wilson(30, 100, confidence=0.99), wilson(30, 100, confidence=0.5)
    assert wide.low < wilson(30, 100).low < narrow.low < 0.3 < narrow.high < wilson(30, 100).high < wide.high


@pytest.mark.parametrize(("right", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_of_nothing(right, total):
    with pytest.raises(ValueError, match=f"{right} of {total} is no proportion"):
        wilson(right, total)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (0, 3), (6, 6), (5, 5), (7, 12), (3, 1000)])
def test_wilson_of_shares_is_that_of_counts(right, total):
    found, known = wilson_of_share(right / total, total), wilson(right, total)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12) and 0 <= found.low < found.high <= 1


def test_alike_is_no_certainty():
    """Of four metrics: all right, all wrong, the same share everywhere (0.1 three times is not 0.3), and one that differs."""
    values = np.array([[1.0, 0.0, (0.1 + 0.2 + 0.3) / 3, float(item > 2)] for item in range(6)])
    for clusters, units in ((None, "items"), ([item // 2 for item in range(6)], "clusters")):
        n = 6 if clusters is None else 3
        found = share_intervals(values, seed=3, clusters=clusters, resamples=2000)
        alike = f"Wilson over {units}, which are all alike"
        assert [method for _, method in found] == [alike] * 3 + [f"bootstrap over {units}, 2,000 resamples, seed 3"]
        assert found[0][0] == wilson_of_share(1.0, n) and found[1][0] == wilson_of_share(0.0, n)
        assert found[2][0].low < 0.2 < found[2][0].high
        assert found[3][0] == bootstrap(values, seed=3, clusters=clusters, resamples=2000).intervals[3]
    assert found[0][0].low == pytest.approx(3 / (3 + 1.959964**2), abs=1e-6)
    alone = share_intervals(values[:1], seed=3)
    assert alone == [(None, "bootstrap over items, 10,000 resamples, seed 3")] * 4


def plain_bootstrap(values, labels, seed, resamples=10_000):
    """The same draws, one at a time, in plain Python; for one metric."""
    groups = {}
    for value, label in zip(values, labels, strict=True):
        groups.setdefault(label, []).append(value)
    groups, random, means = list(groups.values()), np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = [value for place in random.integers(len(groups), size=len(groups)).tolist() for value in groups[place]]
        means.append(math.fsum(drawn) / len(drawn))
    means.sort()

    def percentile(share):
        place = share * (len(means) - 1)
        below = math.floor(place)
        return means[below] + (place - below) * (means[min(below + 1, len(means) - 1)] - means[below])

    return percentile(0.025), percentile(0.975)


@pytest.mark.parametrize("at_once", [1, 7 * 13, 1 << 20])
@pytest.mark.parametrize("labels", ["abcdefg", "aabbbcd", "abcabca", "xxxxxxy"])
def test_the_bootstrap_equals_one_in_plain_python(labels, at_once, monkeypatch):
    monkeypatch.setattr(intervals, "_DRAWS", at_once)  # how many are drawn at once changes nothing
    values = [0.0, 1.0, 0.25, 0.5, 1.0, 0.0, 0.75]
    found = bootstrap(np.array(values)[:, None], seed=5, clusters=labels)
    (interval,) = found.intervals
    assert [interval.low, interval.high] == pytest.approx(plain_bootstrap(values, labels, 5), abs=1e-12)
    assert found.values == (0.5,)
    assert (found.units, found.resamples, found.seed, found.confidence) == (len(set(labels)), 10_000, 5, 0.95)
    if labels == "abcdefg":
        assert found == bootstrap(np.array(values)[:, None], seed=5)


def test_the_bootstrap_has_the_percentiles_of_all_resamples():
    values = np.array([0, 0.2, 0.5, 0.7, 1.0, 0.1])
    means = sorted(sum(drawn) / 6 for drawn in itertools.product(values.tolist(), repeat=6))
    (found,) = bootstrap(values[:, None], seed=1).intervals
    # A percentile of 10,000 draws lies between the exact ones at its share ± four standard deviations.
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        slack = 4 * math.sqrt(0.025 * 0.975 / 10_000)
        assert means[int((share - slack) * len(means))] <= end <= means[int((share + slack) * len(means))]


def test_the_bootstrap_of_many_items_is_the_normal_approximation():
    random = np.random.default_rng(3)
    values = np.stack([random.random(2000) < 0.3, random.beta(2, 5, 2000), random.integers(0, 9, 2000) / 8], axis=1).astype(float)
    found = bootstrap(values, seed=2)
    for column, mean, interval in zip(values.T, found.values, found.intervals, strict=True):
        estimate = mean_over_items(column)
        assert mean == pytest.approx(estimate.value, abs=1e-12)
        # The 2.5 percentile of 10,000 normal draws has a standard deviation of 0.027 standard errors.
        ends = [(interval.low - mean) / estimate.standard_error, (interval.high - mean) / estimate.standard_error]
        assert ends == pytest.approx([-Z, Z], abs=0.11)


def test_the_bootstrap_of_clusters_is_as_wide_as_between_clusters():
    random = np.random.default_rng(4)
    labels = np.repeat(np.arange(400), random.integers(1, 6, 400))
    values = (random.random(400)[labels] < 0.4).astype(float)  # all items of a cluster alike
    (found,), (blind,) = (
        bootstrap(values[:, None], seed=0, clusters=labels.tolist()).intervals,
        bootstrap(values[:, None], seed=0).intervals,
    )
    # The linearised variance of a ratio of sums over clusters.
    sums, sizes = np.bincount(labels, values), np.bincount(labels)
    error = math.sqrt(400 / 399 * ((sums - values.mean() * sizes) ** 2).sum()) / len(values)
    assert [found.low - values.mean(), found.high - values.mean()] == pytest.approx([-Z * error, Z * error], rel=0.08)
    assert found.high - found.low > 1.5 * (blind.high - blind.low)


def test_items_that_are_there_four_times_make_nothing_surer():
    values = np.random.default_rng(0).random((50, 2))
    once, clusters = bootstrap(values, seed=9), [f"case {item}" for item in range(50) for _ in range(4)]
    again = bootstrap(np.repeat(values, 4, axis=0), seed=9, clusters=clusters)
    assert np.array([[end.low, end.high] for end in again.intervals]) == pytest.approx(
        np.array([[end.low, end.high] for end in once.intervals]), abs=1e-12
    )


def test_scipys_bootstrap_has_the_same_interval():
    values = np.random.default_rng(6).beta(1, 3, 300)
    (found,) = bootstrap(values[:, None], seed=0).intervals
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1), batch=500)
    error = values.std() / math.sqrt(300)
    assert [found.low, found.high] == pytest.approx([*theirs.confidence_interval], abs=0.15 * error)


def test_a_metric_alone_and_among_many_has_the_same_interval(monkeypatch):
    values = np.random.default_rng(7).integers(0, 9, (40, 9)) / 8
    alone = [bootstrap(values[:, [metric]], seed=3, resamples=500).intervals[0] for metric in range(9)]
    monkeypatch.setattr(intervals, "_METRICS", 4)
    assert bootstrap(values, seed=3, resamples=500).intervals == tuple(alone)


def test_another_seed_is_another_draw_and_the_same_seed_the_same():
    values = np.random.default_rng(8).random((30, 1))
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1).intervals != bootstrap(values, seed=2).intervals


def test_confidence_is_between_percentiles():
    values = np.random.default_rng(9).random((500, 1))
    (wide,), (narrow,) = bootstrap(values, seed=1, confidence=0.99).intervals, bootstrap(values, seed=1, confidence=0.68).intervals
    error = values.std() / math.sqrt(500)
    assert wide.high - wide.low == pytest.approx(2 * 2.576 * error, rel=0.06)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.9945 * error, rel=0.06)


def test_equal_items_have_no_width():
    assert bootstrap(np.ones((5, 1)), seed=0).intervals == (Interval(1.0, 1.0),)


def test_one_item_or_cluster_has_no_interval():
    assert bootstrap(np.array([[0.5, 1]]), seed=0) is None
    assert bootstrap(np.array([[0.5], [1]]), seed=0, clusters=["case", "case"]) is None


@pytest.mark.parametrize(
    ("values", "more", "message"),
    [
        (np.zeros((0, 2)), {}, "at least one of each"),
        (np.zeros((2, 0)), {}, "at least one of each"),
        (np.zeros(3), {}, r"found the shape \(3,\)"),
        (np.array([[0.5, 1], [1, math.nan]]), {}, "item 1: nan is no value of a metric"),
        (np.zeros((3, 1)), {"clusters": ["a", "b"]}, "2 cluster labels for 3 items"),
        (np.zeros((3, 1)), {"resamples": 0}, "0 resamples are none"),
    ],
)
def test_values_that_cannot_be_resampled(values, more, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(values, seed=0, **more)


def test_three_thousand_items_fit_in_little_memory():
    values = np.random.default_rng(0).random((3000, 300))
    tracemalloc.start()
    bootstrap(values, seed=0, resamples=2_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20  # 2,000 × 3,000 draws of 300 metrics are 14 GB
