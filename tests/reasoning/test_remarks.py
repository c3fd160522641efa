"""What a model says about a question: read strictly, and an edited question that changes more than it says is known."""

import json
import re

import pytest

from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.prompts import RATING
from mede2_jax.reasoning.remarks import MERITS, Refinement, changed_beside, read_expansion, read_rating, read_refinement, read_types
from mede2_jax.reasoning.words import words

BEFORE = (
    "<image 1> A 62-year-old man has had a cough for 3 weeks and no fever. Haemoglobin is 9.8 g/dL. The chest radiograph "
    "shows a 4 cm mass in the right upper lobe, with no effusion. He smokes 20 cigarettes a day. What is the next step?"
)
SEEN = "shows a 4 cm mass in the right upper lobe, with no effusion"
AFTER = BEFORE.replace(SEEN, "was taken")


def types(one, other, reason="so"):
    said = {"Pattern_Recognition": one, "Knowledge_Recall": other}
    return json.dumps({name: {"Reason": reason, "Verdict": verdict} for name, verdict in said.items()})


def test_types_are_read_from_what_chat_models_write():
    assert {name: one.met for name, one in read_types(types("Yes", "No")).items()} == {
        "pattern_recognition": True,
        "knowledge_recall": False,
    }
    thought = f"<think>{types('No', 'No')}</think>\n```json\n{types('no', 'YES')}\n```"
    assert {name: one.met for name, one in read_types(thought).items()} == {"pattern_recognition": False, "knowledge_recall": True}
    for text in ("", "Yes", types("Maybe", "No"), types("Yes", "No") + types("No", "No")):
        with pytest.raises(Unreadable):
            read_types(text)


def test_a_refinement_is_one_object():
    said = json.dumps({"Removed": [SEEN, " "], "Question": f" {AFTER} "})
    for text in (said, f"```json\n{said}\n```", f'<think>{{"Removed": [], "Question": "x"}}</think> Here: {said}', f"{said}\n{said}"):
        assert read_refinement(text) == Refinement(AFTER, (SEEN,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it is empty"),
        ('{"Question": "x"}', "'Removed' is missing"),
        ('{"Removed": []}', "'Question' is missing"),
        ('{"Removed": "x", "Question": "x"}', "'Removed' must be a list of texts"),
        ('{"Removed": [1], "Question": "x"}', "'Removed' must be a list of texts"),
        ('{"Removed": [], "Question": " "}', "'Question' must be text"),
        ('{"Removed": [], "Question": 3}', "'Question' must be text"),
        ('{"Removed": [], "Question": "x"} {"Removed": [], "Question": "y"}', "it holds objects that differ"),
        ('{"Removed": [], "Question": "x", "Question": "y"}', "twice"),
        ('{"Removed": [], "Question": "x"', "it holds no JSON object"),
    ],
)
def test_what_is_no_refinement_says_why(text, expected):
    with pytest.raises(Unreadable, match=expected):
        read_refinement(text)


@pytest.mark.parametrize(
    ("question", "removed"),
    [
        (BEFORE, []),
        (AFTER, [SEEN]),
        (AFTER, [SEEN.replace(" mass", "\n mass")]),
        (BEFORE.replace(f"The chest radiograph {SEEN}. ", ""), [f"The chest radiograph {SEEN}."]),
        (BEFORE.replace(", with no effusion", "").replace("a 4 cm mass ", "something "), [", with no effusion", "a 4 cm mass"]),
        (" ".join(AFTER.split()).replace("A 62", "a 62"), [SEEN]),
    ],
)
def test_a_question_without_what_was_removed_has_changed_in_nothing_else(question, removed):
    assert changed_beside(BEFORE, Refinement(question, tuple(removed))) == ""


@pytest.mark.parametrize(
    ("question", "removed", "expected"),
    [
        (AFTER, [], "numbers"),
        (AFTER.replace("9.8", "8.9"), [SEEN], "numbers"),
        (AFTER.replace("20 cigarettes", "cigarettes"), [SEEN], "numbers"),
        (AFTER.replace("and no fever", "and a fever"), [SEEN], "negations"),
        (AFTER.replace("was taken", "was not done"), [SEEN], "negations"),
        (AFTER.replace("<image 1>", ""), [SEEN], "places of images"),
        (AFTER.replace("<image 1>", "<image 2>"), [SEEN], "places of images"),
        (AFTER + " <image 1>", [SEEN], "places of images"),
        (AFTER, ["shows a 5 cm mass"], "a passage that is said to be removed is not there: shows a 5 cm mass"),
        (AFTER, [SEEN, SEEN], "a passage that is said to be removed is not there"),
        (AFTER.replace("What is the next step?", ""), [SEEN], "words"),
        (AFTER.replace("step?", "step."), [SEEN], "what is asked"),
        (AFTER.replace("has had a cough", "presented to the clinic complaining of a productive cough"), [SEEN], "words"),
    ],
)
def test_what_else_has_changed_is_said(question, removed, expected):
    assert changed_beside(BEFORE, Refinement(question, tuple(removed))).startswith(expected)


def test_an_expansion_is_the_one_text_between_its_tags():
    for text in ("<expanded> so </expanded>", "<think> <expanded>x</expanded> </THINK> Here:\n<Expanded>\nso\n</expanded>\nDone."):
        assert read_expansion(text) == "so"
    for text in ("", "so", "<expanded> so", "<expanded> </expanded>", "<expanded>a</expanded> <expanded>b</expanded>"):
        with pytest.raises(Unreadable, match="between <expanded> and </expanded>"):
            read_expansion(text)


def test_a_rating_is_three_verdicts():
    names = ("Correct_Answer", "Logical_Structure", "Plausible_Reasoning")
    said = json.dumps({name: {"Reason": "so", "Verdict": "No" if name == names[1] else "Yes"} for name in names})
    assert {name: one.met for name, one in read_rating(said).items()} == dict(zip(MERITS, (True, False, True), strict=True))
    with pytest.raises(Unreadable, match="'Plausible_Reasoning' is missing"):
        read_rating(said.replace("Plausible", "Possible"))
    shown = json.loads(re.search(r"\{\n.*?\n\}", RATING.text, re.DOTALL)[0])
    assert tuple(shown) == names


def test_nothing_in_a_reply_takes_long():
    passage = "a " * 20_000
    assert changed_beside(BEFORE, Refinement(AFTER, (passage,))).startswith("a passage")
    assert changed_beside("a " * 50_000 + "?", Refinement("a " * 30_000 + "?", (passage,))) == ""


def test_words_are_letters_and_numbers():
    assert words("5mg, T2* of Café-au-lait at 1,000.5") == ["5", "mg", "t", "2", "of", "cafe", "au", "lait", "at", "1,000.5"]
    assert words("CT检查：肺") == ["ct", "检", "查", "肺"] and words("カルテ") == ["カ", "ル", "テ"]
