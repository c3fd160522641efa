"""What texts of questions share: runs of words, as numbers that can be looked up among a hundred thousand.

Case, punctuation, accents and how numbers are spaced do not count: `5mg` is `5 mg`, and options count in any order.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH
from jaxtyping import UInt64

from mede2_jax.reasoning.normal_form import normalised
from mede2_jax.reasoning.words import words

RUN = 3
"""Words of the runs by which two texts are compared."""
LONG_RUN = 13
"""Words of a run that two texts do not share by chance (the length that GPT-3's authors took, Brown et al. 2020, appendix C)."""
SHORT = 20
"""Words below which a text is too common to be known by itself, as `what does this image show` is."""
_PERMUTATIONS = 128
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Text(NamedTuple):
    """What is compared of a question."""

    runs: UInt64[np.ndarray, " N"]
    """Of `RUN` words of the stem and of each option, each once, in the order of their numbers; of fewer words, one."""
    long_runs: UInt64[np.ndarray, " M"]
    """Of `LONG_RUN` words of the stem; none where there are fewer."""
    words: int
    """Of the stem."""
    options: frozenset[str]
    answer: str
    """In normal form; empty: not known."""


def text_of(stem: str, options: Mapping[str, str] | None, answer: str | None) -> Text:
    """What is compared of a question.

    Args:
        stem: The question without its options.
        options: Letter to text.
        answer: A letter of these, or a text.
    """
    said = _words(stem)
    right = (options or {}).get(answer or "", answer or "")
    return Text(
        runs=np.unique(np.concatenate([_runs(_words(part), RUN) for part in (stem, *sorted((options or {}).values()))])),
        long_runs=np.unique(_runs(said, LONG_RUN)),
        words=len(said),
        options=frozenset(normalised(option) for option in (options or {}).values()),
        answer=normalised(right),
    )


def similarity(one: Text, other: Text) -> float:
    """The Jaccard index of two texts' runs: of those that both have together, the share that each has."""
    both = len(np.intersect1d(one.runs, other.runs, assume_unique=True))
    either = len(one.runs) + len(other.runs) - both
    return both / either if either else 1.0


def share_options(one: Text, other: Text) -> bool:
    """Whether two questions have mostly the same options, in any order; what has none may have those of the other."""
    if not one.options or not other.options:
        return True
    return 2 * len(one.options & other.options) >= len(one.options | other.options)


def same_answer(one: Text, other: Text) -> bool:
    """Whether two questions may have the same answer: one that is not known may be any."""
    return not one.answer or not other.answer or one.answer == other.answer


class TextIndex:
    """Texts by number, of which those can be found that are like another.

    Args:
        threshold: Jaccard index from which two are alike.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        # Recall counts here: what is found is compared exactly.
        self._lsh = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, weights=(0.1, 0.9))
        self._texts: dict[int, Text] = {}

    def add(self, number: int, text: Text) -> None:
        """Keeps a text under a number."""
        self._texts[number] = text
        self._lsh.insert(number, _sketch(text))

    def like(self, text: Text) -> list[tuple[int, float]]:
        """The numbers of those alike, in their order, with the Jaccard index."""
        found = ((number, similarity(text, self._texts[number])) for number in self._lsh.query(_sketch(text)))
        return sorted((number, share) for number, share in found if share >= self.threshold)


def _sketch(text: Text) -> MinHash:
    sketch = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
    sketch.update_batch((text.runs >> np.uint64(32)).tolist())
    return sketch


def _words(text: str) -> UInt64[np.ndarray, " N"]:
    """A number for each word."""
    found = words(text)
    return np.fromiter((zlib.crc32(word.encode()) for word in found), np.uint64, len(found))


def _runs(words: UInt64[np.ndarray, " N"], length: int) -> UInt64[np.ndarray, " M"]:
    """A number for each run of so many words; of fewer words, short runs are one."""
    if length == RUN and 0 < len(words) < RUN:
        length = len(words)
    codes = np.full(max(len(words) - length + 1, 0), length, np.uint64)
    for place in range(length):
        codes = (codes ^ words[place : place + len(codes)]) * _MIX
        codes ^= codes >> np.uint64(29)
    return codes
