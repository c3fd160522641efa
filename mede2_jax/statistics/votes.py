"""What many samples of an item are worth: pass@k, the chance level beside it, majority votes. Exact, for every k up to their number.

I items, K sizes k. An item has n samples, c of them right; u give no answer that can be read: those are never right and never a vote.
The value for k < n is the expectation over all subsets of k samples, none drawn.

| votes, right A | MV@1, MV@2, … |
|---|---|
| A A B B C | 2/5, 2/5, 13/30, 1/2, 1/2 |
| A A B and two unparsed | 2/5, 3/5, 7/10, 4/5, 1 |

Votes are for answers, not for verdicts. The most frequent answer wins; of t answers with as many votes each counts 1/t, what a fair draw
between them gives on average, whatever their order or letters. Where nobody votes, the item is wrong.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float, Int

from mede2_jax.statistics.intervals import check_counts


def pass_at(right: Int[np.ndarray, " I"], samples: Int[np.ndarray, " I"] | int, ks: Sequence[int]) -> Float[np.ndarray, "I K"]:
    """pass@k of each item, 1 − C(n−c, k) / C(n, k): how likely one of k of its samples is right (Chen et al. 2021, equation 1).

    Args:
        right: c of each item.
        samples: n, one number for all items or one for each.
        ks: The sizes k.

    Returns:
        The exact fractions, rounded once.

    Raises:
        ValueError: k below 1 or above an item's n; counts that no item can have.
    """
    right = np.asarray(right)
    samples = np.broadcast_to(np.asarray(samples), right.shape)
    check_counts(right, samples)
    _check_sizes(ks, samples.tolist())
    pairs, place = np.unique(np.stack([samples, right], axis=1), axis=0, return_inverse=True)
    # Whole numbers up to the one division, which Python rounds correctly however long they are.
    known = [[(math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k) for k in ks] for n, c in pairs.tolist()]
    return np.array(known, dtype=np.float64).reshape(len(pairs), len(ks))[place.reshape(-1)]


def chance_at(options: Int[np.ndarray, " I"], ks: Sequence[int]) -> Float[np.ndarray, "I K"]:
    """pass@k of somebody who picks one of an item's m options at random k times: 1 − (1 − 1/m)^k.

    Raises:
        ValueError: An item without options, or k below 1.
    """
    options = np.asarray(options)
    if options.ndim != 1 or (options < 1).any():
        raise ValueError(
            f"expected one number of options an item, found the shape {options.shape} and {options.min(initial=1)} as the least"
        )
    _check_sizes(ks, [])
    with np.errstate(divide="ignore"):  # one option: the logarithm of zero, whose power is zero as it should be
        return -np.expm1(np.log1p(-1 / options)[:, None] * np.asarray(ks, dtype=np.float64))


def majority_at(
    votes: Sequence[Sequence[str | None]], right: Sequence[str | Collection[str]], ks: Sequence[int]
) -> Float[np.ndarray, "I K"]:
    """MV@k of each item: how likely the answer that most of k of its samples give is right, ties shared.

    Args:
        votes: Of each item what was read from each of its samples, equal where they mean the same: letters, or normalised texts. None is
            no vote.
        right: Of each item the right answer, or all those that count as right.
        ks: The sizes k.

    Returns:
        The exact fractions, rounded once (where several answers of an item are right, once for each).

    Raises:
        ValueError: k below 1 or above the samples of an item; not one truth for each item.
    """
    if len(votes) != len(right):
        raise ValueError(f"{len(votes)} items have votes, {len(right)} a right answer")
    _check_sizes(ks, [len(answers) for answers in votes])
    values = np.zeros((len(votes), len(ks)))
    for item, (answers, truth) in enumerate(zip(votes, right, strict=True)):
        counts = Counter(answers)
        unparsed = counts.pop(None, 0)
        for answer in {truth} if isinstance(truth, str) else set(truth):
            if mine := counts.get(answer, 0):
                others = sorted(count for other, count in counts.items() if other != answer)
                values[item] += _wins(mine, tuple(others), unparsed, tuple(ks))
    return values


def _check_sizes(ks: Sequence[int], samples: Sequence[int]) -> None:
    if wrong := [k for k in ks if k < 1]:
        raise ValueError(f"k = {wrong[0]}: at least one sample has to be taken")
    most = max(ks, default=0)
    for item, there in enumerate(samples):
        if there < most:
            raise ValueError(f"k = {most}: item {item} has {there} samples")


@functools.lru_cache(maxsize=1 << 15)
def _wins(mine: int, others: tuple[int, ...], unparsed: int, ks: tuple[int, ...]) -> tuple[float, ...]:
    """What an answer with `mine` votes wins in all subsets of k samples, over their number. Items with the same counts share it.

    With m of its votes in the subset, s votes for others of which none has more than m and t have just m, and k − m − s unparsed, it wins
    1/(t + 1): the sum over m, s, t of C(mine, m) · ways(m)[s, t] · C(unparsed, k − m − s) / (t + 1).
    """
    rivals = sum(others)
    samples, most = mine + rivals + unparsed, max(ks, default=0)
    # Whatever stands in the arrays counts subsets of the samples, so none of it is above the largest binomial: 64 bits are enough
    # up to 66 samples, Python's own numbers beyond.
    kind = np.int64 if math.comb(samples, samples // 2) < 1 << 63 else object
    tied = np.zeros((len(ks), len(others) + 1), dtype=kind)
    """Subsets of k samples in which nobody is above it and t others are level."""
    for m in range(1, min(mine, most) + 1):
        ways = _ways(others, m, min(most - m, rivals), kind)
        unread = np.array([[_comb(unparsed, k - m - s) for s in range(len(ways))] for k in ks], dtype=kind)
        tied[:, : ways.shape[1]] += math.comb(mine, m) * (unread @ ways)
    common = math.lcm(*range(1, len(others) + 2))
    shares = [sum(count * (common // (t + 1)) for t, count in enumerate(row)) for row in tied.tolist()]
    return tuple(share / (common * math.comb(samples, k)) for share, k in zip(shares, ks, strict=True))


def _ways(others: tuple[int, ...], m: int, most: int, kind: type) -> Int[np.ndarray, "s t"]:
    """In how many ways s = 0 … `most` votes for others can be taken, at most m for each of them, and for t of them just m.

    It is the product over the others of Σ_{i<m} C(count, i) x^i + C(count, m) x^m y; the coefficient of x^s y^t stands in [s, t].
    """
    if not others or m > others[-1]:  # the largest: nobody comes level
        return np.array([[math.comb(sum(others), s)] for s in range(most + 1)], dtype=kind)
    ways: np.ndarray = np.zeros((most + 1, min(len(others), most // m) + 1), dtype=kind)
    ways[0, 0] = 1
    for count in others:
        product = ways.copy()
        for i in range(1, min(count, m - 1, most) + 1):
            product[i:] += math.comb(count, i) * ways[:-i]
        if m <= min(count, most):
            product[m:, 1:] += math.comb(count, m) * ways[:-m, :-1]
        ways = product
    return ways


def _comb(n: int, k: int) -> int:
    return math.comb(n, k) if k >= 0 else 0
