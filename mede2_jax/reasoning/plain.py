"""Text without its markup: Markdown, LaTeX, HTML, wide forms and characters that nobody sees.

| written | plain |
|---|---|
| `**B**.`, `$\\boxed{\\textbf{B}}$.`, `<b>B</b>.`, `Ｂ．` | `B.` |
| `10⁶`, `10^{6}`, `10<sup>6</sup>` | `10^6` |
| `m²`, `pO₂`, `H_2O`, `Ca^{2+}` | `m2`, `pO2`, `H2O`, `Ca2+` |
| `p \\neq 7`, `&lt; 5`, `T2\\*`, `~~A~~` | `p ≠ 7`, `< 5`, `T2*`, `~~A~~` |

What could change a meaning stays: signs, exponents, a single `*` that is no emphasis, and what is struck out, with the marks that do so.
Time is in proportion to the text, whatever it is.
"""

from __future__ import annotations

import html
import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060\u2066-\u206f\ufe00-\ufe0f\ufeff]")
_UNSEEN_OPERATORS = re.compile("[\u2061-\u2064]")
"""Multiplication and addition that are meant and not drawn: `1⁤½` is no 11/2."""
_ENTITY = re.compile(r"&(?:#\d{1,6}|#[xX][0-9a-fA-F]{1,5}|[A-Za-z]{2,8}\d{0,2});")
_ATTRIBUTES = r"(?:\s[^<>]{0,200})?/?>"
_RAISED, _LOWERED = (re.compile(rf"<{name}{_ATTRIBUTES}", re.IGNORECASE) for name in ("sup", "sub"))
_ENDED = re.compile(r"</su[bp]>", re.IGNORECASE)
_INLINE = re.compile(rf"</?(?:b|strong|i|em|u|mark|small|big|span|code|kbd|tt|font){_ATTRIBUTES}", re.IGNORECASE)
_BLOCK = re.compile(rf"</?(?:br|p|div|center|li|ul|ol|h[1-6]){_ATTRIBUTES}", re.IGNORECASE)
_LONGEST_RUN = 4
"""Signs that may open or close emphasis together; longer runs are rules and ornaments."""
_RUN = re.compile(r"(?<![\\*_])(?:\*+|_+)")
_LEFT_OVER = re.compile(r"(?<!\\)(?:\*\*+|__+)|`+")
_POWER = re.compile(r"(?<=\d)(?:\*\*| \*\* )(?=[-+]?\d)")
"""As programs write it; emphasis neither begins nor ends between two figures."""
_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9d]")

