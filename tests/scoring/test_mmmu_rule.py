"""MMMU's rules, as tables; and the letters that its owner guesses."""

import random

import pytest

from mede2_jax.scoring.mmmu import OwnersGuesses, is_right, read_choice, read_open
from mede2_jax.scoring.reading import Reading, outcome_of

OPTIONS = {"A": "Pneumonia", "B": "Lung abscess", "C": "Empyema", "D": "Atelectasis"}
BRACKETS, WORD, TEXT, NOTHING = "(X)", "X as a word", "option text", "nothing"


@pytest.mark.parametrize(
    ("reply", "letter", "step"),
    [
        *((reply, "C", WORD) for reply in ("C", "C.", "C,", "C:", "'C'", "C?!", "C.,", "C ", "Answer: C", ", C", "<answer> C </answer>")),
        *((reply, "C", BRACKETS) for reply in ("(C)", "(C)\n", "\n(C) Empyema", "(C), not D", "<think> (B)? </think> (C)")),
        ("(B) or (D)", "D", BRACKETS),
        ("(D) or (B)", "B", BRACKETS),
        ("Not (D), (B), not (D)", "D", BRACKETS),
        ("<think> (D) </think> <answer>C</answer>", "D", BRACKETS),
        ("B or D", "D", WORD),
        ("D or B .", "B", WORD),
        ("A B A", "A", WORD),
        ("A lung abscess", "A", WORD),  # an article
        ("It must be a lung abscess here", "B", TEXT),
        ("Six words are needed: EMPYEMA here", "C", TEXT),
        ("first a lung abscess, then an empyema", "C", TEXT),
        ("an empyema after a long lung abscess", "B", TEXT),
        ("**C**, which is to say an empyema!", "C", TEXT),
        # The ends are stripped of each sign once, in the rule's order, and of no white space.
        *((reply, None, NOTHING) for reply in ("C!?", "C,.", "C\n", "\nC", "C.\n", "\tC\t", "'C.'", "C' .\n")),
        *((reply, None, NOTHING) for reply in ("c", "(c)", "[C]", "C)", "Answer:C", "**C**", "\\boxed{C}", "C. Empyema", "(E)", "E")),
        *((reply, None, NOTHING) for reply in ("", "   ", "lung abscess", "it is a lung abscess", "I would say\nB\nfinally")),
        ("nothing of the kind is seen here", None, NOTHING),
    ],
)
def test_a_choice(reply, letter, step):
    assert read_choice(reply, OPTIONS) == Reading(letter, step)


@pytest.mark.parametrize(
    ("options", "letter"),
    [
        ({"A": "mass", "B": "Mass"}, "A"),  # at one place: the first letter
        ({"A": "Renal mass", "B": "mass"}, "B"),  # the shorter text begins later
        ({"A": "mass", "B": "kidney"}, "B"),
        ({"A": "left", "B": "right"}, None),
        ({"A": "mass", "B": ""}, "B"),  # a text of nothing is at the very end
    ],
)
def test_texts_of_options_compete(options, letter):
    assert read_choice("there is a renal mass in the kidney", options).answer == letter


def test_two_options():
    options = {"A": "True", "B": "False"}
    assert read_choice("False.", options).answer is None
    assert read_choice("The statement as it stands is false", options) == Reading("B", TEXT)


