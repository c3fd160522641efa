"""DiagnosisArena's rules, as tables: choices in a box, and a judge's scores."""

import re

import pytest

from mede2_jax.scoring.boxes import boxes
from mede2_jax.scoring.diagnosisarena import read_choice, read_judge
from mede2_jax.scoring.reading import Reading, outcome_of


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        *((f"\\boxed{{{text}}}", "C") for text in ("C", "c", " C ", "\tc")),
        *(
            (reply, "C")
            for reply in (
                "$\\boxed{C}$",
                "Final answer: \\boxed{C}.",
                "\\boxed{C} no, \\boxed{D}",
                "\\boxed{\nA} \\boxed{C}",
                "\\\\boxed{C}}",
            )
        ),
        ("\\boxed{D} or \\boxed{C}", "D"),
        ("\\boxed{E}", "E"),
        ("\\boxed{C.}", "C."),
        ("\\boxed{(C)}", "(C)"),
        ("\\boxed{C, D}", "C, D"),
        ("\\boxed{Sarcoidosis}", "Sarcoidosis"),
        ("\\boxed{\\text{C}}", "\\text{C"),
        ("\\boxed{\\boxed{C}}", "\\boxed{C"),
        ("\\boxed{胸}", "胸"),
        ("\\boxed{A\rB}", "A\rB"),
        *(
            (reply, None)
            for reply in ("", "C", "\\boxed{}", "\\boxed{ }", "\\boxed{\nC}", "\\boxed{C", "boxed{C}", "\\boxed {C}", "\\Boxed{C}")
        ),
    ],
)
def test_what_the_first_box_holds(reply, answer):
    assert read_choice(reply, "ABCD") == Reading(answer, "nothing" if answer is None else "box")


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("\\boxed{b}", "correct"),
        ("\\boxed{ B }", "correct"),
        ("\\boxed{B} \\boxed{A}", "correct"),
        ("\\boxed{A} \\boxed{B}", "wrong"),
        ("\\boxed{B. Gout}", "wrong"),
        ("\\boxed{\\text{B}}", "wrong"),
        ("B", "unparsed"),
        ("\\boxed{}", "unparsed"),
    ],
)
def test_the_rule_that_the_owner_means(reply, outcome):
    assert outcome_of(read_choice(reply, "ABCD"), "B") == outcome


def scores(*numbers):
    return "\n".join(f"{place}. A disease: \\boxed{{{number}}};" for place, number in enumerate(numbers, start=1))


@pytest.mark.parametrize(
    ("reply", "numbers", "top1", "top5"),
    [
        (scores(2), [2], True, True),
        (scores(2, 2, 2, 2, 2), [2, 2, 2, 2, 2], True, True),
        (scores(2, 0, 0, 0, 0), [2, 0, 0, 0, 0], True, True),
        (scores(0, 2), [0, 2], False, True),
        (scores(1, 1, 1, 1, 2), [1, 1, 1, 1, 2], False, True),
        (scores(1, 1, 1, 1, 1, 2), [1, 1, 1, 1, 1, 2], False, False),
        (scores(0, 0, 0, 0, 0), [0, 0, 0, 0, 0], False, False),
        (scores(1), [1], False, False),
        (scores(3), [3], True, True),
        (scores(-1, " 2 "), [-1, 2], False, True),
        (scores("+2"), [2], True, True),
        (scores("02"), [2], True, True),
        ("\\boxed{0} \\boxed{2} in one line", [0, 2], False, True),
        ("So \\boxed{\n2} is no box, \\boxed{1} is", [1], False, False),
        ("\\boxed{2} and \\boxed{ without end", [2], True, True),
        *((reply, None, None, None) for reply in ("", "no scores", "2", "\\boxed{}", "\\boxed{2", "boxed{2}", "\\boxed{\n2}")),
        *(
            (scores(*numbers), None, None, None)
            for numbers in (["2."], ["two"], [2, "1.5"], ["2", ""], ["\\text{2}"], ["2/2"], ["9" * 5000])
        ),
    ],
)
def test_a_judges_scores(reply, numbers, top1, top5):
    read = read_judge(reply)
    assert (read and [*read.scores], read and read.top1, read and read.top5) == (numbers, top1, top5)


@pytest.mark.parametrize(
    "text", ["\\boxed{a}\n\\boxed{\n\\boxed{b}c}\\boxed{}", "}\\boxed{\\boxed{x}}\\boxed{y", "\n\\boxed{a\n}\\boxed{\r}"]
)
def test_boxes_are_those_of_the_expression(text):
    assert list(boxes(text)) == re.findall(r"\\boxed\{(.*?)\}", text)
