"""The judge of rules: it finds in each sample response exactly the flaws that were put in, and nothing in what it was not made for."""

import json
from collections import Counter

import pytest

from mede2_jax.reasoning import offline_judge
from mede2_jax.reasoning.rubric import failed

FAILS = {
    "good": (),
    "wrong": (),
    "illogical": ("logical_consistency",),
    "ignores_image": ("image_analysis",),
    "hallucinates": ("no_hallucination",),
    "no_reflection": ("reflection",),
    "hallucinates no_reflection": ("no_hallucination", "reflection"),
}


@pytest.fixture(scope="module")
def rollouts(sample):
    return [json.loads(line) for line in (sample / "rollouts.jsonl").read_text("utf-8").splitlines()]


def verdicts(response, facts):
    return {aspect: verdict.met for aspect, verdict in offline_judge.judge(response, facts, is_correct=True).items()}


def test_every_flaw_is_found_and_no_other(rollouts):
    seen = Counter()
    for rollout in rollouts:
        if (made := rollout["metadata"]["made"]) in FAILS:
            seen[made] += 1
            assert failed(verdicts(rollout["response"], rollout["metadata"])) == FAILS[made], rollout["id"]
    assert seen == {made: 96 if made == "good" else 24 if made == "wrong" else 48 for made in FAILS}


def test_the_preference_pairs_of_the_sample_are_judged_as_they_are_labelled(sample):
    facts = {record["id"]: record["metadata"] for record in map(json.loads, (sample / "questions.jsonl").read_text("utf-8").splitlines())}
    for pair in map(json.loads, (sample / "preferences.jsonl").read_text("utf-8").splitlines()):
        case = facts[pair["id"].replace("pair", "case")]
        assert failed(verdicts(pair["chosen"], case)) == ()
        assert failed(verdicts(pair["rejected"], case)) == FAILS[pair["metadata"]["rejected_fails"]]


def test_it_does_not_look_at_what_a_response_was_made_to_be(rollouts):
    facts = {name: value for name, value in rollouts[0]["metadata"].items() if name != "made"}
    assert verdicts(rollouts[3]["response"], facts) == verdicts(rollouts[3]["response"], rollouts[3]["metadata"])


def test_words_case_and_punctuation_may_differ(rollouts):
    facts = rollouts[0]["metadata"]
    told = f"{facts['look'][0].upper()}!! {facts['link'].replace(',', ' ;')} -- one doubt remains"
    assert failed(verdicts(told, facts)) == ()


def test_a_response_of_nothing_fails_all_but_what_it_cannot_do(rollouts):
    for response in ("", "<answer> B </answer>", "the lung " * 50):
        assert failed(verdicts(response, rollouts[0]["metadata"])) == ("logical_consistency", "image_analysis", "reflection")


def test_another_cases_facts_do_not_count(rollouts):
    good, other = rollouts[0], next(rollout for rollout in rollouts if "vt-1" in rollout["id"])
    assert "image_analysis" in failed(verdicts(good["response"], other["metadata"]))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"look": []}, "metadata.look"),
        ({"look": "a line"}, "metadata.look"),
        ({"link": ""}, "metadata.link"),
        ({"blind": None}, "metadata.blind"),
        ({"differential": [["name"], []]}, "metadata.differential"),
        ({"differential": "x"}, "metadata.differential"),
    ],
)
def test_missing_facts_are_named(rollouts, change, fault):
    offline_judge.check_facts(rollouts[0]["metadata"])
    with pytest.raises(ValueError, match=fault):
        offline_judge.check_facts(rollouts[0]["metadata"] | change)
