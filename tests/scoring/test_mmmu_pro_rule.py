"""MMMU-Pro's rule, as a table: a reply, what is read in it, and by which step."""

import pytest

from mede2_jax.scoring.mmmu_pro import read
from mede2_jax.scoring.reading import Reading

TEXTS = ["Gout", "Osteoma", "Rickets", "Paget disease", "Lipoma", "Myeloma", "Ewing sarcoma", "Lupus", "Scurvy", "Osteopetrosis"]
OPTIONS = dict(zip("ABCDEFGHIJ", TEXTS, strict=True))
CUE, BRACKETS, SPACE, STOP, TEXT, NOTHING = (
    *("after 'Answer:'", "(X)", "X before a space", "X before a full stop"),
    *("option text", "nothing"),
)


@pytest.mark.parametrize(
    ("reply", "letter", "step"),
    [
        ("Answer: D", "D", CUE),
        ("**Answer: F**", "F", CUE),
        ("Answer: $H$", "H", CUE),
        ("Thus:\nAnswer:\n\nG", "G", CUE),
        ("Answer: \\boxed{J}", "J", CUE),
        ("Answer: C\nAnswer: E", "E", CUE),
        ("Answer: D. Paget disease", "D", CUE),  # no other capital that is an option
        ("Answer: Gout", "G", CUE),  # inside a word
        ("Answer: <answer>D</answer>", "D", CUE),
        ("(A) and (B).\nAnswer: C", "C", CUE),
        ("Answer: A. Gout", "A", STOP),  # two capitals: on with the whole reply
        ("Answer: E, not A", "A", SPACE),
        ("Answer: D\nAnswer: C or F", "F", SPACE),
        ("Answer: C\nAnswer: none", None, NOTHING),  # never an earlier one
        ("Answer: C\nIt is a Gout", "A", TEXT),
        ("ANSWER: B", "B", SPACE),  # in this case only
        ("(C) is wrong, (D) fits", "D", BRACKETS),
        ("Not (D), hence C", "D", BRACKETS),
        ("(B)\n", "B", BRACKETS),
        ("B", "B", SPACE),
        ("I cannot tell", "I", SPACE),  # a pronoun
        ("D or E", "E", SPACE),
        ("HIJ D", "D", SPACE),  # J only ends a word, so D is further right
        ("RB MD", "B", SPACE),  # both only end words: the first letter
        ("C.\nE.", "E", SPACE),
        ("<answer> D </answer>", "D", SPACE),
        ("G. Because", "G", STOP),
        ("**G. Ewing sarcoma**", "G", STOP),
        ("B. A. neither", "A", STOP),
        ("We see rickets rather than lupus in this film", "H", TEXT),
        ("lupus, later perhaps scurvy, in this film.", "I", TEXT),
        *((reply, None, NOTHING) for reply in ("", "Answer:", "Answer: none", "Answer: K", "answer: c", "c", "B\n", "**B**", "B)", "[B]")),
        *((reply, None, NOTHING) for reply in ("<answer>D</answer>", "I'm not able to", "rickets", "胸")),
    ],
)
def test_a_choice_of_ten(reply, letter, step):
    assert read(reply, OPTIONS) == Reading(letter, step)


@pytest.mark.parametrize("reply", [{"error": "Answer: B"}, None, 5, ["Answer: B"]])
def test_what_is_no_text_is_an_empty_reply(reply):
    assert read(reply, OPTIONS) == Reading(None, NOTHING)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Answer: True", None),
        ("Answer: B (True)", "B"),
        ("Answer: C", None),
        ("Answer: Bad", "B"),
        ("A and B", "B"),
        ("the claim we read is false", "A"),
    ],
)
def test_letters_are_those_of_the_row(reply, letter):
    assert read(reply, {"A": "False", "B": "True"}).answer == letter
