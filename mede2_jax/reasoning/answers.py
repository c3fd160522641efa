"""Is a response's final answer right? The text inside the last complete `<answer>` after the thought, compared by rules, never by a guess.

| options | response ends with | truth | outcome |
|---|---|---|---|
| A: Pneumothorax, B: Effusion | `<answer> B </answer>`, `(b)`, `**B**.`, `option B`, `B. Effusion`, `effusion`, `答案：B` | B | correct |
| | `<answer> A </answer>` | B | wrong |
| | `<answer> A. Effusion </answer>`, `A or B`, `not B`, `neither`, no answer at all | B | unparsed |
| none | `<answer> The Pleural effusion. </answer>` | pleural effusion | correct |
| none | `<answer> Fluid around the lung </answer>` | pleural effusion | wrong: texts are compared, not meanings |
| none | `<answer> B. Effusion </answer>`; `<answer> Yes, there is fluid </answer>` | B; yes | correct |

Of several `<answer>`s after the thought the last counts, whatever is said around it. A response that ends inside a thought, or inside its
only `<answer>`, has none. A response without `<answer>` counts only where its answer is as plain: all of it after `</think>`, or its last
line as in "Answer: B". An `<answer>` inside the thought is none, unless the thought ends with it and nothing comes after.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from mede2_jax.reasoning.choices import LONGEST, Options, in_one_line, is_statement, read_choice, read_letter, stripped, true_choice
from mede2_jax.reasoning.normal_form import normalised
from mede2_jax.reasoning.plain import plain

__all__ = [
    *("BareLetters", "Given", "Options", "Outcome"),
    *("final_answer", "given_answer", "grade", "grade_text", "normalised", "read_choice", "true_choice"),
]

Outcome = Literal["correct", "wrong", "unparsed"]

_OPEN, _CLOSE, _THINK, _THOUGHT = "<answer>", "</answer>", "<think>", "</think>"
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true", "是": "否", "否": "是"}
_SHORT = re.compile(r"^(?:(yes|no|true|false)|(是|否)的?)(?: ?[,.;:!、。]| [-–—] |$|(?<=yes) )", re.IGNORECASE)
"""A short answer with words after it. "No effusion" is none: it may be the very finding that was asked for."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What a response gives as its answer."""

    text: str | None
    """As it is written; None where nothing says which part that is, or where that part is empty."""
    place: Literal["tag", "statement", "rest", "nowhere"]
    """An `<answer>`; the last line, which says that it is the answer; all that follows the thought; nothing of these."""
    rest: str
    """What follows the thought: all of the response where there is none."""
    is_cut: bool = False
    """Whether it ends inside a thought (and not with an `<answer>` there), or inside the only `<answer>` after the thought."""


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
    given = given_answer(response)
    if given.is_cut:
        return "unparsed"
    if not options:
        return grade_text(given, answer)
    letter = None if given.text is None else read_choice(given.text, options)
    truth = true_choice(answer, options)
    return "unparsed" if letter is None else "correct" if letter == truth else "wrong"


def grade_text(given: Given, answer: str) -> Outcome:
    """Compares what a response gives as its answer with the right one, where there are no options."""
    found, is_marked = given.text, given.place in ("tag", "statement")
    if found is None or len(found) > LONGEST:
        return "unparsed"
    truth, said = normalised(answer), normalised(stripped(plain(found)))
    if truth and truth in (said, normalised(found)):
        return "correct"
    short = _short_answer(found, truth)
    if short is not None:
        return "correct" if short == truth else "wrong"
    # Unmarked prose that is not the answer may hold it anywhere.
    return "wrong" if is_marked and said else "unparsed"


def final_answer(response: str) -> str | None:
    """What a response gives as its answer, as it is written; None where nothing says which part that is."""
    return given_answer(response).text


def given_answer(response: str) -> Given:
    """What a response gives as its answer, where it stands, and what else there is to know."""
    # The one letter that changes its length in lower case is taken out: places in both texts are the same.
    lower = response.replace("İ", "i").lower()
    thought = lower.rfind(_THOUGHT)
    after = thought + len(_THOUGHT) if thought >= 0 else 0
    rest = response[after:].strip()
    thinks_on = lower.find(_THINK, after) >= 0
    if (marked := _marked(response, lower, after)) is not None:
        return Given(marked or None, "tag", rest, is_cut=thinks_on and not lower.rstrip().endswith(_CLOSE))
    if not rest and lower[:thought].rstrip().endswith(_CLOSE):
        return Given(_marked(response[:thought], lower[:thought], 0) or None, "tag", rest)
    is_cut = thinks_on or lower.find(_OPEN, after) >= 0
    if not rest or is_cut or lower.find(_CLOSE, after) >= 0:  # nothing, or an answer or a thought that was cut off
        return Given(None, "nowhere", rest, is_cut=is_cut)
    last = rest[-LONGEST:].splitlines()[-1]
    if len(last) < LONGEST and is_statement(last := plain(last)):
        return Given(last, "statement", rest)
    return Given(rest, "rest", rest)


@dataclasses.dataclass
class BareLetters:
    """Counts right answers that are the letter of a choice whose options nobody gave."""

    letters: set[str] = dataclasses.field(default_factory=set)
    known: set[str] = dataclasses.field(default_factory=set)
    """Ids of questions whose right answer is known."""

    def add(self, question_id: str, answer: str | None, options: Options | None) -> None:
        """Counts a question, once."""
        if answer is not None:
            self.known.add(question_id)
            if not options and _is_letter(normalised(answer)):
                self.letters.add(question_id)

    @property
    def notice(self) -> str | None:
        """One line that tells of them, if there are some."""
        if not self.letters:
            return None
        return (
            f"the right answers of {len(self.letters):,} of {len(self.known):,} questions are one letter without 'options': only letters "
            "can be compared with them; with 'options' answers by text are read, too"
        )


def _marked(response: str, lower: str, begin: int) -> str | None:
    """What the last complete `<answer>` at or after `begin` holds."""
    last_close = lower.rfind(_CLOSE, begin)
    start = lower.rfind(_OPEN, begin, max(last_close, 0))
    if last_close < 0 or start < 0:
        return None
    start += len(_OPEN)
    return response[start : lower.find(_CLOSE, start)].strip()


def _short_answer(text: str, truth: str) -> str | None:
    """The letter, or yes or no, with which a text begins, where the truth is one of these; in normal form."""
    if _is_letter(truth):
        letter = read_letter(text)
        return letter.lower() if letter else None
    if truth not in _OPPOSITES or not (match := _SHORT.match(text := stripped(in_one_line(text)))):
        return None
    said, words = (match[1] or match[2]).lower(), normalised(text[match.end() :]).split()
    if said not in (truth, _OPPOSITES[truth]):
        return None
    back = [_OPPOSITES[said]]
    taken_back = words[:1] in (["or"], ["and"]) or words == back or (said in ("no", "false", "否") and back[0] in words)
    return None if taken_back else said


def _is_letter(form: str) -> bool:
    return len(form) == 1 and "a" <= form <= "z"
