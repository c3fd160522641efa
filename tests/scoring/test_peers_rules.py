"""How other harnesses read choices, as tables."""

import pytest

from mede2_jax.scoring.peers import medevalkit, vlmevalkit
from mede2_jax.scoring.reading import Reading

OPTIONS = {"A": "Gout", "B": "Lupus", "C": "Renal mass", "D": "Scurvy"}
LETTER, LIKENESS, TEXT, CUE, REFUSAL, NOTHING = "letter", "likeness", "option text", "after 'answer is'", "refusal", "nothing"


@pytest.mark.parametrize(
    ("reply", "letter", "step"),
    [
        *(
            (reply, "B", LETTER)
            for reply in ("B", "b", "B.", " B ", "B. Lupus", "B. Gout", "Answer: B", "Choice:B", "答案:B", "**Answer**: B")
        ),
        *((reply, "C", LETTER) for reply in ("The answer is C.", "The final answer is C", "Not D.\nFinal answer C", "<answer>C</answer>")),
        ("<answer> B </answer> or C", "B", LETTER),
        ("<ANSWER>B</ANSWER>", "B", LETTER),
        ("<answer>\\boxed{B}</answer>", "B", LETTER),
        ("\\boxed{A} \\boxed{B}", "B", LETTER),
        ("The answer is A or \\boxed{ B }", "B", LETTER),
        ("A\n\nBecause it is not D", "A", LETTER),
        ("It must be so.\n\nC. As said", "C", LETTER),
        ("<think> A </think>\n\nB", "B", LETTER),
        ("answer: A, or answer: B", "B", LETTER),
        ("", "A", LIKENESS),
        ("?", "A", LIKENESS),
        ("gout", "A", LIKENESS),
        ("It is lupus", "B", LIKENESS),
        ("a renal mass, I think", "C", LIKENESS),
        ("scurvy.", "D", LIKENESS),
        ("(A)", "A", LIKENESS),
        ("**B**", "B", LIKENESS),
        ("(C)", "D", LIKENESS),  # the c of the shorter "D. Scurvy"
        ("(D)", "D", LIKENESS),
        ("**answer**answer** gout", "A", LIKENESS),
    ],
)
def test_medevalkit(reply, letter, step):
    assert medevalkit(reply, OPTIONS) == Reading(letter, step)


@pytest.mark.parametrize(
    ("reply", "letter", "step"),
    [
        *((reply, "B", LETTER) for reply in ("B", "(B)", "**B**", "B. Lupus", "Answer: B", "<answer> B </answer>", "[B]\n")),
        ("Rash and fever, so B", "B", LETTER),
        ("So B must be it", "B", LETTER),
        ("A mass", "A", LETTER),  # an article
        ("The answer is d", "D", CUE),
        ("The answer is Crohn disease", "C", CUE),  # of Crohn
        ("the correct ANSWER IS **b**", "B", CUE),
        ("Neither A nor D; the answer is B, as we said before", "B", CUE),
        ("The answer is lupus", "B", TEXT),
        ("Lupus", "B", TEXT),
        ("renal mass, not mass", "C", TEXT),
        ("Failed to obtain answer via API: lupus", "B", TEXT),
        ("Cannot determine the answer: B", None, REFUSAL),
        ("I can't process this file. B", None, REFUSAL),
        ("Z", None, REFUSAL),
        *(
            (reply, None, NOTHING)
            for reply in ("", "b", "A or B", "E", "The answer is E", "<answer>B</answer>", "\\boxed{b}", "lupus or gout")
        ),
        *(
            (reply, None, NOTHING)
            for reply in ("B because of the butterfly rash", "So B it must then be", "Failed to obtain answer via API: B")
        ),
        ("What we see in this patient's hands can be nothing but lupus", None, NOTHING),  # more than twice as long as all options
    ],
)
def test_vlmevalkit(reply, letter, step):
    assert vlmevalkit(reply, OPTIONS) == Reading(letter, step)


def test_a_letter_that_is_no_option_of_the_item():
    three = {letter: text for letter, text in OPTIONS.items() if letter != "D"}
    assert vlmevalkit("The answer is D", three).answer is None
    assert medevalkit("The answer is D", three).step == LIKENESS
