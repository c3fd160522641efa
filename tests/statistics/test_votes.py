"""pass@k and MV@k against all subsets, all profiles of votes, and figures reckoned by hand."""

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from mede2_jax.statistics.intervals import accuracy
from mede2_jax.statistics.votes import chance_at, majority_at, pass_at

KS = (1, 2, 4, 8, 16, 32)


def votes(text, unparsed=0):
    """One letter a sample, or `A10 B8`: a letter and how often."""
    found = [part for part in text.split() for part in part[0] * int(part[1:] or 1)]
    return [*found, *[None] * unparsed]


def won(subset, right):
    """What a subset of samples is worth: the share of right answers among those with most votes."""
    counts = Counter(answer for answer in subset if answer is not None)
    first = [answer for answer, count in counts.items() if count == max(counts.values())]
    return Fraction(sum(answer in right for answer in first), len(first)) if first else Fraction(0)


def by_subsets(samples, right, k):
    subsets = list(itertools.combinations(samples, k))
    return sum(won(subset, right) for subset in subsets) / len(subsets)


def by_profiles(samples, right, k):
    """Over all ways that k samples can be spread over the answers, each weighted by the number of its subsets."""
    counts = list(Counter(samples).items())
    total = Fraction(0)
    for taken in itertools.product(*(range(count + 1) for _, count in counts)):
        if sum(taken) == k:
            subsets = math.prod(math.comb(count, some) for (_, count), some in zip(counts, taken, strict=True))
            total += subsets * won([answer for (answer, _), some in zip(counts, taken, strict=True) for answer in [answer] * some], right)
    return total / math.comb(len(samples), k)


def exactly(fractions):
    return [float(fraction) for fraction in fractions]


@pytest.mark.parametrize(
    ("n", "c", "k", "share"),
    [
        (5, 1, 3, "3/5"),
        (5, 2, 3, "9/10"),
        (4, 2, 2, "5/6"),
        (32, 3, 8, "367/620"),
        (32, 1, 16, "1/2"),
        (32, 1, 32, "1"),
        (32, 0, 32, "0"),
        (7, 6, 2, "1"),
        (7, 4, 1, "4/7"),
    ],
)
def test_pass_at_k_is_the_fraction(n, c, k, share):
    assert pass_at(np.array([c]), n, [k]).tolist() == [[float(Fraction(share))]]


def test_pass_at_k_counts_the_subsets_with_a_right_sample():
    items = [(n, c) for n in range(1, 8) for c in range(n + 1)]
    for k in range(1, 8):
        some = [(n, c) for n, c in items if n >= k]
        samples, right = np.array(some).T
        expected = []
        for n, c in some:
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            expected.append(sum(map(any, subsets)) / len(subsets))
        assert pass_at(right, samples, [k])[:, 0].tolist() == expected


def test_pass_at_k_of_many_samples_keeps_its_digits():
    # 1 − C(999, 500)/C(1000, 500) = 1/2 exactly; of one in 10,000 samples 1/10,000. Products of floats lose such digits.
    assert pass_at(np.array([1]), 1000, [500]).tolist() == [[0.5]]
    assert pass_at(np.array([1]), 10_000, [1]).tolist() == [[1e-4]]


def test_items_of_several_numbers_of_samples():
    found = pass_at(np.array([1, 1, 0, 1]), np.array([4, 8, 4, 4]), [1, 2])
    assert found.tolist() == [[1 / 4, 1 / 2], [1 / 8, 1 / 4], [0, 0], [1 / 4, 1 / 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], 4, [5]), "k = 5: item 0 has 4 samples"),
        (([1, 1], [8, 4], [1, 8]), "k = 8: item 1 has 4 samples"),
        (([1], 4, [0]), "k = 0: at least one sample has to be taken"),
        (([1, 5], 4, [1]), "item 1: 5 right of 4 samples"),
        (([0, -1], 4, [1]), "item 1: -1 right of 4 samples"),
        (([0], 0, [1]), "item 0: 0 right of 0 samples"),
        (([0.5], 4, [1]), "counts are whole numbers, found float64 and int64"),
        (([[1]], 4, [1]), r"expected one count an item, found shapes \(1, 1\) and \(1, 1\)"),
    ],
)
def test_counts_that_pass_at_k_cannot_have(arguments, message):
    right, samples, ks = arguments
    with pytest.raises(ValueError, match=f"^{message}$"):
        pass_at(np.array(right), np.array(samples), ks)


