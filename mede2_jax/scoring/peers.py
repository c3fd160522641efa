"""How other harnesses read choices, for columns beside ours: what they call right is no verdict of ours.

| harness | traps |
|---|---|
| MedEvalKit | reads every reply: where it finds no answer, the option whose text is most like the reply, A for an empty one |
| VLMEvalKit | "The answer is acute …" is A; a letter counts among the last four words only; what it cannot read, it gives to a judge |
"""

from __future__ import annotations

import difflib
import re
import string

from mede2_jax.reasoning.choices import Options
from mede2_jax.scoring.reading import NOTHING, Reading

_BOX, _OPEN, _CLOSE = "\\boxed{", "<answer>", "</answer>"
_CUES = (
    *("**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:"),
    *("final answer", "final answer is"),
)
_NO_BOX = "none"
"""What is read instead of a box that is not there, where the reply has the word."""

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
"""Replies that count as an option of their own, which is never right."""
_NO_REPLY = "Failed to obtain answer via API"
_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4
_ANSWER_IS = re.compile(r"answer\s++is\s++\**+([ABCD])", re.IGNORECASE)


def medevalkit(reply: str, options: Options) -> Reading:
    """What MedEvalKit scores: a letter, or the option that the reply is most like, as its prompts write options ("B. Effusion")."""
    letters = dict(zip(string.ascii_lowercase, options, strict=False))
    texts = [f"{letter}. {option}".lower() for letter, option in options.items()]
    reply = _tagged(reply).lower()
    if (first := reply.partition("\n\n")[0]) in letters:
        reply = first
    elif (last := reply.split("\n\n")[-1].partition(".")[0]) in letters:
        reply = last
    reply = _last_box(reply) if "boxed" in reply else _tagged(reply)
    for cue in _CUES:
        reply = reply.split(cue)[-1]  # cues may overlap: "**answer**answer**" has one
    reply = reply.strip().replace("\n", "")
    said = reply.partition(".")[0].rpartition(":")[2]
    if said in letters:
        return Reading(letters[said], "letter")
    matcher = difflib.SequenceMatcher(None, "", reply)
    likeness = []
    for text in texts:
        matcher.set_seq1(text)
        likeness.append(matcher.ratio())
    return Reading([*options][likeness.index(max(likeness))], "likeness")


def vlmevalkit(reply: str, options: Options) -> Reading:
    """What VLMEvalKit reads before it asks a judge."""
    if _NO_REPLY not in reply:
        if any(refusal in reply for refusal in _REFUSALS):
            return Reading(None, "refusal")
        words = reply.translate(_BLANKS).split()
        found = [letter for letter in options if letter in words]
        if len(found) == 1 and words.index(found[0]) >= len(words) - _LAST_WORDS:
            return Reading(found[0], "letter")
        if not found and "Z" in words:
            return Reading(None, "refusal")
        if (match := _ANSWER_IS.search(reply)) and match[1].upper() in options:
            return Reading(match[1].upper(), "after 'answer is'")
    reply = reply.lower()
    if len(reply) <= 2 * sum(map(len, options.values())):
        named = [letter for letter, option in options.items() if option.lower() in reply]
        if len(named) == 1:
            return Reading(named[0], "option text")
    return Reading(None, NOTHING)


def _tagged(reply: str) -> str:
    """All that stands in `<answer>`, where that has an end; else all."""
    found, at = [], reply.find(_OPEN)
    while at >= 0 and (end := reply.find(_CLOSE, at)) >= 0:
        found.append(reply[at + len(_OPEN) : end])
        at = reply.find(_OPEN, end)
    return " ".join(found).strip() or reply


def _last_box(reply: str) -> str:
    """What the last box holds, boxes and braces inside it included."""
    begin = reply.rfind(_BOX)
    if begin < 0:
        return _NO_BOX
    begin, depth = begin + len(_BOX), 1
    for brace in re.compile(r"[{}]").finditer(reply, begin):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return reply[begin : brace.start()].strip()
    return _NO_BOX
