"""The form in which two texts are compared: what does not matter is gone, what changes a meaning is there."""

from __future__ import annotations

import re
import unicodedata

from mede2_jax.reasoning.plain import plain

_ACCENTS = re.compile("(?<=[A-Za-z\u00c0-\u024f\u1e00-\u1eff\u0370-\u03ff\u1f00-\u1fff])[\u0300-\u0333\u0339-\u036f]+")
"""Over letters of Latin and Greek: elsewhere such a mark makes another letter (が, か) or sign (≠, =); so does a stroke."""
_ONE_FORM = str.maketrans({**dict.fromkeys("‐‑‒–—―−", "-"), "∕": "/", "∶": ":", "⩽": "≤", "≦": "≤", "⩾": "≥", "≧": "≥", "’": "'"})
_RELATIONS = {"!=": "≠", "! =": "≠", "=/=": "≠", "<=": "≤", ">=": "≥"}
_RELATION = re.compile("|".join(re.escape(sign) for sign in _RELATIONS))
_APART = re.compile("[<>=≤≥≠≈≮≯≰≱±×]")
_TIMES = re.compile(r"(?<=\d) ?x ?(?=\d)")
_RATIO = re.compile(r"(?<=\d) : (?=\d)")
_LEADING_POINT = re.compile(r"(?<![0-9A-Za-z.,])([.,])(?=\d)")
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
_PUNCTUATION = re.compile(r"(?<!\d)[.,:]|[.,:](?!\d)|(?<!\w)\*+(?!\d)|[;!?'\"‘“”()\[\]{}_`$\\|、。「」『』【】〔〕《》〈〉]")
_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
_BEFORE_ARTICLE = frozenset(["of", "with", "by", "from", "in", "on", "to", "for", "and", "or", "is", "at", "as"])


def normalised(text: str) -> str:
    """`text` without what does not matter: markup, case, accents, punctuation, articles, white space, forms of one character.

    Kept are signs that change a meaning: decimal points (`.5` is `0.5`), ratios (`1:10`), exponents (`10^6`), `%`, `/`, signs that compare
    and calculate, `+` or `-` that begins or ends a word, the star of `T2*`. An empty form says nothing, and whoever
    compares takes it for equal to none.
    """
    text = _ACCENTS.sub("", unicodedata.normalize("NFD", plain(text)))
    text = unicodedata.normalize("NFKC", text).casefold().translate(_ONE_FORM)
    text = _RELATION.sub(lambda match: _RELATIONS[match[0]], text)
    text = _RATIO.sub(":", _LEADING_POINT.sub(r"0\1", _APOSTROPHE.sub("", text)))
    text = _HYPHEN.sub(" ", _PUNCTUATION.sub(" ", text))
    words = _APART.sub(r" \g<0> ", _TIMES.sub(" × ", text)).split()
    return " ".join(word for place, word in enumerate(words) if not _is_article(words, place))


def _is_article(words: list[str], place: int) -> bool:
    """`a` may also be a name, as in hepatitis A: it is an article where one can stand, before another word."""
    if place == len(words) - 1:
        return False
    return words[place] in ("the", "an") or (words[place] == "a" and (place == 0 or words[place - 1] in _BEFORE_ARTICLE))
