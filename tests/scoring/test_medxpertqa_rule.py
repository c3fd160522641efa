"""MedXpertQA's three rules, as tables: a reply, what is read in it, and by which step."""

import pytest

from mede2_jax.scoring.medxpertqa import one_turn_trigger, read, read_first_box, read_reasoning, two_turn_trigger
from mede2_jax.scoring.reading import Reading

FIVE, TEN = "ABCDE", "ABCDEFGHIJ"
TRIGGER = "Therefore, among A through E, the answer is"
WHOLE, AFTER_TRIGGER, AFTER_CUE, NOTHING = "whole reply", "after the trigger", "after 'answer is'", "nothing"


def test_the_triggers_name_the_letters():
    assert two_turn_trigger(FIVE) == TRIGGER
    assert two_turn_trigger(list(TEN)) == "Therefore, among A through J, the answer is"
    assert one_turn_trigger("ABCD") == "Among A through D, the answer is"


@pytest.mark.parametrize(
    ("reply", "letter", "step"),
    [
        ("E", "E", WHOLE),
        (" (D) Lupus nephritis\n", "D", WHOLE),
        ("C. Aortic stenosis, not B", "C", WHOLE),
        ("Of A and B, B", "A", WHOLE),
        ("A/B", "A", WHOLE),
        ("B-2", "B", WHOLE),
        ("*B*", "B", WHOLE),
        ("C's", "C", WHOLE),
        ("选 B。", "B", WHOLE),
        ("DNA was found, E", "E", WHOLE),
        ("A 50-year-old woman, so D", "A", WHOLE),  # an article
        ("<think> Not D. </think> <answer> E </answer>", "D", WHOLE),
        ("answer is B", "B", WHOLE),  # the cue has a space before it
        ("The answer is: C", "C", WHOLE),  # and one after it
        ("D? The answer is\tE", "D", WHOLE),
        ("I understand. B", "B", WHOLE),
        ("A through D are wrong, E", "E", WHOLE),
        ("Among A through J I take C", "C", WHOLE),
        ("A through F", "A", WHOLE),  # no phrase that is taken out
        ("I A through J understand B", "B", WHOLE),
        (f"{TRIGGER} B", "B", AFTER_TRIGGER),
        (f"A or C? {TRIGGER} C. It is not D", "C", AFTER_TRIGGER),
        (f"{TRIGGER} D {TRIGGER} E", "D", AFTER_TRIGGER),
        (f"The answer is D. {TRIGGER} B", "B", AFTER_TRIGGER),
        (f"{TRIGGER} none, though one answer is C", "C", AFTER_TRIGGER),
        ("We exclude B; so the answer is D", "D", AFTER_CUE),
        ("B or C. My answer is E, your answer is A", "E", AFTER_CUE),
        ("Therefore, among A through J, the answer is C", "C", AFTER_CUE),  # another item's trigger
        ("The answer is not here. Still the answer is C", None, NOTHING),
        (f"{TRIGGER} none of them. {TRIGGER} E", None, NOTHING),
        (f"C. {TRIGGER}", None, NOTHING),
        (TRIGGER, None, NOTHING),
        ("B. The answer is not known", None, NOTHING),
        *((reply, None, NOTHING) for reply in ("", " \n", "c", "answer: e", "B_2", "B2", "2B", "_B_", "选B", "ABC", "F", "Éa")),
    ],
)
def test_the_first_letter_that_is_a_word(reply, letter, step):
    assert read(reply, FIVE, TRIGGER) == Reading(letter, step)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [("F", "F"), ("I would take H", "I"), ("I understand that H", "H"), ("Hepatitis B, hence J", "B"), ("K", None), ("i", None)],
)
def test_ten_letters(reply, letter):
    assert read(reply, TEN, two_turn_trigger(TEN)).answer == letter


@pytest.mark.parametrize(("reply", "letter"), [("E, or D", "D"), ("E", None), ("Therefore, among A through D, the answer is C", "C")])
def test_four_letters(reply, letter):
    assert read(reply, list("ABCD"), two_turn_trigger("ABCD")).answer == letter