def test_the_chance_level():
    found = chance_at(np.array([5, 10, 2, 1]), [1, 2, 8, 32])
    assert found[0] == pytest.approx([0.2, 0.36, 1 - 0.8**8, 1 - 0.8**32], rel=1e-14)
    assert found[0, 2:].round(3).tolist() == [0.832, 0.999]
    assert found[1, 1:].round(3).tolist() == [0.19, 0.57, 0.966]
    assert found[2].tolist() == pytest.approx([0.5, 0.75, 1 - 2**-8, 1 - 2**-32], rel=1e-14)
    assert found[3].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("options", "ks"), [([0], [1]), ([5, -1], [1]), ([[5]], [1]), ([5], [0])])
def test_a_chance_level_of_nothing(options, ks):
    with pytest.raises(ValueError, match=r"options an item|at least one sample"):
        chance_at(np.array(options), ks)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (votes("A2 B2 C"), ["2/5", "2/5", "13/30", "1/2", "1/2"]),
        (votes("A B C D E"), ["1/5"] * 5),
        (votes("A3 B2 C"), ["1/2", "1/2", "3/5", "7/10", "3/4", "1"]),
        (votes("A2 B", unparsed=2), ["2/5", "3/5", "7/10", "4/5", "1"]),
        (votes("A B2", unparsed=1), ["1/4", "1/3", "1/4", "0"]),
        (votes("A", unparsed=3), ["1/4", "1/2", "3/4", "1"]),
        (votes("B2", unparsed=1), ["0", "0", "0"]),
        ([None, None], ["0", "0"]),
    ],
)
def test_majority_votes_are_the_fractions(samples, expected):
    found = majority_at([samples], ["A"], range(1, len(samples) + 1))
    assert found.tolist() == [exactly(map(Fraction, expected))]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (votes("A10 B8 C6 D5 E3"), [0.3125, 0.3125, 0.374583, 0.456986, 0.606776, 1]),
        (votes("A9 B9 C7 D4", unparsed=3), [0.28125, 0.308468, 0.334288, 0.367447, 0.417446, 0.5]),
    ],
)
def test_majority_votes_of_32_samples(samples, expected):
    found = majority_at([samples], ["A"], KS)
    assert found[0].round(6).tolist() == expected
    assert found.tolist() == [exactly(by_profiles(samples, {"A"}, k) for k in KS)]


@pytest.mark.parametrize("seed", range(60))
def test_majority_votes_over_all_subsets(seed):
    draw = random.Random(seed)
    answers = [*"ABCDEFGHI"[: draw.randint(1, 9)], *[None] * draw.randint(0, 2)]
    samples = draw.choices(answers, k=draw.randint(1, 9))
    ks = range(1, len(samples) + 1)
    assert majority_at([samples], ["A"], ks).tolist() == [exactly(by_subsets(samples, {"A"}, k) for k in ks)]
    assert majority_at([samples], [{"A", "C", "I"}], ks)[0] == pytest.approx(exactly(by_subsets(samples, "ACI", k) for k in ks), abs=1e-15)


