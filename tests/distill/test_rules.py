"""The rules that a demonstration keeps, each by a response that breaks it alone."""

import pytest
from teaching import question, response, rollout, thought

from mede2_jax.data.records import Question, Rollout
from mede2_jax.distill.config import DistillConfig
from mede2_jax.distill.rules import broken_rule, in_form, thought_and_answer

GOOD = thought(3)


def rule(text, *, fields=None, asked=None, **config):
    """What the rules say of a response."""
    of = question(1) | (asked or {})
    found = thought_and_answer(Rollout.model_validate(rollout(of, text, **(fields or {}))))
    return found if isinstance(found, str) else broken_rule(*found, Question.model_validate(of), DistillConfig(**config))


@pytest.mark.parametrize(
    "text",
    [
        response(3),
        f"  <think>\n{GOOD}\n</think>\n\n<answer>A. gout</answer>\n",
        f"<think>{GOOD}</think> So it is gout.\n\n<answer>gout</answer>",
        f"<think>{GOOD}</think> <think> in short, gout </think> <answer> A </answer>",
        f"<think>{GOOD}</think>\nThe answer is (A).",
        response(3, GOOD + " The correct answer is A, since the other one needs an injury. α and β do no harm."),
    ],
)
def test_what_keeps_the_rules(text):
    assert rule(text) == ""


def test_a_summary_between_thought_and_answer_is_no_part_of_it():
    text = f"<think>{GOOD}</think> In summary it is gout. <answer>A</answer>"
    assert in_form(*thought_and_answer(Rollout.model_validate(rollout(question(1), text)))) == response(3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (response(3, answer="B"), "its answer is not right"),
        (f"{GOOD} <answer> A </answer>", "no reasoning within <think>"),
        ("<think> </think> <answer> A </answer>", "no reasoning within <think>"),
        (f"Well. <think>{GOOD}</think> <answer> A </answer>", "no reasoning within <think>"),
        (f"<think>{GOOD}", "no answer can be read"),
        (f"<think>{GOOD}</think>", "no answer can be read"),
        (f"<think>{GOOD}</think> <answer>{'A ' * 400}</answer>", "no answer can be read"),
        (f"<think>{GOOD}</think> <answer> A", "no answer can be read"),
        (response(3, f"{GOOD} <answer> A </answer>"), "tags within its reasoning or answer"),
        (response(3, "It is gout, not a sprain."), "its reasoning is too short"),
        (response(3, " ".join([GOOD] * 3)), "its reasoning repeats itself"),
        (response(3, GOOD + " 这是痛风因为大脚趾红肿而且没有外伤"), "its reasoning is in another script"),
        (response(3, GOOD + " The given answer is A."), "it speaks of an answer that was given"),
        (response(3, GOOD + " It agrees with the ground truth."), "it speaks of an answer that was given"),
        (response(3, GOOD + " Since we are told the correct answer, this fits."), "it speaks of an answer that was given"),
        (response(3, GOOD + " The summary says that it is gout."), "it speaks of an answer that was given"),
    ],
)
def test_each_rule_is_broken_alone(text, expected):
    assert rule(text) == expected


def test_what_is_cut_refused_or_of_no_known_answer_is_none():
    assert rule(response(3), fields={"finish_reason": "length"}) == "it did not come to its end"
    assert rule("", fields={"finish_reason": "refusal"}) == "it did not come to its end"
    assert rule(response(3), asked={"answer": None}) == "no right answer is known"


def test_bounds_can_be_set():
    assert rule(response(3, "It is gout."), min_words=3) == "" and rule(response(3, "It is gout."), min_words=4).endswith("short")
    assert rule(response(3), max_words=60).endswith("long")
    assert rule(response(3, " ".join([GOOD] * 3)), max_repetition=0.7) == ""


def test_a_question_in_chinese_is_thought_about_in_chinese():
    asked = {
        "prompt": [{"role": "user", "content": "患者大脚趾红肿疼痛，无外伤史，最可能的诊断是什么？"}],
        "options": None,
        "answer": "痛风",
    }
    said = (
        "患者大脚趾红肿疼痛，没有外伤，所以不像扭伤。"
        + "血尿酸可能正常，因此不能据此排除。"
        + "感染会有寒战，而他没有，因此考虑痛风发作，关节液中的结晶可以证实。"
    )
    assert rule(f"<think>{said}</think> <answer>痛风</answer>", asked=asked) == ""
    assert rule(f"<think>{GOOD}</think> <answer>痛风</answer>", asked=asked) == "its reasoning is in another script"


def test_long_texts_take_no_longer_than_they_must():
    assert rule(response(3, "<think " * 50_000 + GOOD), max_words=10**6) != "it did not come to its end"
    assert rule("<think>" * 20_000) == "no answer can be read"
