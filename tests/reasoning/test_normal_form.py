"""What compares as one text, and what does not."""

import pytest

from mede2_jax.reasoning.answers import grade, read_choice, true_choice
from mede2_jax.reasoning.normal_form import normalised

DIFFERENT = {
    "decimal points": [(".25 mg", "25 mg"), ("-.5", "-5"), (",5 ml", "5 ml"), ("<.01", "< 01"), (".125", "125"), ("(.5)", "(5)")],
    "exponents": [("10⁹", "109"), ("10⁻³", "10-3"), ("10^9", "109"), ("2⁵", "25"), ("10<sup>4</sup>", "104"), ("10^{12}", "1012")],
    "powers as programs write them": [
        ("10**9", "109"),
        ("10**-3", "10-3"),
        ("5×10**12/L", "5×1012/L"),
        ("2**5", "25"),
        ("10 ** 7", "10 7"),
    ],
    "ratios": [
        ("1:20", "1 20"),
        ("1∶20", "120"),
        ("2：3", "2 3"),
        ("HLA-DRB1*04:01", "HLA-DRB1*04 01"),
        ("1:2:4", "1 2:4"),
        ("1 : 20", "1 20"),
    ],
    "relations": [
        ("x ≠ y", "x = y"),
        ("x != y", "x = y"),
        ("x ! = y", "x = y"),
        ("x ≮ 3", "x < 3"),
        ("x ≯ 3", "x > 3"),
        ("x \\neq 3", "x = 3"),
        ("≤3", "<3"),
        ("≰3", "≤3"),
    ],
    "stars": [("T2*", "T2"), ("T2*-weighted", "T2-weighted"), ("HLA-B*27", "HLA-B27"), ("CYP2C19 *2", "CYP2C19 2"), ("**T2***", "T2")],
    "marks that make another letter": [("ガン", "カン"), ("ば", "は"), ("ぱ", "ば"), ("ﾊﾞ", "ﾊ"), ("й", "и"), ("क्त", "कत"), ("b̸", "b")],
    "numbers side by side": [("1½", "11/2"), ("log₂8", "log28"), ("2₁", "21"), ("1\u2064½", "11/2")],
    "other signs": [
        ("±2", "2"),
        ("~2", "2"),
        ("2‰", "2%"),
        ("↑K", "↓K"),
        ("Rh+", "Rh-"),
        ("−2", "2"),
        ("2°", "2"),
        ("1/2", "12"),
        ("x→y", "x y"),
    ],
}


@pytest.mark.parametrize(("one", "other"), [pair for pairs in DIFFERENT.values() for pair in pairs])
def test_signs_that_change_a_meaning(one, other):
    assert normalised(one) != normalised(other)
    assert grade(f"<answer>{one}</answer>", other) == "wrong"
    options = {"A": one, "B": other}
    assert (read_choice(one, options), read_choice(other, options)) == ("A", "B")
    assert (true_choice(one, options), true_choice(other, options)) == ("A", "B")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (".25 mg", "0.25 mg"),
        ("10⁹/L", "$10^{9}$/L"),
        ("10⁹/L", "10<sup>9</sup>/L"),
        ("5×10⁹", "5 x 10^9"),
        ("p<0.05", "p &lt; .05"),
        ("p ≥ 0.05", "p >= 0.05"),
        ("p ≧ 0.05", "$p \\geq 0.05$"),
        ("x ≠ y", "x != y"),
        ("T2*", "$T_2^*$"),
        ("10**9", "10⁹"),
        ("10**-3", "10⁻³"),
        ("titre: 1∶20", "titre 1:20"),
        ("titre: 1 : 20", "titre 1∶20"),
        ("1 : 2 : 4", "1:2:4"),
        ("T2*", "T2\\*"),
        ("kg/m²", "kg/m2"),
        ("Ca²⁺", "Ca2+"),
        ("½", "1/2"),
        ("がん", "か\u3099ん"),
        ("ｶﾞﾝ", "ガン"),
        ("Sjögren’s", "SJOGREN'S"),
        ("ά", "α"),
        ("胸腔积液。", "胸腔积液"),
        ("「胸腔积液」", "胸腔积液"),
    ],
)
def test_forms_of_one_text(one, other):
    assert normalised(one) == normalised(other) != ""


@pytest.mark.parametrize("nothing", ["", "…", "!", "?", "*", "**", "''", "()", "。", "\u200b", "\\"])
def test_nothing_is_equal_to_nothing(nothing):
    assert normalised(nothing) == ""
    for other in ("…", "!", nothing):
        assert grade(f"<answer>{nothing}</answer>", other) == "unparsed"
        assert grade(nothing, other) == "unparsed"
    assert read_choice(nothing, {"A": "?", "B": nothing}) is None
    with pytest.raises(ValueError, match="is neither a letter nor a text"):
        true_choice(nothing, {"A": "…", "B": "Cyst"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "letters", [" ", "a", "a ", "the ", ".", "5.", "(", "<", "=", "!=", "x5", "-", "' ", "\u0301", "e\u0301", "\u3099", "*"]
)
def test_time_is_in_proportion_to_the_text(letters, process_seconds):
    short, long = (letters * (size // len(letters)) for size in (10_000, 100_000))
    assert process_seconds(lambda: normalised(long)) < 40 * process_seconds(lambda: normalised(short)) + 0.1
