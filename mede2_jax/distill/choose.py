"""Which candidates become demonstrations: the best of each question, and of no teacher too many."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from mede2_jax.data.about import is_asked
from mede2_jax.distill.candidates import Candidate, Remarks
from mede2_jax.distill.config import EVEN, DistillConfig
from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.remarks import MERITS, Merit, read_rating

BETTER, FULL, UNRATED = "another one is better", "its teacher has enough", "its rating could not be read"
NO_RATING = "no rating of it came"
UNASKED = "nobody was asked to rate it: its question has marks as of images"


@dataclasses.dataclass(frozen=True)
class Rated:
    """A candidate with what its ratings say."""

    candidate: Candidate
    merits: dict[Merit, float]
    """Share of the ratings that grant each criterion; empty: it was not rated."""
    fault: str = ""
    by: Literal["rating", "people"] = "rating"
    """Whose fault it is to find."""

    @property
    def score(self) -> float:
        """The better, the higher."""
        return sum(self.merits.values())


def rate(candidate: Candidate, ratings: Remarks, config: DistillConfig) -> Rated:
    """What its ratings say of a candidate. Criteria that more than half of them do not grant take it out."""
    if not is_asked(candidate.rollout, "rating"):
        return Rated(candidate, {}, UNASKED)
    said, replies = [], ratings.about(candidate.rollout)
    if not replies:
        return Rated(candidate, {}, NO_RATING)
    for one in replies:
        try:
            said.append(read_rating(one.response))
        except Unreadable:
            continue
    if not said:
        return Rated(candidate, {}, UNRATED)
    merits = {merit: sum(one[merit].met for one in said) / len(said) for merit in MERITS}
    failed = [merit for merit in config.criteria if merits[merit] <= 0.5]
    return Rated(candidate, merits, f"its ratings deny it {failed[0].replace('_', ' ')}" if failed else "")


def choose(candidates: Sequence[Rated], config: DistillConfig) -> tuple[list[Rated], dict[str, str]]:
    """The demonstrations, and why each other candidate is none, by its id.

    Questions that few teachers answer choose first; among equals the teacher with fewer demonstrations is taken.
    """
    by_question: defaultdict[int, list[Rated]] = defaultdict(list)
    for one in sorted(candidates, key=lambda one: one.candidate.rollout.sample):
        by_question[one.candidate.question].append(one)
    teachers = {one.candidate.teacher for one in candidates}
    places = sum(min(config.per_question, len(some)) for some in by_question.values())
    share = config.quota if config.quota is not None else min(1.0, EVEN / max(len(teachers), 1))
    most = max(math.floor(share * places + 1e-9), 1)
    used, chosen, why = Counter[str](), list[Rated](), dict[str, str]()
    for some in sorted(by_question.values(), key=lambda some: (len({one.candidate.teacher for one in some}), _draw(some[0], config.seed))):
        left, picked = list(some), list[Rated]()
        while len(picked) < config.per_question:
            if not (free := [one for one in left if used[one.candidate.teacher] < most]):
                break
            best = min(free, key=lambda one: (-one.score, used[one.candidate.teacher], _draw(one, config.seed)))
            left.remove(best)
            picked.append(best)
            used[best.candidate.teacher] += 1
        chosen += picked
        worst = min((one.score for one in picked), default=-math.inf) if len(picked) == config.per_question else -math.inf
        for one in left:
            is_full = used[one.candidate.teacher] >= most and one.score > worst
            why[one.candidate.rollout.id] = FULL if is_full else BETTER
    chosen.sort(key=lambda one: (one.candidate.question, one.candidate.rollout.sample))
    return chosen, why


def _draw(one: Rated, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{one.candidate.rollout.id}".encode("utf-8", "surrogatepass")).digest()
