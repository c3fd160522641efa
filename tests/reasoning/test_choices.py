"""Choices as they are written, in every kind of markup; and those that are none."""

import pytest

from mede2_jax.reasoning.choices import read_choice, read_letter

OPTIONS = {"A": "Cyst", "B": "Renal abscess", "C": "Renal abscess with cyst", "D": "Normal", "E": "5 mg"}

READ = {
    "Markdown": [
        "**B**.",
        "**B.** Renal abscess",
        "The answer is **B**.",
        "**Answer:** B",
        "***B***",
        "**B",
        "- B",
        "* **B**",
        "### B",
        "`B`.",
        "__B__.",
    ],
    "LaTeX": [
        *("\\boxed{B}.", "$\\boxed{B}$.", "\\(B\\)", "\\[\\boxed{B}\\]", "\\mathrm{B}", "\\textbf{B}", "$$B$$", "{B}", "$\\text{(B)}$"),
        *("\\boxed{\\textbf{B. Renal abscess}}", "The answer is $\\boxed{B}$. I hope that it is correct."),
    ],
    "HTML": ["<b>B</b>", "<b>B</b>.", "<strong>Answer:</strong> B<br>", "B&nbsp;", "<p>B</p>", "<i>B.</i> Renal abscess", "&#66;"],
    "wide and unseen letters": ["Ｂ", "（B）", "（Ｂ）", "B．Renal abscess", "【B】", "B\u200b", "\ufeffB", "\u2060B\u200d.", "Ⓑ"],
    "Chinese": [
        "答案：B",
        "答案是B",
        "正确答案为：B。",
        "因此，最终答案是（B）",
        "综上，答案是B",
        "选B",
        "故选B。",
        "选项B",
        "B、肾脓肿",
        "B）肾脓肿",
        "B.肾脓肿",
        "B。肾脓肿",
        *("答：B", "答案 B", "答案B", "B是正确的", "B 是正确答案。", "B!"),
    ],
    "no blank": [
        "B.Renal abscess",
        "B)Renal abscess",
        "B:Renal abscess",
        "(B)Renal abscess",
        "B-Renal abscess",
        "B=Renal abscess",
        "B = Renal abscess",
        "B.Because it is warm",
    ],
    "short words before it": ["Answer = B", "Ans: B", "ans. B", "Ans. **B**", "Answer – B", "The ans is B"],
    "under a heading": ["### Answer\n\nB", "## Final Answer\nB. Renal abscess", "**Answer**\n\nB", "Diagnosis\nRenal abscess", "# 答案\nB"],
    "quotes": ["‘B’", '"B".', "“B”。", "'B.'", '""B""', "「B」"],
    "said to be right": ["B is correct", "B is the correct answer.", "B is the best choice", "The answer is: **B** is correct"],
    "on a line of its own": [
        *("B\n\nBecause it is warm.", "**B**\nIt is warm", "Answer:\nB\nExplanation: it is warm", "B\nRenal abscess", "B.\nRenal\nabscess"),
        *("```\nB\n```", "\\[\n\\boxed{B}\n\\]", "$$\nB\n$$", "<p>\nB\n</p>", "\\boxed{\nB\n}", "(B)\r\nwarm"),
    ],
    "after its text": ["Renal abscess (B)", "The answer is renal abscess [B].", "**Renal abscess** (**B**)", "A renal abscess (B)"],
    "with an explanation": [
        *("B. Renal abscess, not a cyst", "B. Renal abscess, a rare finding", "B. Renal abscess. A is wrong", "B; it is warm"),
        *("B. Renal abscess; cyst is unlikely", "B. Large renal abscess", "B. Renal abscess of a cystic kidney"),
    ],
}


@pytest.mark.parametrize("text", [text for texts in READ.values() for text in texts])
def test_a_choice_is_read_in_any_markup(text):
    assert read_choice(text, OPTIONS) == "B"


NONE = {
    "letter and text contradict": [
        *("B. Renal abscess with cyst", "(B) renal abscess with cyst", "**B.** Renal abscess with a cyst", "C. Renal abscess"),
        *("C Renal abscess", "A. Normal", "D、Cyst", "B: normal", "A) 5 mg", "A. Renal abscess with cyst", "E. Renal abscess"),
    ],
    "more than one": [
        *("B. Renal abscess or A", "B. Renal abscess and a cyst", "B. Renal abscess, cyst", "B. Renal abscess / normal"),
        *("B. Renal abscess or A and D", "A. Cyst B. Renal abscess", "\\boxed{A} or \\boxed{B}", "**A**, **B**", "B) or D)"),
        *("A\nB", "B\nA is right", "B\n\nor D", "Normal (B)", "Cyst [B]", "Renal abscess (C)", "A\nlarge abscess\nD"),
        *("A、B", "A和B", "{A, B}", "B. Renal abscess, A", "A or B", "A/B"),
    ],
    "taken back": [
        *("not B", "B, not A", "B is wrong", "B: incorrect", "(B) is incorrect", "B is not correct", "B. Not an abscess", "答案不是B"),
        *("~~B~~", "<s>B</s>", "\\cancel{B}", "\\not B", "¬B", "<del>B</del> D"),
        *("B. Renal abscess is unlikely", "B. Renal abscess is excluded"),
        *("B. No renal abscess", "B: no evidence of a renal abscess", "(B) without renal abscess", "B. Renal abscess is absent", "B: no"),
        *("B. Renal abscess ❌", "B: ✗", "(B) renal abscess ✘", "B. ❌", "❌ B", "B. Renal abscess 🚫"),
        *("B、错误", "B：不正确", "B。不是", "（B）错", "B. Non-renal abscess"),
    ],
    "no letter": [
        *("E. coli", "E.coli", "E. Coli sepsis", "A. fumigatus", "B. cereus", "e.g. abscess", "D.O.A.", "a.m.", "B*", "B?"),
        *("E-cadherin", "B cell", "A large mass", "A&E", "b̸", "≠B", "B²", "5 mg/kg", ".5 mg", "Both", "Β-cell", "B because it is warm"),
    ],
}