@pytest.mark.parametrize(
    ("reply", "texts", "numbers", "step"),
    [
        ("Fluorine.", ["fluorine"], [], "whole reply"),
        (" ...Iron... ", ["iron"], [], "whole reply"),
        ("b", [" b", "b "], [], "whole reply"),
        ("50%", ["50%"], [50], "whole reply"),
        (".5", [], [5], "whole reply"),
        ("1,234", [], [1234, 234], "whole reply"),
        ("2.5e3", [], [2500, 2, 3], "whole reply"),
        ("about -7.456", ["about -7.456"], [-7.46], "whole reply"),
        ("Between 3 and 5", ["between 3 and 5"], [3, 5], "whole reply"),
        ("12,345,678 cells", ["12,345,678 cells"], [12345678, 678], "whole reply"),
        ("T2 or x3", ["t2 or x3"], [2, 3], "whole reply"),
        ("3x", ["3x"], [], "whole reply"),
        ("answer ;", ["answer ;"], [], "whole reply"),
        ("final answer \n2", ["final answer \n2"], [2], "whole reply"),
        ("The result is 12 mg", ["12 mg"], [12], "after a cue"),
        ("So it could be a fistula", ["a fistula"], [], "after a cue"),
        ("It is x = 4", [], [4], "after a cue"),
        ("y=3", [], [3], "after a cue"),
        ("x = 4\nThe answer is 5", [], [5], "after a cue"),
        ("It is iron\nIt is zinc", ["iron", "zinc"], [], "after a cue"),
        ("His diagnosis: gout", ["diagnosis: gout"], [], "after a cue"),  # a cue inside a word
        ("This is", ["is"], [], "after a cue"),
        ("The final answer is", ["is"], [], "after a cue"),
        ("The answer is: B", ["is: b"], [], "after a cue"),
        ("10 or 20 = 30", [], [30], "after a cue"),
        ("Thus iron. So it is zinc", ["zinc"], [], "after a cue"),
        ("So zinc, thus iron", ["iron"], [], "after a cue"),
        ("So it is so", ["so"], [], "after a cue"),
        ("", [""], [], "nothing"),
        (" . \n", [""], [], "nothing"),
    ],
)
def test_an_open_answer(reply, texts, numbers, step):
    reading = read_open(reply)
    assert (sorted(reading.texts), sorted(reading.numbers), reading.step) == (sorted(texts), sorted(numbers), step)


def test_the_answer_of_an_open_reply_is_a_line_for_each_text():
    assert read_open("It is iron\nnothing here\nIt is 2.50").answer == "iron\n2.50"
    assert read_open(" . ").answer is None


@pytest.mark.parametrize(
    ("reply", "truth"),
    [
        ("mitochondria are shown", "Mitochondria"),
        ("4.001", "4"),
        ("1,000 units", "1000"),
        ("Graph a", "A"),
        ("a", "A"),
        ("The answer is: A", "A"),
        ("this is dna polymerase", "DNA"),
        ("Not 3 but 4", "3"),
        ("final answer \n2", "2"),
        ("10 or 20 = 30", "30"),
        ("10%", "10%"),
        ("10%", "10"),
        ("2.5e3 cells", "2,500"),
        ("Six", ["6", "six"]),
        ("It is 6", ["6", "six"]),
    ],
)
def test_an_open_answer_is_right(reply, truth):
    assert outcome_of(read_open(reply), truth, is_right) == "correct"


@pytest.mark.parametrize(
    ("reply", "truth"),
    [
        ("the mitochondrion", "Mitochondria"),
        ("four", "4"),
        ("4.01", "4"),
        ("44", "4"),
        ("1/2", "0.5"),
        ("Alpha", "A"),
        ("B", "A"),
        ("Deoxyribonucleic acid", "DNA"),
        ("10 or 20 = 30", "10"),
        ("-2", "2"),
        ("2", "-2"),
        ("x2y", "2"),
        ("seven", ["6", "six"]),
        ("iron. The result is zinc", "iron"),
        ("nan", "nan"),  # equal to no number, itself included
        ("infinity", "1"),
    ],
)
def test_an_open_answer_is_wrong(reply, truth):
    assert outcome_of(read_open(reply), truth, is_right) == "wrong"


@pytest.mark.parametrize("reply", ["", "\n", " ", "...", " .\n"])
def test_an_open_answer_of_nothing_is_unparsed(reply):
    assert outcome_of(read_open(reply), "2", is_right) == "unparsed"


def test_the_owners_guesses_are_drawn_for_unread_items_only():
    items = [("B", "ABCD"), ("?", "ABCD"), ("**A**", "AB"), ("(C)", "ABCDE"), ("", "ABCDE"), ("x", "ABCD"), ("A", "AB"), ("y", "ABCDEF")]
    state = random.getstate()
    try:
        random.seed(42)
        expected = [None if reply in ("B", "(C)", "A") else random.choice(list(letters)) for reply, letters in items]
    finally:
        random.setstate(state)
    expected = [letter or reply.strip("()") for letter, (reply, _) in zip(expected, items, strict=True)]
    guesses = OwnersGuesses()
    readings = [read_choice(reply, {letter: f"finding {letter}" for letter in letters}) for reply, letters in items]
    assert [guesses.answer(reading, letters) for reading, (_, letters) in zip(readings, items, strict=True)] == expected


def test_each_run_of_the_owner_draws_the_same_letters():
    def run():
        guesses = OwnersGuesses()
        return [guesses.answer(Reading(None, NOTHING), "ABCDE") for _ in range(50)]

    first = run()
    random.random()
    assert first == run() and set(first) == set("ABCDE")
