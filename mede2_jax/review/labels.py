"""How Label Studio shows what is reviewed: its labelling config, and a task's data. All that comes from data or models is text there.

Tags and formats: https://labelstud.io/tags and https://labelstud.io/guide/task_format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.foreign import visible
from mede2_jax.review.criteria import COMMENT, CRITERIA, NO, YES, Kind
from mede2_jax.review.subjects import Subject

UNKNOWN = "not known"
NAME = "mede2_jax review"
"""What a task says it is, so that an export is known to be of these."""


def labelling_config(kind: Kind) -> str:
    """The labelling config, as XML."""
    view = ET.Element("View")
    beside = ET.SubElement(view, "View", style="display: flex; flex-wrap: wrap; gap: 24px")
    shown = ET.SubElement(beside, "View", style="flex: 3 1 420px; min-width: 0")
    _text(shown, "Question", "question")
    images = ET.SubElement(shown, "Repeater", on="$images", indexFlag="{{number}}")
    ET.SubElement(images, "Header", value="$images[{{number}}].title", size="5")
    ET.SubElement(images, "Image", name="image-{{number}}", value="$images[{{number}}].url", zoom="true", zoomControl="true")
    _text(shown, "Right answer", "answer")
    _text(shown, kind.capitalize(), "response")
    asked = ET.SubElement(beside, "View", style="flex: 2 1 320px; min-width: 0; position: sticky; top: 0; align-self: flex-start")
    for number, (name, asks) in enumerate(CRITERIA[kind].items()):
        ET.SubElement(asked, "Header", value=f"{number + 1}. {name.replace('_', ' ').capitalize()}", size="4")
        ET.SubElement(asked, "Header", value=asks, size="6")
        choices = ET.SubElement(
            asked,
            "Choices",
            name=name,
            toName="response",
            choice="single-radio",
            showInline="true",
            required="true",
            requiredMessage=f"{name.replace('_', ' ').capitalize()}: yes or no?",
        )
        for value, key in zip((YES, NO), _KEYS[number], strict=True):
            ET.SubElement(choices, "Choice", value=value, hotkey=key)
    ET.SubElement(
        asked, "TextArea", name=COMMENT, toName="response", rows="3", maxSubmissions="1", placeholder="A comment, if there is one"
    )
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


_MARKED = re.compile(r"(\[image \d+\])(?=\S)")
_KEYS = (("q", "w"), ("a", "s"), ("e", "r"), ("d", "f"), ("t", "y"))
"""Of yes and no for each criterion."""


def _text(parent: ET.Element, title: str, name: str) -> None:
    ET.SubElement(parent, "Header", value=title, size="4")
    # Of type text: Label Studio fetches what is at an address otherwise, and a response may well be one.
    ET.SubElement(parent, "Text", name=name, value=f"${name}", valueType="text", selectionEnabled="false")


def task(subject: Subject, kind: Kind, addresses: Sequence[str]) -> dict[str, Any]:
    """A task of Label Studio's import format.

    Args:
        subject: What is reviewed.
        kind: Of it.
        addresses: Where each of its images is shown from.
    """
    images = [{"title": f"Image {number}", "url": address} for number, address in enumerate(addresses, 1)]
    said = {
        "question": spoken(subject.prompt),
        "images": images,
        "answer": subject.answer or UNKNOWN,
        "response": subject.response,
    }
    made = {"made_by": NAME, "kind": kind, "id": subject.id, "of": subject.of}
    return {"data": {**made, **{name: visible(value) if isinstance(value, str) else value for name, value in said.items()}}}


def spoken(prompt: Sequence[Message]) -> str:
    """A prompt as text, its images marked where they stand; who speaks is said where several do."""
    number, turns = 0, []
    for message in prompt:
        pieces = []
        for part in (TextPart(text=message.content),) if isinstance(message.content, str) else message.content:
            number += isinstance(part, ImagePart)
            pieces.append(part.text if isinstance(part, TextPart) else f"[image {number}]")
        turns.append((message.role, _MARKED.sub(r"\1 ", "".join(pieces))))
    said = [turn for turn in turns if turn[0] != "system"]
    return said[0][1] if len(said) == 1 else "\n\n".join(f"{role}: {text}" for role, text in said)
