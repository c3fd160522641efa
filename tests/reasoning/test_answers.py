"""Final answers, as tables: what a response says, what is right, and whether they agree."""

import time

import pytest

from mede2_jax.reasoning.answers import BareLetters, final_answer, given_answer, grade, normalised, read_choice, true_choice
from mede2_jax.reasoning.choices import LONGEST

OPTIONS = {"A": "Pneumothorax", "B": "Pleural effusion", "C": "Vitamin C deficiency", "D": "Effusion"}

READ = {
    "B": ["B", "b", "B.", "B)", "(B)", "(b)", "[B]", "b.", "option B", "Option (b)", "choice B.", "Answer: B", "**B**", "`B`", '"B"'],
    "B in LaTeX": ["\\boxed{B}", "$\\boxed{\\text{B}}$", "\\boxed{\\text{B. Pleural effusion}}"],
    "B by text": ["pleural effusion", "a pleural effusion.", "the PLEURAL  EFFUSION", "Ｐleural effusion", "**pleural-effusion**"],
    "B by both": ["B. Pleural effusion", "(B) pleural effusion", "B: Pleural effusion.", "B - Pleural effusion", "B, pleural effusion"],
    "B stated": [
        "The answer is B",
        "The correct answer is (B) Pleural effusion.",
        "So the answer is: B.",
        "The most likely diagnosis is pleural effusion",
    ],
    "B explained": [
        "B. Pleural effusion, because fluid rises to a curved line",
        "B, since the angle is blunt",
        "B. Pleural effusion, not A",
    ],
    "C": ["C", "C. Vitamin C deficiency", "C Vitamin C deficiency", "vitamin c deficiency"],
    "D": ["D", "effusion", "D. Effusion"],
}


@pytest.mark.parametrize(("letter", "text"), [(name[0], text) for name, texts in READ.items() for text in texts])
def test_a_choice_is_read(letter, text):
    assert read_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "E",
        "neither",
        "none of the above",
        "A. Pleural effusion",  # letter and text contradict
        "(A) effusion",
        "B – Pneumothorax",
        "A or B",
        "A, B",
        "A/B",
        "A and B",
        "B. Not A",
        "not B",
        "A small amount of fluid",  # an article
        "a tall patient",
        "Pneumothorax and effusion",
        "pneumothorax or pleural effusion",
        "It is not a pneumothorax",
        "I",
        "D-dimer",
        "C-reactive protein",
    ],
)
def test_no_single_choice_is_no_guess(text):
    assert read_choice(text, OPTIONS) is None


def test_an_article_that_could_be_a_letter_is_no_guess():
    options = {"A": "Fracture", "B": "Cyst"}
    assert read_choice("a cyst", options) == "B"
    assert read_choice("A cyst", options) is None
    assert read_choice("A fracture", options) == "A"


def test_options_that_look_like_letters():
    groups = {"A": "AB", "B": "A", "C": "B", "D": "O"}
    assert read_choice("O", groups) == "D"
    assert read_choice("D", groups) == "D"
    assert read_choice("B", groups) is None, "its letter says B, its text says C"
    assert true_choice("AB", groups) == "A"
    for answer in ("B", "(B)", "[B].", "B:"):
        with pytest.raises(ValueError, match=r"could be B or C of field 'options' \(A, B, C, D\); write letter and text, as 'B. A'$"):
            true_choice(answer, groups)
    assert true_choice("B. A", groups) == "B" and true_choice("C. B", groups) == "C" and true_choice("(D)", groups) == "D"


@pytest.mark.parametrize(
    "response",
    [
        "<think> The option <answer>A</answer> would fit, but the effusion argues against it, so",
        "<think> a </think> <think> no, <answer>A</answer> is what it was before, but",
        "<think> It may be <answer>A</answer> or not. </think> <answer> A",
    ],
)
def test_a_response_that_ends_inside_a_thought_or_its_answer_has_none(response):
    assert grade(response, "A", OPTIONS) == "unparsed" and grade(response, "A") == "unparsed"


