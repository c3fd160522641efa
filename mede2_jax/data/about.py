"""What a model is asked about a question or a response to it, instead of an answer; and a question whose text is another."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from mede2_jax.data.records import ImagePart, Message, Part, Question, Rollout, TextPart
from mede2_jax.reasoning.prompts import ABOUT, filled_around

Ask = Literal["answer", "type", "refinement", "expansion", "rating"]
OF_RESPONSES = ("expansion", "rating")
"""What is asked about rollouts, where the others are asked about questions."""
CHOICES = "\nAnswer Choices:"
"""Before the choices at the end of a question, as a bank and the paper have it."""
_MARK = re.compile(r"<image (\d+)>")


def is_asked(question: Question, ask: Ask) -> bool:
    """Whether a model is asked: about a question only if it has images, about a response if it came to its end; and never where the text
    has marks such as <image 1> of its own, which would be taken for the places of images."""
    if ask == "answer":
        return True
    if isinstance(question, Rollout) and (question.finish_reason != "stop" or not question.response.strip()):
        return False
    marked = question.images and _MARK.search(question.prompt[-1].text)
    return not marked if ask in OF_RESPONSES else bool(question.images and not marked)


def conversation(question: Question, ask: Ask) -> tuple[Message, ...]:
    """What is said to a model: the question itself, or what is asked about it; about a response to it, if that is a `Rollout`."""
    if ask == "answer":
        return question.prompt
    before, after = filled_around(ABOUT[ask], "DATA")
    text = before + json.dumps(_data(question, ask), ensure_ascii=False, indent=4) + after
    if not question.images:
        return (Message(role="user", content=text),)
    parts: list[Part] = []
    for number in range(1, len(question.images) + 1):
        parts += [TextPart(text=f"<image {number}>: "), ImagePart(), TextPart(text="\n")]
    return (Message(role="user", content=(*parts, TextPart(text=text))),)


def _data(question: Question, ask: Ask) -> dict[str, Any]:
    """What a prompt shows of a question."""
    data: dict[str, Any] = {"question": marked_stem(question)}
    if ask != "refinement":
        data["options"] = question.options
    if ask in ("type", "rating"):
        data["right_answer"] = question.answer
    if ask in OF_RESPONSES:
        assert isinstance(question, Rollout)
        data["response"] = question.response
    return data


def stem_of(question: Question) -> str:
    """What the user says, without the choices at its end."""
    return _apart(question, question.prompt[-1].text)[0]


def marked_stem(question: Question) -> str:
    """The same, with marks where its images stand."""
    return _marked(question)[0]


def with_stem(question: Question, stem: str) -> Question:
    """A question with another text, the choices at its end as they were.

    Args:
        question: As it was.
        stem: With the same marks as `marked_stem`.
    """
    parts: list[Part] = []
    for place, piece in enumerate(_MARK.split(stem + _marked(question)[1])):
        if place % 2:
            parts.append(ImagePart())
        elif piece:
            parts.append(TextPart(text=piece))
    content = parts[0].text if len(parts) == 1 and isinstance(parts[0], TextPart) else tuple(parts)
    said = question.prompt[-1].model_copy(update={"content": content})
    return question.model_copy(update={"prompt": (*question.prompt[:-1], said)})


def _marked(question: Question) -> tuple[str, str]:
    """What the user says with marks for images, and the choices at its end."""
    *before, said = question.prompt
    number, pieces = sum(message.image_count for message in before), []
    for part in (TextPart(text=said.content),) if isinstance(said.content, str) else said.content:
        number += isinstance(part, ImagePart)
        pieces.append(part.text if isinstance(part, TextPart) else f"<image {number}>")
    return _apart(question, "".join(pieces))


def _apart(question: Question, text: str) -> tuple[str, str]:
    """A text, and the choices at its end."""
    before, mark, after = text.rpartition(CHOICES)
    return (before, mark + after) if mark and question.options else (text, "")
