"""Two models on the same items: McNemar and power against sums of binomials, Holm against the closed test, the bootstrap against loops."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from mede2_jax.config import UserError
from mede2_jax.statistics.comparison import (
    detectable_difference,
    discordant,
    fewest_one_way,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_items,
)
from mede2_jax.statistics.intervals import bootstrap

NAMES = ("ours.jsonl", "theirs.jsonl")


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(1, 9, 0.021484), (10, 25, 0.016674), (12, 18, 0.361595), (0, 6, 0.03125), (5, 5, 1), (0, 0, 1), (1, 7, 0.070312)],
)
def test_mcnemar(first, second, p):
    assert round(mcnemar(first, second), 6) == p
    assert mcnemar(second, first) == mcnemar(first, second)


def test_mcnemar_is_the_sum_of_binomials():
    for first, second in itertools.product(range(21), repeat=2):
        total = first + second
        tail = Fraction(sum(math.comb(total, i) for i in range(min(first, second) + 1)), 2**total)
        assert mcnemar(first, second) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)


def test_mcnemar_of_thousands():
    tail = Fraction(sum(math.comb(2000, i) for i in range(901)), 2**2000)
    assert mcnemar(900, 1100) == pytest.approx(float(2 * tail), rel=1e-9)


def test_mcnemar_of_no_counts():
    with pytest.raises(ValueError, match="-1 and 3 are no counts of items"):
        mcnemar(-1, 3)


def test_discordant_items_are_counted_on_their_side():
    first = np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    second = np.array([1, 0, 0, 1, 0, 1], dtype=bool)
    assert discordant(first, second) == (2, 1)
    assert discordant(second, first) == (1, 2)


@pytest.mark.parametrize(("first", "second"), [([True], [True, False]), ([0.5], [True]), ([1], [0]), ([[True]], [[True]])])
def test_what_are_no_verdicts(first, second):
    with pytest.raises(ValueError, match="expected a verdict of each model for each item, found"):
        discordant(np.array(first), np.array(second))


def test_items_are_paired_in_the_order_of_the_first():
    assert paired_items({"b": 1, "a": 2, "c": 3}, {"a": 0, "c": 0, "b": 0}, NAMES) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("abc", "ab", "1 item is in ours.jsonl only (c): "),
        ("ab", "abdc", "2 items are in theirs.jsonl only (c, d): "),
        ("abx", "aby", "1 item is in ours.jsonl only (x); 1 item is in theirs.jsonl only (y): "),
        ("", "a", "1 item is in theirs.jsonl only (a): "),
        ("hgfedcba", "h", "7 items are in ours.jsonl only (a, b, c, d, e, …): "),
        (["a", "b\x1b[2J\nc"], "a", "1 item is in ours.jsonl only (b\\x1b[2J c): "),
    ],
)
def test_items_of_one_file_only_are_named(first, second, told):
    with pytest.raises(UserError) as caught:
        paired_items(dict.fromkeys(first), dict.fromkeys(second), NAMES)
    assert str(caught.value) == told + "a comparison needs the same items in both, so score both on the same selection"


def test_no_items_at_all():
    with pytest.raises(UserError, match=r"^ours.jsonl and theirs.jsonl have no items to compare$"):
        paired_items({}, {}, NAMES)


FIRST = np.array([1, 0.5, 0.75, 0, 1, 0.25, 1, 0.5])
SECOND = np.array([0.5, 0.5, 0.25, 0.25, 1, 0, 0.75, 0])


def plain_differences(first, second, labels, seed, resamples):
    """The same draws in plain Python."""
    groups = {}
    for one, other, label in zip(first, second, labels, strict=True):
        groups.setdefault(label, []).append(one - other)
    groups, random = list(groups.values()), np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = [value for place in random.integers(len(groups), size=len(groups)) for value in groups[place]]
        yield math.fsum(drawn) / len(drawn)


@pytest.mark.parametrize("labels", ["abcdefgh", "aaabcddd"])
def test_the_paired_bootstrap_equals_one_in_plain_python(labels):
    (found,) = paired_bootstrap(FIRST[:, None], SECOND[:, None], seed=11, clusters=labels, resamples=2000)
    means = list(plain_differences(FIRST.tolist(), SECOND.tolist(), labels, 11, 2000))
    low, high = np.percentile(means, [2.5, 97.5])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=1e-12)
    assert found.value == pytest.approx(FIRST.mean() - SECOND.mean(), abs=1e-12) and found.value > 0
    below = sum(mean <= 1e-9 for mean in means)
    assert 0 < below < 1000
    assert found.p == pytest.approx(2 * (below + 1) / 2001)


def test_the_paired_bootstrap_is_that_of_the_differences():
    random = np.random.default_rng(0)
    first, second = random.random((60, 3)), random.random((60, 3))
    found, single = paired_bootstrap(first, second, seed=4), bootstrap(first - second, seed=4)
    assert tuple(one.interval for one in found) == single.intervals
    assert [one.value for one in found] == pytest.approx(single.values)


def test_the_other_way_round_the_difference_turns_its_sign():
    (one,), (other,) = (paired_bootstrap(*pair, seed=1) for pair in ((FIRST[:, None], SECOND[:, None]), (SECOND[:, None], FIRST[:, None])))
    assert one.value == -other.value and one.p == other.p
    assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))


def test_pairing_takes_out_what_items_have_in_common():
    random = np.random.default_rng(1)
    hard = random.random(400)
    first, second = np.clip(hard + 0.02, 0, 1), hard
    (found,) = paired_bootstrap(first[:, None], second[:, None], seed=0)
    apart = bootstrap(first[:, None], seed=0).intervals[0]
    assert found.interval.low > 0.015 and found.interval.high < 0.025
    assert apart.high - apart.low > 0.04


def test_p_is_near_that_of_the_normal_distribution():
    random = np.random.default_rng(2)
    differences = random.normal(0.0, 1.0, 500)
    for shift in (0.02, 0.06, 0.1):
        values = differences - differences.mean() + shift
        (found,) = paired_bootstrap(values[:, None], np.zeros((500, 1)), seed=0)
        expected = 2 * stats.norm.sf(shift / (values.std() / math.sqrt(500)))
        assert found.p == pytest.approx(expected, rel=0.08, abs=0.004)


def test_two_models_that_are_one():
    (found,) = paired_bootstrap(FIRST[:, None], FIRST[:, None], seed=0)
    assert (found.value, found.interval.low, found.interval.high, found.p) == (0, 0, 0, 1)


def test_what_adding_leaves_of_zero_is_no_difference():
    """0.1 + 0.2 − 0.3 is 5.6e-17, in every resample."""
    first, second = np.full((8, 1), 0.1 + 0.2), np.full((8, 1), 0.3)
    assert (first - second > 0).all()
    (found,) = paired_bootstrap(first, second, seed=0)
    assert found.p == 1


def test_p_has_a_least_value():
    (found,) = paired_bootstrap(np.ones((20, 1)), np.zeros((20, 1)), seed=0)
    assert found.p == pytest.approx(2 / 10_001)


def test_one_item_has_a_difference_and_nothing_else():
    for found in paired_bootstrap(np.array([[1.0, 0.5]]), np.array([[0.5, 0.5]]), seed=0):
        assert found.interval is None and found.p is None
    assert [one.value for one in paired_bootstrap(np.array([[1.0, 0.5]]), np.array([[0.5, 0.5]]), seed=0)] == [0.5, 0]


def test_other_items_cannot_be_paired():
    with pytest.raises(ValueError, match=r"expected values of the same items and metrics, found the shapes \(8, 1\) and \(7, 1\)"):
        paired_bootstrap(FIRST[:, None], SECOND[:7, None], seed=0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def closed_test(p_values):
    """An hypothesis is refused where every set of hypotheses that it belongs to is, by Bonferroni."""
    places = range(len(p_values))
    sets = [some for size in range(1, len(p_values) + 1) for some in itertools.combinations(places, size)]
    return [max(min(1.0, len(some) * min(p_values[i] for i in some)) for some in sets if place in some) for place in places]


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_the_closed_test(seed):
    random = np.random.default_rng(seed)
    p_values = (random.random(random.integers(1, 8)) ** 2).round(2).tolist()
    assert holm(p_values) == pytest.approx(closed_test(p_values))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_holm_of_no_probabilities(wrong):
    with pytest.raises(ValueError, match=f"{wrong} is no p-value"):
        holm([0.5, wrong])


def test_the_fewest_items_all_one_way():
    assert fewest_one_way(150) == fewest_one_way(6) == 6
    assert fewest_one_way(5) is None
    assert fewest_one_way(150, alpha=0.01) == 8
    assert fewest_one_way(150, alpha=0.03125) == 6  # as large as the level is significant
    assert mcnemar(0, 6) <= 0.05 < mcnemar(0, 5)
    assert mcnemar(1, 7) > 0.05  # six net, and not one way


def power_of(items, discordance, difference, alpha):
    """All numbers of items that only the first, and only the second, has right."""
    p_first, p_second = (discordance + difference) / 2, (discordance - difference) / 2
    found = 0.0
    for first in range(items + 1):
        for second in range(items - first + 1):
            ways = math.comb(items, first) * math.comb(items - first, second)
            if mcnemar(first, second) <= alpha:
                found += ways * p_first**first * p_second**second * (1 - discordance) ** (items - first - second)
    return found


@pytest.mark.parametrize(
    ("items", "discordance", "power", "alpha"),
    [(30, 0.5, 0.8, 0.05), (12, 1.0, 0.8, 0.05), (25, 0.7, 0.5, 0.05), (20, 0.9, 0.9, 0.2), (8, 0.6, 0.8, 0.6)],
)
def test_the_detectable_difference_has_its_power(items, discordance, power, alpha):
    found = detectable_difference(items, discordance, power=power, alpha=alpha)
    assert 0 < found <= discordance
    assert power_of(items, discordance, found, alpha) == pytest.approx(power, abs=1e-6)
    assert power_of(items, discordance, found * 0.95, alpha) < power


@pytest.mark.parametrize(("items", "discordance"), [(5, 1.0), (1, 0.5), (10, 0.1), (150, 0.05)])
def test_too_few_items_for_any_difference(items, discordance):
    assert detectable_difference(items, discordance) is None
    if items <= 10:
        assert power_of(items, discordance, discordance, 0.05) < 0.8


@pytest.mark.parametrize(("items", "discordance"), [(2000, 0.2), (2000, 0.5), (10_000, 0.1)])
def test_the_detectable_difference_of_many_items_is_near_the_normal_approximation(items, discordance):
    """Connor's: n δ² = (z_α √d + z_β √(d − δ²))²."""
    found = detectable_difference(items, discordance)
    needed = (1.959964 * math.sqrt(discordance) + 0.841621 * math.sqrt(discordance - found**2)) ** 2 / found**2
    assert needed == pytest.approx(items, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discordance": 0.0}, "discordance is a share above 0 and at most 1, found 0.0"),
        ({"discordance": 1.5}, "discordance is a share above 0 and at most 1, found 1.5"),
        ({"discordance": math.nan}, "discordance is a share above 0 and at most 1, found nan"),
        ({"alpha": 0.0}, "alpha is a share above 0 and at most 1, found 0.0"),
        ({"power": 0.05}, "the power 0.05 is not above the level 0.05: chance alone has it"),
        ({"items": 0}, "0 items are none"),
    ],
)
def test_differences_that_cannot_be_asked_for(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        detectable_difference(**{"items": 100, "discordance": 0.2, **arguments})


def test_alpha_of_the_fewest_items_is_a_share():
    with pytest.raises(ValueError, match="alpha is a share above 0 and at most 1, found 0"):
        fewest_one_way(100, alpha=0)
