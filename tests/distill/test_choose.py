"""Which candidates are taken: by hand for small cases, and for many by what must hold of any choice."""

import random
from collections import Counter

import pytest
from teaching import question, response, rollout

from mede2_jax.data.records import Rollout
from mede2_jax.distill.candidates import Candidate
from mede2_jax.distill.choose import BETTER, FULL, Rated, choose
from mede2_jax.distill.config import DistillConfig


def rated(number, teacher, sample, score=3.0):
    one = Rollout.model_validate(rollout(question(number), response(number), sample, teacher))
    return Rated(
        Candidate(number, one, one, ""),
        {"correct_answer": score / 3, "logical_structure": score / 3, "plausible_reasoning": score / 3},
    )


def taken(candidates, **config):
    chosen, why = choose(candidates, DistillConfig(**config))
    assert len(chosen) + len(why) == len(candidates)
    return {(one.candidate.question, one.candidate.teacher, one.candidate.rollout.sample) for one in chosen}, why


def test_the_best_rated_is_taken():
    found, why = taken([rated(1, "a", 0, 2), rated(1, "a", 1, 3), rated(1, "b", 2, 2.5)], quota=1.0)
    assert found == {(1, "a", 1)} and why == {"q1#0": BETTER, "q1#2": BETTER}


def test_among_equals_the_teacher_with_fewer():
    candidates = [rated(number, teacher, sample) for number in range(20) for sample, teacher in enumerate("ab")]
    found, _ = taken(candidates)
    assert Counter(teacher for _, teacher, _ in found) == {"a": 10, "b": 10}


def test_no_teacher_takes_more_than_its_quota():
    candidates = [rated(number, "a", 0, 3) for number in range(10)] + [rated(number, "b", 1, 1) for number in range(4)]
    found, why = taken(candidates, quota=0.5)
    assert Counter(teacher for _, teacher, _ in found) == {"a": 5, "b": 4}, "b's four questions are its own, of a's ten it may take five"
    assert Counter(why.values()) == {FULL: 5}, "one that nobody else answers, and four that were better than b's"
    assert Counter(teacher for _, teacher, _ in taken(candidates, quota=1.0)[0]) == {"a": 10}


def test_one_teacher_alone_may_take_all():
    found, why = taken([rated(number, "a", 0) for number in range(5)])
    assert len(found) == 5 and not why


def test_several_of_a_question():
    found, why = taken([rated(1, "a", sample, score) for sample, score in enumerate((1, 3, 2))], per_question=2)
    assert {sample for _, _, sample in found} == {1, 2} and why == {"q1#0": BETTER}


@pytest.mark.parametrize("seed", range(20))
def test_any_choice_keeps_the_rules(seed):
    rng = random.Random(seed)
    candidates = []
    for number in range(60):
        for sample in range(rng.randint(1, 5)):
            candidates.append(rated(number, rng.choice("aaabc"), sample, rng.randint(0, 3)))
    per, quota = rng.randint(1, 2), rng.choice([None, 0.4, 0.6, 1.0])
    chosen, why = choose(candidates, DistillConfig(per_question=per, quota=quota, seed=seed))
    places = sum(min(per, count) for count in Counter(one.candidate.question for one in candidates).values())
    most = (quota or 0.5) * places
    assert max(Counter(one.candidate.teacher for one in chosen).values()) <= most
    assert max(Counter(one.candidate.question for one in chosen).values()) <= per
    used = Counter(one.candidate.teacher for one in chosen)
    got = Counter(one.candidate.question for one in chosen)
    for one in candidates:
        id = one.candidate.rollout.id
        if why.get(id) == FULL:
            assert used[one.candidate.teacher] == int(most + 1e-9)
        elif why.get(id) == BETTER:
            assert got[one.candidate.question] == per
    again, other = choose(list(reversed(candidates)), DistillConfig(per_question=per, quota=quota, seed=seed))
    assert ([one.candidate.rollout.id for one in again], other) == ([one.candidate.rollout.id for one in chosen], why)
