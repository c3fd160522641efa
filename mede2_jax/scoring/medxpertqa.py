"""MedXpertQA's rules for replies, which we also use where a benchmark has none: MedQA, Medbullets, MMXU.

| the owner's prompt | function | what counts |
|---|---|---|
| two turns (`cot`), of which the second reply is read; one turn (`ao`) | `read` | the first letter that stands as a word |
| one turn of a reasoning model (QvQ) | `read_reasoning` | the first capital after the last "final answer", inside words too |
| two turns of DeepSeek-R1 | `read_first_box` | the first box with a letter and nothing else |

The first rule takes the article A and, of ten options, the pronoun I for answers. Where a reply has a thought, it reads that first.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from mede2_jax.scoring.reading import NOTHING, Reading

_CUE = " answer is "
_NO_LETTERS = ("I understand", "A through J", "A through E", "A through D")
"""Taken out, one after the other, whichever letters the item has."""
_FINAL_ANSWER = re.compile("final answer", re.IGNORECASE | re.ASCII)
_BOX = re.compile(r"\\boxed\{([A-Za-z])\}")


def two_turn_trigger(letters: Sequence[str]) -> str:
    """The second user turn of the prompt in two turns."""
    return f"Therefore, among {letters[0]} through {letters[-1]}, the answer is"


def one_turn_trigger(letters: Sequence[str]) -> str:
    """What ends the only user turn of the prompt that asks for nothing but the answer."""
    return f"Among {letters[0]} through {letters[-1]}, the answer is"


def read(reply: str, letters: Sequence[str], trigger: str) -> Reading:
    """The first letter that stands as a word of its own, after the trigger or " answer is " where one of them is repeated.

    Args:
        reply: The reply to the turn that ends in `trigger`.
        letters: The capital letters of the item, or of the benchmark.
        trigger: What the user said last.
    """
    text, step = reply.strip(), "whole reply"
    for cue, name in ((trigger, "after the trigger"), (_CUE, "after 'answer is'")):
        if cue and cue in text:
            text, step = text.partition(cue)[2].partition(cue)[0], name
            break
    for phrase in _NO_LETTERS:
        text = text.replace(phrase, "")
    match = _word(tuple(letters)).search(text)
    return Reading(match[0], step) if match else Reading(None, NOTHING)


def read_reasoning(reply: str, letters: Sequence[str]) -> Reading:
    """The first capital anywhere after the last "final answer", or the last of all where there is none; else small letters likewise."""
    begin = max((match.end() for match in _FINAL_ANSWER.finditer(reply)), default=None)
    text = reply if begin is None else reply[begin:]
    for said in (letters, [letter.lower() for letter in letters]):
        places = {letter: text.rfind(letter) if begin is None else text.find(letter) for letter in said}
        found = {place: letter for letter, place in places.items() if place >= 0}
        if found:
            place = max(found) if begin is None else min(found)
            return Reading(found[place].upper(), "last letter" if begin is None else "after 'final answer'")
    return Reading(None, NOTHING)


def read_first_box(reply: str, letters: Sequence[str]) -> Reading:
    r"""The letter of the first `\boxed{X}` that holds one letter and nothing else; none where it is no letter of the item."""
    match = _BOX.search(reply)
    return Reading(match[1].upper(), "box") if match and match[1].upper() in letters else Reading(None, NOTHING)


@functools.lru_cache
def _word(letters: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, letters))})\b")
