"""The two modes, as tables: what is read, by which step, and what becomes of the sample."""

import pytest

from mede2_jax.scoring import medxpertqa, mmmu
from mede2_jax.scoring.modes import judge, mede2, official
from mede2_jax.scoring.reading import Reading, Rule, Verdict

OPTIONS = {"A": "Pneumothorax", "B": "Pleural effusion", "C": "Consolidation", "D": "Normal"}
TRIGGER = medxpertqa.two_turn_trigger("ABCD")
CHOICE = Rule(lambda reply: medxpertqa.read(reply, "ABCD", TRIGGER))
OPEN = Rule(mmmu.read_open, mmmu.is_right)
TAG, PLAIN, CUT, NOTHING, WHOLE = "answer tag", "plain answer", "cut", "nothing", "whole reply"


@pytest.mark.parametrize(
    ("reply", "letter", "step"),
    [
        ("<think> A? </think> <answer> B </answer>", "B", TAG),
        ("<think> A? </think> <answer> b. </answer>", "B", TAG),
        ("<think>x</think><answer>Pleural effusion</answer>", "B", TAG),
        ("<answer>B. Pleural effusion</answer> Not C", "B", TAG),
        ("<answer>A</answer> no, <answer>B</answer>", "B", TAG),
        ("<think> So <answer>B</answer> </think>", "B", TAG),
        ("<think> x <answer>B</answer>\n", "B", TAG),
        ("<think> x </think> <answer>$\\boxed{B}$</answer>", "B", TAG),
        ("<answer>A or B</answer>", None, TAG),
        ("<answer></answer> The answer is B", None, TAG),
        ("<think> B </think> <answer>fluid</answer>\nAnswer: B", None, TAG),
        ("<think> x </think> <answer> E </answer>", None, TAG),
        ("<think> x <answer>B</answer> but", None, CUT),
        ("<think> x, so the answer is B", None, CUT),
        ("<think> A </think> <think> B", None, CUT),
        ("<think> A </think> <answer>B</answer> <think> Or C", None, CUT),
        ("<think> A </think> <answer> B", None, CUT),
        ("<answer> B", None, CUT),
        ("<think> A </think> B", "B", PLAIN),
        ("<think> A </think> (B) Pleural effusion", "B", PLAIN),
        ("B.", "B", PLAIN),
        ("**B**", "B", PLAIN),
        ("Pleural effusion", "B", PLAIN),
        ("<think> A </think> Is it A?\nAnswer: B", "B", PLAIN),
        ("It looks like option C to me", "C", WHOLE),
        ("<think> A, surely. </think> The lines point to B", "B", WHOLE),
        ("<think> A </think> B </answer>", "B", WHOLE),
        (f"<think> A </think> C? {TRIGGER} B", "B", "after the trigger"),
        ("<think> A </think>", None, NOTHING),
        ("<think> A </think> I cannot say", None, NOTHING),
        ("", None, NOTHING),
    ],
)
def test_a_choice_in_mode_mede2(reply, letter, step):
    outcome = "unparsed" if letter is None else "correct" if letter == "B" else "wrong"
    assert judge("mede2", reply, "B", CHOICE, OPTIONS) == Verdict(Reading(letter, step), outcome)


@pytest.mark.parametrize(
    ("reply", "letter", "outcome"),
    [
        ("<think> A? </think> <answer> B </answer>", "A", "wrong"),
        ("<think> x, so the answer is B", "B", "correct"),
        ("<answer>Pleural effusion</answer>", None, "unparsed"),
        ("<answer>A or B</answer>", "A", "wrong"),
        ("b", None, "unparsed"),
    ],
)
def test_the_official_mode_is_the_owners_rule_on_the_reply_as_it_came(reply, letter, outcome):
    verdict = judge("official", reply, "B", CHOICE, OPTIONS)
    assert (verdict.reading.answer, verdict.outcome) == (letter, outcome)


@pytest.mark.parametrize(
    ("reply", "truth", "outcome", "step"),
    [
        ("<think> 3 </think> <answer>2</answer>", "2", "correct", TAG),
        ("<think> 2 </think> <answer>There are 2 of them</answer>", "2", "wrong", TAG),
        ("<answer>Zinc.</answer>", ["iron", "zinc"], "correct", TAG),
        ("<answer>Gold</answer>", ["iron", "zinc"], "wrong", TAG),
        ("<answer> </answer> 2", "2", "unparsed", TAG),
        ("<think> 2", "2", "unparsed", CUT),
        ("<think> x </think> <answer> 2", "2", "unparsed", CUT),
        ("<think> 3 </think> 2", "2", "correct", PLAIN),
        ("We see a metal.\nAnswer: zinc", "iron", "wrong", PLAIN),
        ("<think> 3 </think> There are 2 of them", "2", "correct", WHOLE),
        ("<think> 2 </think> There are 3 of them", "2", "wrong", WHOLE),
        ("<think> 2 </think> It could be 3", "2", "wrong", "after a cue"),
        ("Step b", "B", "correct", WHOLE),
        ("<think> 2 </think>", "2", "unparsed", NOTHING),
    ],
)
def test_an_open_answer_in_mode_mede2(reply, truth, outcome, step):
    verdict = mede2(reply, truth, OPEN)
    assert (verdict.outcome, verdict.reading.step) == (outcome, step)
    assert (verdict.reading.answer is None) == (outcome == "unparsed")


def test_an_open_answer_is_kept_as_it_is_written():
    assert mede2("<answer> The Zinc. </answer>", "zinc", OPEN).reading.answer == "The Zinc."
    assert official("It is Zinc", "zinc", OPEN).reading.answer == "zinc"


def test_without_a_rule_of_the_owners_the_rest_is_unparsed():
    unparsed = Verdict(Reading(None, NOTHING), "unparsed")
    assert official("B", "B", None) == unparsed
    assert mede2("It looks like option C to me", "C", None, OPTIONS) == unparsed
    assert mede2("There are 2 of them", "2", None) == unparsed
    assert mede2("<think> 3 </think> 2", "2", None) == Verdict(Reading("2", PLAIN), "correct")


@pytest.mark.parametrize(("truth", "outcome"), [("b", "correct"), (["A", "B"], "correct"), (["A", "C"], "wrong"), ((), "wrong")])
def test_the_truth_may_be_several_letters(truth, outcome):
    assert mede2("<answer>B</answer>", truth, CHOICE, OPTIONS).outcome == outcome
    assert official("B", truth, CHOICE).outcome == outcome
