"""Markup goes, and what could change a meaning stays."""

import pytest

from mede2_jax.reasoning.plain import plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**Cardiac** _tamponade_", "Cardiac tamponade"),
        ("__Tamponade__, `acute`", "Tamponade, acute"),
        ("***Tamponade***", "Tamponade"),
        ("**心包**填塞", "心包填塞"),
        ("**Tamponade", "Tamponade"),
        ("$\\boxed{\\text{Tamponade}}$.", "Tamponade."),
        ("\\[ \\mathbf{C} \\]", "C"),
        ("\\(\\mathrm{C}\\)", "C"),
        ("<strong>Tamponade</strong><br/>", "Tamponade"),
        ('<span style="color: red">C</span>', "C"),
        ("<p>C</p><p>D</p>", "C D"),
        ("Ｃ．　心包", "C. 心包"),
        ("C\u200b\ufe0f\ufeff", "C"),
        ("C&nbsp;&#61;&nbsp;&lt;5", "C = <5"),
        ("5 \\times 10^{9}/L", "5 × 10^9/L"),
        ("5×10<sup>9</sup>/L", "5×10^9/L"),
        ("5×10⁹/L", "5×10^9/L"),
        ("10⁻³", "10^-3"),
        ("kg/m² and kg/m^{2}", "kg/m2 and kg/m2"),
        ("SpO₂, SpO_2, SpO<sub>2</sub>, \\text{SpO}_{2}", "SpO2, SpO2, SpO2, SpO2"),
        ("HCO₃⁻ and HCO_3^-", "HCO3- and HCO3-"),
        ("2½ and 2\u2064½", "2 1/2 and 2 1/2"),
        ("\\frac{2}{3}", "2/3"),
        ("log₁₀5", "log10 5"),
        ("\\alpha-fetoprotein \\leq 20\\%", "α-fetoprotein ≤ 20%"),
    ],
)
def test_markup_goes(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("T2*", "T2* and T2*", "HLA-B*51:01", "CYP2D6 *4/*41", "a* 5", "2*3"),
        *("~~C~~ D", "<s>C</s> D", "<del>C</del>", "\\cancelC", "\\notC", "¬C"),
        *("x < y > z", "p <b 5", "A&P", "50% < x", "C#", "# C", "snake_case"),
    ],
)
def test_what_could_change_a_meaning_stays(text):
    assert plain(text) == text


def test_a_star_that_closes_nothing_is_part_of_the_name():
    assert plain("**T2***") == plain("*T2**") == plain("T2\\*") == plain("$T_2^*$") == "T2*"


@pytest.mark.parametrize("letters", ["{}", "*a ", "**a ", "<b", "<b ", "\\boxed{", "&", "_{", "^{1}", "5⁵", "₅5", "\u200b", "\\", "$", "`"])
def test_time_is_in_proportion_to_the_text(letters, process_seconds):
    short, long = (letters * (size // len(letters)) for size in (10_000, 100_000))
    assert process_seconds(lambda: plain(long)) < 40 * process_seconds(lambda: plain(short)) + 0.1
