"""MMMU's rules for replies: of choices, and of open answers; and the letters that its owner guesses where nothing can be read.

What makes a choice hard to read here: `B` is read and `**B**`, `B.\\n`, `B, because …` are not; an article is the option A. What makes an
open answer easy to get right: it may be contained in any text, and be any number, that the reply gives.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Sequence

from mede2_jax.reasoning.choices import Options
from mede2_jax.scoring.reading import NOTHING, Reading, Truth, several

_STRIPPED = ",.!?;:'"
"""From both ends, each sign once, in this order."""
_FEWEST_WORDS = 6
"""Of a reply in which the texts of options are looked for."""

_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_LAST_LINES_CUE = "="
_NO_ANSWERS = frozenset(":,.!?;'")
_THOUSANDS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+")
_PLAIN = re.compile(r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++\b)(?![eE][+-]?\d)(?!,)")
"""No search begins within a run of digits, and none gives digits back: a million digits are read once."""


def read_choice(reply: str, options: Options) -> Reading:
    """The letter in brackets, else as a word, else the option whose text is there: of several the last.

    Args:
        reply: As it came, line breaks at its ends included.
        options: Capital letter to text, in the item's order.
    """
    text = surrounded(reply)
    for step, form in (("(X)", "({})".format), ("X as a word", " {} ".format)):
        if found := [letter for letter in options if form(letter) in text]:
            return Reading(furthest(found, text, form), step)
    return read_option_text(text, options)


def surrounded(reply: str) -> str:
    """A reply without punctuation at its ends, and with a space there."""
    for sign in _STRIPPED:
        reply = reply.strip(sign)
    return f" {reply} "


def furthest(letters: Sequence[str], text: str, form: Callable[[str], str]) -> str:
    """The letter whose form stands last in a text; of equal places, the first letter."""
    return letters[0] if len(letters) == 1 else max(letters, key=lambda letter: text.rfind(form(letter)))


def read_option_text(text: str, options: Options) -> Reading:
    """The option whose text stands last in a longer reply."""
    if len(text.split()) < _FEWEST_WORDS:
        return Reading(None, NOTHING)
    text, texts = text.lower(), {letter: option.lower() for letter, option in options.items()}
    found = [letter for letter in options if texts[letter] in text]
    return Reading(furthest(found, text, texts.__getitem__), "option text") if found else Reading(None, NOTHING)


class OwnersGuesses:
    """The letters that the owner's run has where nothing was read, so that his figure can stand beside ours. No verdict knows of them.

    He draws them from one generator for a whole run, and only for multiple-choice items that end unread: so all such items of all 30
    subjects are needed, in the order of the subjects' names and then of the files. Some subjects alone would draw other letters.
    """

    def __init__(self) -> None:
        self._random = random.Random(42)

    def answer(self, reading: Reading, letters: Iterable[str]) -> str:
        """The letter that the owner has for the next multiple-choice item of the run."""
        return self._random.choice(list(letters)) if reading.answer is None else reading.answer


def read_open(reply: str) -> Reading:
    """The texts after certain words of each line, else the whole text; and the numbers in them. The answer is these texts, a line each."""
    text = reply.strip().strip(".").lower()
    lines = text.split("\n")
    after_cues = [_after_cue(line, is_last=line_number == len(lines)) for line_number, line in enumerate(lines, start=1)]
    found = [said for said in after_cues if said and said not in _NO_ANSWERS]
    said = found or [text]
    numbers = dict.fromkeys(number for part in said for kind in (_THOUSANDS, _SCIENTIFIC, _PLAIN) for number in kind.findall(part))
    forms = dict.fromkeys(form for part in (*said, *numbers) for form in _normalised(part))
    answer = "\n".join(said).strip()
    return Reading(
        answer or None,
        ("after a cue" if found else "whole reply") if answer else NOTHING,
        texts=tuple(form for form in forms if isinstance(form, str)),
        numbers=tuple(form for form in forms if isinstance(form, float)),
    )


def is_right(reading: Reading, truth: Truth) -> bool:
    """Whether a right answer is contained in one of the texts, or is one of the numbers."""
    forms = [form for answer in several(truth) for form in _normalised(answer)]
    return any(form in reading.numbers if isinstance(form, float) else any(form in text for text in reading.texts) for form in forms)


def _after_cue(line: str, *, is_last: bool) -> str:
    """The shortest of the texts after the last occurrence of each cue, the first of equal ones; empty where there is none."""
    kept = ""
    for cue in (*_CUES, _LAST_LINES_CUE) if is_last else _CUES:
        if cue in line:
            said = line.rpartition(cue)[2].strip()
            kept = said if not kept or len(said) < len(kept) else kept
    return kept


def _normalised(text: str) -> list[str | float]:
    """A number, to two places; or the text in small letters, a single letter with a blank before and with one after it."""
    text = text.strip()
    try:
        number = round(float(text.replace(",", "")), 2)
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
    return [] if math.isnan(number) else [number]  # Not a number is equal to none.
