"""Which of a question's Y_p × Y_n become pairs: limits first, then the seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from mede2_jax.pair.config import PairConfig
from mede2_jax.pair.similarity import similarities
from mede2_jax.reasoning.rubric import Criterion

Alike = Bool[np.ndarray, "N N"]

SAME_AS_OTHER = "a response nearly the same as another one"
ALIKE = "chosen and rejected nearly the same"
LENGTHS = "lengths too different"
BEYOND = "beyond max_pairs"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response that may be chosen or rejected."""

    record: int
    """Of its line in the file."""
    id: str
    sample: int
    fails: tuple[Criterion, ...]
    """None: it can be chosen; else it can be rejected."""


@dataclass(frozen=True)
class Choice:
    """The pairs of a question."""

    pairs: tuple[tuple[int, int], ...]
    """Chosen and rejected, as places among the candidates."""
    dropped: Counter[str]
    """Pairs of Y_p × Y_n that were not taken, by reason."""


def choose_pairs(question: str, candidates: Sequence[Candidate], responses: Sequence[str], config: PairConfig) -> Choice:
    """Chooses the pairs of a question; the same candidates in any order give the same pairs.

    Args:
        question: Its id.
        candidates: Its responses that were judged, in order of sample.
        responses: Their texts.
        config: The rule.
    """
    positive = [place for place, candidate in enumerate(candidates) if not candidate.fails]
    negative = [place for place, candidate in enumerate(candidates) if candidate.fails]
    alike = similarities(responses) >= config.max_similarity
    repeated = _repeated(positive, alike) | _repeated(negative, alike)
    dropped: Counter[str] = Counter()
    eligible: list[tuple[int, int]] = []
    for pair in ((chosen, rejected) for chosen in positive for rejected in negative):
        if reason := _refused(pair, responses, alike, repeated, config):
            dropped[reason] += 1
        else:
            eligible.append(pair)
    taken = _evenly(_ordered(question, eligible, candidates, responses, config), config.max_pairs)
    if over := len(eligible) - len(taken):
        dropped[BEYOND] += over
    return Choice(tuple(sorted(taken)), dropped)


def is_held_out(question: str, config: PairConfig) -> bool:
    """Whether a question's pairs are for evaluation: follows from its id, so that another rule holds out the same questions."""
    return _hash(config.seed, "eval", question) < config.eval_fraction * 2**64


def _repeated(places: Sequence[int], alike: Alike) -> set[int]:
    """Those nearly the same as an earlier one that is kept."""
    kept: list[int] = []
    for place in places:
        if not any(alike[place, other] for other in kept):
            kept.append(place)
    return {*places} - {*kept}


def _refused(pair: tuple[int, int], responses: Sequence[str], alike: Alike, repeated: set[int], config: PairConfig) -> str:
    if repeated & {*pair}:
        return SAME_AS_OTHER
    if alike[pair]:
        return ALIKE
    if config.max_length_ratio is not None and _ratio(pair, responses) > config.max_length_ratio:
        return LENGTHS
    return ""


def _ratio(pair: tuple[int, int], responses: Sequence[str]) -> float:
    short, long = sorted(len(responses[place]) for place in pair)
    return long / max(short, 1)


def _ordered(
    question: str, pairs: list[tuple[int, int]], candidates: Sequence[Candidate], responses: Sequence[str], config: PairConfig
) -> list[tuple[int, int]]:
    def key(pair: tuple[int, int]) -> tuple[float, int]:
        drawn = _hash(config.seed, question, *(candidates[place].id for place in pair))
        return (_ratio(pair, responses) if config.choose == "length" else 0.0, drawn)

    return sorted(pairs, key=key)


def _evenly(pairs: list[tuple[int, int]], limit: int | None) -> list[tuple[int, int]]:
    """Up to `limit` of the pairs, each time the first whose responses have been used least."""
    if limit is None or len(pairs) <= limit:
        return pairs
    taken: list[tuple[int, int]] = []
    uses: Counter[int] = Counter()
    rest = list(pairs)
    while len(taken) < limit:
        best = min(range(len(rest)), key=lambda place: (uses[rest[place][0]] + uses[rest[place][1]], place))
        pair = rest.pop(best)
        taken.append(pair)
        uses.update(pair)
    return taken


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big")