def test_of_several_answers_the_last_counts():
    assert grade("<think> x </think> <answer> C </answer> <answer> A </answer>", "A", OPTIONS) == "correct"
    assert grade("<think> x </think> <answer> A </answer> Wait. <answer> B </answer> Yes.", "A", OPTIONS) == "wrong"


@pytest.mark.parametrize(
    ("answer", "letter"), [("B", "B"), ("pleural effusion", "B"), ("Effusion", "D"), ("The vitamin C deficiency", "C")]
)
def test_the_truth_is_a_letter_or_a_text(answer, letter):
    assert true_choice(answer, OPTIONS) == letter


@pytest.mark.parametrize("answer", ["E", "b", "fluid", "A or B"])
def test_a_truth_that_is_no_option_is_an_error(answer):
    with pytest.raises(ValueError, match="is neither a letter nor a text of field 'options' \\(A, B, C, D\\)"):
        true_choice(answer, OPTIONS)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<think> x </think> <answer> B </answer>", "B"),
        ("<answer>A</answer> wait <answer> B. Pleural\neffusion </answer> bye", "B. Pleural\neffusion"),
        ("<ANSWER>B</Answer>", "B"),
        ("<answer>B</answer> or rather <answer> C", "B"),
        ("<answer> x <answer> B </answer>", "B"),
        ("<answer></answer>", None),
        ("<answer> B", None),
        ("<think> the answer is B", None),
        ("", None),
        ("<think> x </think>", None),
        ("<think> x </think> B", "B"),
        ("B. Pleural effusion", "B. Pleural effusion"),
        ("Long talk.\nMore of it.\n\nAnswer: B", "Answer: B"),
        ("Long talk.\n**The final answer is B.**", "The final answer is B."),
        ("<think> Perhaps <answer> A </answer>? </think> <answer> B </answer>", "B"),
        ("<think> Perhaps <answer> A </answer>? </think> Answer: B", "Answer: B"),
        ("<think> The form is <answer>A</answer>. </think>\nB", "B"),
        ("<think> I would write <answer> A </answer> but </think> The answer is B", "The answer is B"),
        ("<think> <answer>A</answer> </think> x </think> **Answer: B**", "Answer: B"),
        ("<think> <answer>A</answer> no </think>", None),
        ("<think> <answer>A</answer> no </think> <answer> B", None),
        ("<think> So <answer>B</answer> </think>", "B"),
        ("<think> x </think> <answer>B</answer> </think>", "B"),
        ("<think> a thought without end <answer>B</answer>", "B"),
        ("<THINK>İ<answer>A</answer> no</THINK><Answer>B</Answer>", "B"),
        ("<answer>B</answer> </answer>", "B"),
    ],
)
def test_where_the_answer_stands(response, expected):
    assert final_answer(response) == expected


@pytest.mark.parametrize(
    ("response", "place", "rest", "is_cut"),
    [
        ("<think> x </think> <answer> B </answer>", "tag", "<answer> B </answer>", False),
        ("<think> So <answer>B</answer> </think>", "tag", "", False),
        ("<think> a thought without end <answer>B</answer>\n", "tag", "<think> a thought without end <answer>B</answer>", False),
        ("<think> So <answer>B</answer>, but", "tag", "<think> So <answer>B</answer>, but", True),
        ("<think> x </think> <answer>B</answer> <THINK> or", "tag", "<answer>B</answer> <THINK> or", True),
        ("<think> x </think> Well.\nAnswer: B", "statement", "Well.\nAnswer: B", False),
        ("<think> x </think> Well, B ", "rest", "Well, B", False),
        ("<think> x", "nowhere", "<think> x", True),
        ("<think> x </think> <answer> B", "nowhere", "<answer> B", True),
        ("<think> x </think> B </answer>", "nowhere", "B </answer>", False),
        ("<think> x </think>", "nowhere", "", False),
        ("", "nowhere", "", False),
    ],
)
def test_what_is_known_of_a_given_answer(response, place, rest, is_cut):
    given = given_answer(response)
    assert (given.place, given.rest, given.is_cut) == (place, rest, is_cut)