def test_the_trigger_is_that_of_the_prompt():
    trigger = one_turn_trigger(FIVE)
    assert read(f"A? {trigger} B", FIVE, trigger) == Reading("B", AFTER_TRIGGER)
    assert read(f"A? {TRIGGER} B", FIVE, trigger) == Reading("B", AFTER_CUE)  # "among" is another word than "Among"
    assert read("B or C", FIVE, "") == Reading("B", WHOLE)


LAST, AFTER_FINAL = "last letter", "after 'final answer'"


@pytest.mark.parametrize(
    ("reply", "letter", "step"),
    [
        ("Final answer: C", "C", AFTER_FINAL),
        ("FINAL ANSWER B", "B", AFTER_FINAL),
        ("final Answer is D, not E", "D", AFTER_FINAL),
        ("The final answer is (E). Final answer: A", "A", AFTER_FINAL),
        ("Final answer: C. The final answers differ: E", "E", AFTER_FINAL),
        ("Final answer: Because of this, C", "B", AFTER_FINAL),  # inside a word
        ("**Final Answer**\n\\boxed{A}", "A", AFTER_FINAL),
        ("Final answer: it is d", "D", AFTER_FINAL),
        ("Final answer: none", "E", AFTER_FINAL),
        ("Final answer: \\boxed{c}", "B", AFTER_FINAL),  # of "boxed"
        ("A. Final answer: cd", "C", AFTER_FINAL),
        ("A, B, then C", "C", LAST),
        ("The answer is A. Dyspnoea", "D", LAST),
        ("D, because of Bacteria", "B", LAST),
        ("final\nanswer: A B", "B", LAST),
        ("\\boxed{E}", "E", LAST),
        ("胸 B", "B", LAST),
        ("cab D x", "D", LAST),
        ("<answer> D </answer>", "D", LAST),
        ("<answer> d </answer>", "E", LAST),  # of "answer"
        ("option c", "C", LAST),
        ("cab", "B", LAST),
        ("B. Final answer: 12", None, NOTHING),
        ("B. Final answer: X", None, NOTHING),
        ("Final answer: H", None, NOTHING),
        ("E final answer", None, NOTHING),
        *((reply, None, NOTHING) for reply in ("", "xyz 12", "胸", "FGH")),
    ],
)
def test_letters_after_the_last_final_answer(reply, letter, step):
    assert read_reasoning(reply, FIVE) == Reading(letter, step)


def test_a_pronoun_is_the_final_answer_of_ten():
    assert read_reasoning("Final answer: I think H", TEN) == Reading("I", AFTER_FINAL)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("\\boxed{C}", "C"),
        ("So $\\boxed{C}$.", "C"),
        ("\\boxed{c}", "C"),
        ("\\boxed{A} then \\boxed{B}", "A"),
        ("\\boxed{CD} \\boxed{E}", "E"),
        ("\\boxed{} \\boxed{E}", "E"),
        ("\\boxed{1} \\boxed{D}", "D"),
        ("\\boxed{ A } \\boxed{D}", "D"),
        ("\\boxed{\\boxed{B}}", "B"),
        ("\\\\boxed{C}}", "C"),
        ("\\boxed{F} \\boxed{A}", None),  # the first letter in a box is no letter of the item
        *((f"\\boxed{{{text}}}", None) for text in ("F", " C ", "C.", "\\text{C}", "", "\nC", "é", "胸", "(C)", "B or C")),
        *(
            (reply, None)
            for reply in ("", "C", "boxed{C}", "\\boxed C", "\\boxed {C}", "\\boxed{C", "\\fbox{C}", "\\Boxed{C}", "\\boxed[C]")
        ),
    ],
)
def test_the_first_box_with_a_letter(reply, letter):
    assert read_first_box(reply, FIVE) == Reading(letter, "box" if letter else NOTHING)


def test_a_box_of_ten_letters():
    assert read_first_box("\\boxed{F} \\boxed{A}", TEN).answer == "F"