@pytest.mark.parametrize("samples", [votes("A30 B25 C12", unparsed=3), votes("A34 B34 C2"), votes("A5 B70 C5"), votes("A66", unparsed=1)])
def test_more_samples_than_64_bits_can_count(samples):
    ks = (1, 2, 33, len(samples) // 2, len(samples))
    assert math.comb(len(samples), len(samples) // 2) >= 2**63
    assert majority_at([samples], ["A"], ks).tolist() == [exactly(by_profiles(samples, {"A"}, k) for k in ks)]


def test_at_the_end_of_64_bits():
    samples = votes("A22 B22 C22")
    assert 2**62 < math.comb(66, 33) < 2**63
    assert majority_at([samples], ["A"], [1, 33, 66]).tolist() == [exactly(by_profiles(samples, {"A"}, k) for k in (1, 33, 66))]


def open_items(count, different, unparsed=0.0, seed=0):
    draw = random.Random(seed)
    items = []
    for _ in range(count):
        weights = [draw.random() ** 3 + 0.01 for _ in range(different)]
        texts = draw.choices([f"finding {number}" for number in range(different)], weights, k=32)
        items.append([None if draw.random() < unparsed else text for text in texts])
    return items


@pytest.mark.parametrize("different", [2, 5, 10, 40])
def test_all_answers_together_win_wherever_somebody_votes(different):
    items = open_items(30, different, unparsed=0.3)
    found = majority_at(items, [{text for text in samples if text} for samples in items], KS)
    unread = [samples.count(None) for samples in items]
    assert found == pytest.approx(np.array([[1 - math.comb(u, k) / math.comb(32, k) for k in KS] for u in unread]), abs=1e-13)


def test_one_vote_is_accuracy_and_so_are_two_without_unparsed():
    items = open_items(200, 6)
    right = np.array([samples.count("finding 0") for samples in items])
    voted = majority_at(items, ["finding 0"] * 200, [1, 2])
    assert voted[:, 0].tolist() == voted[:, 1].tolist() == (right / 32).tolist()
    assert voted[:, 0].tolist() == pass_at(right, 32, [1])[:, 0].tolist()
    assert voted[:, 0].mean() == pytest.approx(accuracy(right, 32).value, abs=1e-15)


def test_neither_order_nor_letters_count():
    samples = votes("A3 B3 C2", unparsed=2)
    renamed = [answer and {"A": "C", "B": "D", "C": "A"}[answer] for answer in reversed(samples)]
    assert majority_at([samples], ["A"], [3, 5]).tolist() == majority_at([renamed], ["C"], [3, 5]).tolist()


def test_nothing_read_is_no_answer_and_an_empty_text_is_one():
    assert majority_at([["", "", "A"], [None, None, "A"]], ["A", "A"], [3]).tolist() == [[0], [1]]


def test_a_right_answer_of_several_letters_is_one_answer():
    assert majority_at([["AB", "A", "B"]], ["AB"], [1]).tolist() == [[1 / 3]]


@pytest.mark.parametrize(
    ("items", "right", "ks", "message"),
    [
        ([["A", "B"]], ["A"], [3], "k = 3: item 0 has 2 samples"),
        ([["A", "B"], []], ["A", "B"], [1], "k = 1: item 1 has 0 samples"),
        ([["A", "B"]], ["A"], [0, 1], "k = 0: at least one sample has to be taken"),
        ([["A"], ["B"]], ["A"], [1], "2 items have votes, 1 a right answer"),
    ],
)
def test_votes_that_cannot_be_counted(items, right, ks, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        majority_at(items, right, ks)


def test_two_thousand_items_of_32_samples():
    """Seconds; the time limit of all tests tells a hang from an answer."""
    items = open_items(1000, 10, seed=1) + open_items(1000, 40, unparsed=0.1, seed=2)
    found = majority_at(items, ["finding 3"] * 2000, KS)
    assert found.shape == (2000, 6)
    assert found[:, 0].tolist() == [samples.count("finding 3") / 32 for samples in items]
    chosen = random.Random(0).sample(range(1000), 3)
    for item in chosen:  # at k = 32 there is one subset
        assert found[item, -1] == float(won(items[item], {"finding 3"}))