@pytest.mark.parametrize(
    ("response", "answer", "options", "outcome"),
    [
        ("<think> A? No. </think> <answer> B </answer>", "B", OPTIONS, "correct"),
        ("<answer> Pleural effusion </answer>", "B", OPTIONS, "correct"),
        ("<answer> B </answer>", "Pleural effusion", OPTIONS, "correct"),
        ("<answer> A </answer>", "B", OPTIONS, "wrong"),
        ("<answer> A. Pleural effusion </answer>", "B", OPTIONS, "unparsed"),
        ("<think> B </think>", "B", OPTIONS, "unparsed"),
        ("I would say B, or perhaps A.", "B", OPTIONS, "unparsed"),
        ("Fluid is dense.\nAnswer: A", "B", OPTIONS, "wrong"),
        ("<answer> B </answer>", None, OPTIONS, None),
        ("anything", None, None, None),
        ("<answer> The Hyperkalaemia. </answer>", "hyperkalaemia", None, "correct"),
        ("<answer> The diagnosis is hyperkalaemia. </answer>", "Hyperkalaemia", None, "correct"),
        ("<answer> high potassium </answer>", "Hyperkalaemia", None, "wrong"),
        ("<answer> </answer>", "Hyperkalaemia", None, "unparsed"),
        ("The potassium is high, as the T waves show.", "Hyperkalaemia", None, "unparsed"),
        ("Hyperkalaemia.", "Hyperkalaemia", None, "correct"),
        ("The T waves are tall.\nFinal answer: hyperkalaemia", "Hyperkalaemia", None, "correct"),
        ("The T waves are tall.\nFinal answer: ischaemia", "Hyperkalaemia", None, "wrong"),
        *(
            (f"<answer> {said} </answer>", "7", None, "wrong")
            for said in ("Answer -7", "The answer –7", "answer - 17", "Diagnosis: -7", "-7")
        ),
        *(
            (f"<answer> {said} </answer>", "-7", None, "correct")
            for said in ("Answer -7", "Answer: −7", "The answer is -7", "-7.", "Answer –7")
        ),
        ("<answer> Epidural haematoma on the right </answer>", "Epidural haematoma on the left", None, "wrong"),
    ],
)
def test_grade(response, answer, options, outcome):
    assert grade(response, answer, options) == outcome


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Ménière’s disease", "Meniere's Disease.", True),
        ("left-sided fracture of the femur", "Left sided fracture of femur", True),
        ("a rupture of a berry aneurysm", "rupture of berry aneurysm", True),
        ("pO₂ 6.1 kPa", "PO2 6.1 kpa", True),
        ("Graves' disease", "Graves disease", True),
        ("β-blocker", "Β blocker", True),
        ("5–10%", "5-10 %", False),
        ("6.1", "61", False),
        ("1,000", "1000", False),
        ("HER2+", "HER2-", False),
        ("-5", "5", False),
        ("<5", ">5", False),
        ("hepatitis A", "hepatitis", False),
        ("hepatitis A", "hepatitis B", False),
        ("hepatitis a", "Hepatitis A", True),
        ("influenza A virus", "influenza virus", False),
    ],
)
def test_normalised(one, other, same):
    assert (normalised(one) == normalised(other)) is same


@pytest.mark.parametrize(
    ("truth", "answer", "outcome"),
    [
        ("B", "B. Effusion", "correct"),
        ("B", "B) Effusion", "correct"),
        ("(B)", "**B**: effusion", "correct"),
        ("b", "答案：B", "correct"),
        ("B", "A. Effusion", "wrong"),
        ("B", "A or B", "wrong"),
        ("B", "not B", "wrong"),
        ("B", "B, not A", "wrong"),
        ("B", "AB", "wrong"),
        ("E", "E. coli", "wrong"),
        ("yes", "Yes, there is an effusion", "correct"),
        ("Yes", "**Yes** – there is.", "correct"),
        ("yes", "Yes there is", "correct"),
        ("no", "No, the lungs are clear.", "correct"),
        ("no", "No\n\nThe lungs are clear.", "correct"),
        ("no", "Yes, there is an effusion", "wrong"),
        ("yes", "No. There is none.", "wrong"),
        ("true", "True: it is blunt", "correct"),
        ("是", "是的，有积液", "correct"),
        ("是", "否。", "wrong"),
        ("yes", "Yes and no", "wrong"),
        ("yes", "Yes, no", "wrong"),
        ("no", "No. Yes, there is.", "wrong"),
        ("no", "No effusion", "wrong"),
        ("true", "True positive", "wrong"),
        ("yes", "Yesterday", "wrong"),
    ],
)
def test_short_truths_without_options(truth, answer, outcome):
    assert grade(f"<answer>{answer}</answer>", truth) == outcome
    unmarked = grade(f"<think> x </think> {answer}", truth)
    assert unmarked in ((outcome,) if outcome == "correct" else ("wrong", "unparsed"))