@pytest.mark.parametrize("text", [text for texts in NONE.values() for text in texts])
def test_what_names_no_single_choice_is_no_guess(text):
    assert read_choice(text, OPTIONS) is None


def test_a_letter_agrees_with_its_own_text_though_it_holds_another():
    for text in (
        "C. Renal abscess with cyst",
        "(C) renal abscess with a cyst, as the wall is thin",
        "C",
        "Renal abscess with cyst",
        "**C.**",
    ):
        assert read_choice(text, OPTIONS) == "C"


SIGNED = {"A": "0.3 mg", "B": "3 mg", "C": "-3 mg", "D": ".03 mg", "E": "10^3"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        *(("(A) .3 mg", "A"), ("A: .3 mg", "A"), ("(C) -3 mg", "C"), ("C −3 mg", "C"), ("(D).03 mg", "D"), ("(B) 3 mg", "B")),
        *(("B - 3 mg", "B"), ("B-3 mg", "B"), ("B.3 mg", "B"), ("Answer - 3 mg", "B"), ("Answer -3 mg", "C"), ("Answer: -3 mg", "C")),
        *(("(B) .3 mg", None), ("(B).3 mg", None), ("B).3 mg", None), ("B) .3 mg", None), ("(B) -3 mg", None), ("B -3 mg", None)),
        *(("(B)-3 mg", None), ("B –3 mg", None), ("B: .03 mg", None), ("(C) 3 mg", None), ("E. 10**3", "E"), ("10**3", "E"), ("103", None)),
    ],
)
def test_a_sign_after_a_letter_is_the_numbers(text, letter):
    assert read_choice(text, SIGNED) == letter


def test_an_abbreviated_genus_is_a_text_and_no_letter():
    options = {"A": "E. coli", "B": "C. difficile", "C": "S. aureus", "D": "H. pylori", "E": "B. cereus"}
    named = {text: read_choice(text, options) for text in options.values()}
    assert list(named.values()) == list(options)
    assert read_choice("E. B. cereus", options) == "E"
    assert read_choice("E. S. aureus", options) is None
    assert read_choice("B. fragilis", options) is None


def test_texts_without_blanks_between_words():
    options = {"A": "气胸", "B": "胸腔积液", "C": "胸腔积液伴气胸"}
    read = ["胸腔积液", "B、胸腔积液", "B胸腔积液", "B 胸腔积液", "答案：B、胸腔积液，因为有液体", "B、右侧胸腔积液"]
    assert [read_choice(text, options) for text in read] == ["B"] * 6
    denied = ["B、不是胸腔积液", "B、没有胸腔积液", "B：未见胸腔积液", "B、无胸腔积液", "B、胸腔积液可以排除", "B、胸腔积液不正确"]
    assert [read_choice(text, options) for text in denied] == [None] * 6
    none = ["B、胸腔积液伴气胸", "C、胸腔积液", "B、胸腔积液和气胸", "气胸或胸腔积液", "B、不是气胸", "A、胸腔积液"]
    assert [read_choice(text, options) for text in none] == [None] * 6


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        *(
            ("B", "B"),
            ("**B**.", "B"),
            ("b", "B"),
            ("B. Effusion", "B"),
            ("B) Effusion", "B"),
            ("(B) effusion", "B"),
            ("B, since it is", "B"),
        ),
        *(
            ("B\nIt is warm", "B"),
            ("A\nB", None),
            ("答案：B", "B"),
            ("B is correct", "B"),
            ("Option B", "B"),
            ("B.Effusion", "B"),
            ("B. I think so", "B"),
            ("B. effusion", "B"),
        ),
        *(("A or B", None), ("B, not A", None), ("not B", None), ("B or C", None), ("Effusion", None), ("AB", None), ("B positive", None)),
        *(
            ("A small mass", None),
            ("B cell", None),
            ("B. cereus", None),
            *((text, None) for text in ("S. aureus", "C. elegans", "B. subtilis", "A. niger", "E. cloacae", "C. auris")),
            *((text, None) for text in ("B: wrong", "B: no", "B：不正确", "B、错误", "B、不是")),
            ("E-cadherin", None),
            ("", None),
            ("B/C", None),
        ),
    ],
)
def test_a_letter_whose_options_nobody_gave(text, letter):
    assert read_letter(text) == letter
