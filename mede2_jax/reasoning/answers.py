"""Is a response's final answer right? The text inside the last complete `<answer>`, compared by rules, never by a guess.

| options | response ends with | truth | outcome |
|---|---|---|---|
| A: Pneumothorax, B: Effusion | `<answer> B </answer>`, `(b)`, `B.`, `option B`, `B. Effusion`, `effusion` | B | correct |
| | `<answer> A </answer>` | B | wrong |
| | `<answer> A. Effusion </answer>`, `A or B`, `neither`, no answer at all | B | unparsed |
| none | `<answer> The Pleural effusion. </answer>` | pleural effusion | correct |
| none | `<answer> Fluid around the lung </answer>` | pleural effusion | wrong: texts are compared, not meanings |

A response without `<answer>` counts only where its answer is as plain: all of it after `</think>`, or its last line as in "Answer: B".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Literal

Outcome = Literal["correct", "wrong", "unparsed"]
Options = Mapping[str, str]
"""Capital letter to text."""

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?(?:answer|think)>", re.IGNORECASE)
_ADJECTIVES = r"(?:(?:most\s+likely|final|correct|best|right|single)\s+)*"
_STATEMENT = re.compile(
    rf"^(?:(?:so|thus|therefore|hence)\b,?\s+)?(?:(?:the|my)\s+)?{_ADJECTIVES}(?:answer|diagnosis|choice|option)(?:\s+is\b|\s*[:–-])\s*:?\s*",
    re.IGNORECASE,
)
"""What may stand before the answer itself."""
_LABEL = re.compile(r"^(?:option|choice|answer)\s+(?=[(\[]?[A-Za-z](?![A-Za-z]))", re.IGNORECASE)
_BRACKETED = re.compile(r"^[(\[]\s*([A-Za-z])\s*[)\]]\s*[.:,)-]?\s*")
_POINTED = re.compile(r"^([A-Za-z])\s*[.:)]+(?:\s+|$)")
_DASHED = re.compile(r"^([A-Z])\s*(?:,|\s[-–—]\s)\s*")
_BARE = re.compile(r"^([A-Z])\s+")
_ALONE = re.compile(r"^[A-Za-z]$")
_OTHER_LETTER = re.compile(r"(?<![A-Za-z0-9'’-])([A-Z])(?![A-Za-z0-9'’-])")
_COMMAND = re.compile(r"\\(?:boxed|text)\s*\{(.*)\}", re.DOTALL)
_SIGNS, _QUOTES = "*_`$", {'"': '"', "'": "'", "“": "”"}
_BEFORE_ARTICLE = frozenset(["of", "with", "by", "from", "in", "on", "to", "for", "and", "or", "is", "at", "as"])


def grade(response: str, answer: str | None, options: Options | None = None) -> Outcome | None:
    """Compares a response with the right answer.

    Args:
        response: The whole response.
        answer: The right one: a letter or text of `options`, or a text; None: not known.
        options: The choices, if there are some.

    Returns:
        `unparsed` where no answer, or no single one, can be read. None where the truth is not known.

    Raises:
        ValueError: `answer` is none of `options`.
    """
    if answer is None:
        return None
    found, is_marked = _final_answer(response)
    if found is None:
        return "unparsed"
    if options:
        letter = read_choice(found, options)
        return "unparsed" if letter is None else "correct" if letter == true_choice(answer, options) else "wrong"
    if normalised(found) == normalised(answer) or normalised(_stripped(found)) == normalised(answer):
        return "correct"
    # Unmarked prose that is not the answer may hold it anywhere.
    return "wrong" if is_marked and normalised(_stripped(found)) else "unparsed"


def final_answer(response: str) -> str | None:
    """What a response gives as its answer, as it is written; None where nothing says which part that is."""
    return _final_answer(response)[0]


def read_choice(text: str, options: Options) -> str | None:
    """The letter of the one option that `text` names, by letter, by text, or by both; None if none, several, or they contradict."""
    named = _choices(text, options) | _choices(_stripped(text), options)
    return named.pop() if len(named) == 1 else None


def true_choice(answer: str, options: Options) -> str:
    """The letter of the right answer.

    Raises:
        ValueError: It is none of the options, or could be two of them.
    """
    texts = {letter for letter, text in options.items() if normalised(text) == normalised(answer)}
    named = ({answer.strip()} if answer.strip() in options else set()) | texts
    if len(named) != 1:
        what = f"could be {' or '.join(sorted(named))}" if named else "is neither a letter nor a text"
        raise ValueError(f"field 'answer': {answer!r} {what} of field 'options' ({', '.join(options)})")
    return named.pop()


def normalised(text: str) -> str:
    """`text` without what does not matter: case, accents, punctuation, articles, white space, forms of one character.

    Kept are signs that change a meaning: decimal points, `%`, `/`, `<`, `>`, `=`, and `+` or `-` that begins or ends a word.
    """
    text = "".join(letter for letter in unicodedata.normalize("NFKD", text.strip()) if not unicodedata.combining(letter))
    text = re.sub(r"[‐-―−]", "-", unicodedata.normalize("NFKC", text).casefold())
    text = re.sub(r"(?<=\w)['’](?=\w)", "", text)
    text = re.sub(r"(?<!\d)[.,]|[.,](?!\d)|[;:!?'\"‘’“”()\[\]{}*_`$\\|]", " ", text)
    text = re.sub(r"(?<=\w)-(?=\w)", " ", text)
    words = text.split()
    return " ".join(word for place, word in enumerate(words) if not _is_article(words, place))


def _is_article(words: list[str], place: int) -> bool:
    """`a` may also be a name, as in hepatitis A: it is an article where one can stand, before another word."""
    if place == len(words) - 1:
        return False
    return words[place] in ("the", "an") or (words[place] == "a" and (place == 0 or words[place - 1] in _BEFORE_ARTICLE))


def _final_answer(response: str) -> tuple[str | None, bool]:
    """The answer as written, and whether something marks it as one."""
    marked = _ANSWER.findall(response)
    if marked:
        return marked[-1].strip() or None, True
    rest = re.split(r"</think>", response, flags=re.IGNORECASE)[-1].strip()
    if not rest or _TAG.search(rest):  # an answer, or a thought, that was cut off
        return None, False
    last = _unwrapped(rest.splitlines()[-1])
    return (last, True) if _STATEMENT.match(last) else (rest, False)


def _choices(text: str, options: Options) -> set[str]:
    """The letters that `text` can be read as."""
    whole = {letter for letter, option in options.items() if normalised(option) == normalised(text)}
    for pattern in (_BRACKETED, _POINTED, _DASHED, _BARE, _ALONE):
        if not (match := pattern.match(text)):
            continue
        letter = match.group(match.lastindex or 0).upper()
        rest = text[match.end() :]
        if letter in options and (pattern is not _BARE or _is_text_of(rest, options)):
            return whole | _with_rest(letter, rest, options)
    return whole


def _with_rest(letter: str, rest: str, options: Options) -> set[str]:
    """A letter, and whatever else the words after it name."""
    words = f" {normalised(rest)} "
    own = f" {normalised(options[letter])} "
    if not words.strip() or words.startswith(own):
        return {letter}
    others = {other for other, text in options.items() if other != letter and f" {normalised(text)} " in words}
    others |= {other for other in _OTHER_LETTER.findall(rest) if other in options and other != letter}
    return {letter} | others


def _is_text_of(rest: str, options: Options) -> bool:
    return any(normalised(rest) == normalised(option) for option in options.values())


def _stripped(text: str) -> str:
    """The answer itself: without markup, and without "the answer is" before it or a full stop after it."""
    before = None
    while before != text:
        before, text = text, _LABEL.sub("", _STATEMENT.sub("", _unwrapped(text)))
    return text.rstrip(" .。") if not _ALONE.match(text) else text


def _unwrapped(text: str) -> str:
    """Without markup and quotes around it. Every round takes a sign off both ends, whatever a model that runs wild has written."""
    while True:
        text = text.strip()
        first, last = text[:1], text[-1:]
        if match := _COMMAND.fullmatch(text):
            text = match[1]
        elif first and first in _SIGNS and last == first and text.strip(first):
            text = text.strip(first)
        elif len(text) > 1 and _QUOTES.get(first) == last:
            text = text[1:-1]
        else:
            return text