_FORMAT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal)?|math(?:rm|bf|it|sf|tt)|emph|underline|boldsymbol|bm|pmb|boxed|fbox|mbox|hbox|framebox"
    r"|operatorname|ensuremath|left|right|displaystyle|textstyle|ce|bf|rm|it)(?![A-Za-z])"
)
_SYMBOLS = {
    **dict(le="≤", leq="≤", leqslant="≤", ge="≥", geq="≥", geqslant="≥", ne="≠", neq="≠", lt="<", gt=">", approx="≈", sim="~", pm="±"),
    **dict(times="×", div="÷", cdot="·", to="→", rightarrow="→", uparrow="↑", downarrow="↓", circ="°", degree="°", quad=" ", qquad=" "),
    **dict(alpha="α", beta="β", gamma="γ", delta="δ", epsilon="ε", eta="η", theta="θ", kappa="κ", mu="μ", pi="π", sigma="σ", omega="ω"),
    **{"lambda": "λ"},
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_NOT = re.compile(r"\\not ?([=<>])")
_FRACTION = re.compile(r"\\[dt]?frac ?\{([^{}]*)\} ?\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([%&#_$*^`~+.-])")
_DISPLAY = re.compile(r"\\\\|\\[\[\]]|\$\$+|\\[,;:! ]")
_INLINE_MATH = re.compile(r"\\[()]|\$")
_GROUP_BEFORE_DIGIT = re.compile(r"([\^_]\{[^{}]{1,40}\})(?=\d)")
_INDEX = re.compile(r"(?<=[A-Za-z)}])_(?:\{([^{}]{1,40})\}|(?=\d))")
_INDEX_OF_NUMBER = re.compile(r"(?<=\d)_(?=[{\d])")
_SUPERSCRIPTS = re.compile("(?<=[0-9)\\]])(?=[⁰¹²³⁴-⁹⁺⁻⁼⁽ⁿⁱ])")
_APART = re.compile("(?<=[₀-₉])(?=[0-9])|(?<=[0-9])(?=[₀-₉¼-¾⅐-⅞])")
"""Between two numbers that would run into one."""
_RAISED_AFTER_LETTER = re.compile(r"(?<=[^\W\d_])\^(?=[\d+*-])")
_RAISED_SIGN = re.compile(r"\^(?=[*+-](?!\d))")


def plain(text: str) -> str:
    """`text` without markup, in one line; white space is single blanks."""
    text = _UNSEEN_OPERATORS.sub(" ", _INVISIBLE.sub("", text))
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if "<" in text:
        text = _ENDED.sub("}", _LOWERED.sub("_{", _RAISED.sub("^{", text)))
        text = _BLOCK.sub(" ", _INLINE.sub("", text))
    text = _LEFT_OVER.sub("", without_emphasis(_POWER.sub("^", text)))
    text = _without_latex(text)
    text = _APART.sub(" ", _SUPERSCRIPTS.sub("^", text))
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2212", "-")
    text = _RAISED_SIGN.sub("", _RAISED_AFTER_LETTER.sub("", text))
    return " ".join(text.split())


def without_emphasis(text: str) -> str:
    """Without Markdown's `*`, `**`, `_`, `__` where they stand in pairs around something, as Markdown says: the star of `T2*` stays."""
    opened: dict[str, tuple[int, int]] = {}
    pairs: list[tuple[int, int]] = []
    for match in _RUN.finditer(text):
        start, end, run = match.start(), match.end(), match[0]
        before, after = text[start - 1 : start] if start else "", text[end : end + 1]
        inside_words = len(run) > 1 and run[0] == "*"
        # The end of `**T2***` closes what `**` has opened, and leaves a star.
        mate = next((run[:size] for size in range(len(run), 0, -1) if run[:size] in opened), None) if len(run) <= _LONGEST_RUN else None
        if mate and before and not before.isspace() and (inside_words or not _joins(after)):
            pairs += [opened.pop(mate), (end - len(mate), end)]
        elif len(run) <= _LONGEST_RUN and after and not after.isspace() and (inside_words or not _joins(before)):
            opened[run] = (start, end)
    kept, at = [], 0
    for start, end in sorted(pairs):
        kept.append(text[at:start])
        at = end
    return "".join(kept) + text[at:]


def is_cjk(letter: str) -> bool:
    """Whether it is of a script that writes its words without blanks between them."""
    return _CJK.match(letter) is not None


def _joins(letter: str) -> bool:
    """Whether a sign beside it stands inside a word."""
    return letter.isalnum() and not is_cjk(letter)


def _without_latex(text: str) -> str:
    if "\\" in text:
        text = _INLINE_MATH.sub("", _DISPLAY.sub(" ", _ESCAPED.sub(_kept, text)))
        text = _NOT.sub(lambda match: {"=": "≠", "<": "≮", ">": "≯"}[match[1]], _FRACTION.sub(r"\1/\2", text))
        # A command that is not known stays, since it may strike out.
        text = _COMMAND.sub(lambda match: _SYMBOLS.get(match[1], match[0]), _FORMAT.sub("", text))
    else:
        text = text.replace("$$", " ").replace("$", "")
    text = _GROUP_BEFORE_DIGIT.sub(r"\1 ", text)
    text = _INDEX_OF_NUMBER.sub(" ", _INDEX.sub(lambda match: match[1] or "", text))
    return text.replace("}{", " ").replace("{", "").replace("}", "")


def _kept(match: re.Match[str]) -> str:
    """A sign that was escaped, so that it would not be read as markup."""
    return " " if match[1] == "$" else match[1]