def test_right_answers_that_are_letters_are_told_of():
    bare = BareLetters()
    for number, (answer, options) in enumerate([("B", None), ("(b)", {}), ("Effusion", None), ("B", OPTIONS), (None, None), ("5", None)]):
        for _ in range(3):
            bare.add(str(number), answer, options)
    assert bare.notice.startswith("the right answers of 2 of 5 questions are one letter without 'options'") and "\n" not in bare.notice
    assert BareLetters().notice is None


MANY = 1_000_000
RUNS = [
    *(
        " ",
        "\n",
        "a",
        "B",
        "a ",
        "B ",
        "*",
        "**",
        "* ",
        "*a ",
        "_",
        "`",
        "'",
        '"',
        "“",
        ".",
        "..",
        ",",
        "、",
        "-",
        "- ",
        "(",
        "[",
        "<",
        "=",
        "!=",
    ),
    *(
        "\\",
        "\\boxed{",
        "\\frac{",
        "{",
        "}",
        "{}",
        "_{",
        "10^{",
        "$",
        "&",
        "<b>",
        "<b ",
        "</p>",
        "<answer>",
        "</answer>",
        "<answer></answer>",
    ),
    *("</think>", "<think>", "the ", "answer is ", "so the answer is ", "Maybe ", "No, ", "A, ", "B. ", "B\n", "B、", "胸", "选", "İ", "é"),
    *("\u0301", "\u3099", "\u200b", "⁵", "5⁵", "₅5", "½", "5x", "\x1e", "~"),
]


@pytest.mark.parametrize("run", RUNS, ids=ascii)
def test_a_million_of_anything_is_graded_at_once(run, process_seconds):
    around = [("", ""), ("<answer>", "</answer>"), ("<answer>answer", "x</answer>"), ("<answer>b", "x</answer>"), ("<think>", "</think>x")]
    for begin, end in around:
        response = begin + run * MANY + end
        for truth, options in (("A", OPTIONS), ("A", None), ("yes", None), ("fluid", None)):
            outcomes = []
            assert process_seconds(lambda: outcomes.append(grade(response, truth, options)), 0.1) < 0.1  # noqa: B023
            assert outcomes[0] in ("wrong", "unparsed")


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=ascii)
def test_the_longest_answer_that_is_read_is_read_at_once(run, process_seconds):
    for begin, end in (("", ""), ("answer", "x"), ("B", "x")):
        response = f"<answer>{begin}{run * ((LONGEST - 10) // len(run))}{end}</answer>"
        for truth, options in (("B", OPTIONS), ("B", None), ("yes", None), ("fluid", None)):
            assert process_seconds(lambda: grade(response, truth, options), 0.1) < 0.1  # noqa: B023


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 30_000,
        "a " * 100_000,
        "*" * 100_000,
        "*" * 30_000 + "x",
        "_" * 30_000 + "x",
        "`" * 30_000 + "x",
        "'" * 100_001,
        "the " * 60_000,
        "\\boxed{" * 30_000,
    ],
)
def test_a_runaway_response_is_graded_at_once(text):
    begun = time.process_time()
    for response in (text, f"<answer>{text}</answer>"):
        assert grade(response, "B", OPTIONS) in ("unparsed", "wrong")
        grade(response, "fluid")
    assert time.process_time() - begun < 10
