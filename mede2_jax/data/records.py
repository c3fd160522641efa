"""The two record kinds that training reads: demonstrations (SFT) and preference pairs (DPO), one JSON object a line.

    {"id": "d1", "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]},
                              {"role": "assistant", "content": "…"}], "images": ["scan.png"]}
    {"id": "p1", "prompt": [{"role": "user", "content": "…"}], "images": [], "chosen": "…", "rejected": "…"}

Image parts stand for the files in `images`, in order. `id` may be left out: it then follows from the content.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

import pydantic

from mede2_jax.config import Config

Role = Literal["system", "user", "assistant"]


class TextPart(Config):
    """A piece of text in a message."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(Config):
    """The place of the next file of `images`."""

    type: Literal["image"] = "image"


Part = Annotated[TextPart | ImagePart, pydantic.Field(discriminator="type")]
Content = Annotated[
    Annotated[str, pydantic.Tag("text")] | Annotated[tuple[Part, ...], pydantic.Tag("parts")],
    pydantic.Discriminator(lambda value: "text" if isinstance(value, str) else "parts"),
]


class Message(Config):
    """One turn of a conversation."""

    role: Role
    content: Content

    @property
    def image_count(self) -> int:
        """How many image parts the message has."""
        return 0 if isinstance(self.content, str) else sum(isinstance(part, ImagePart) for part in self.content)

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


class Record(Config):
    """What every record has: its identity, its images and where it comes from."""

    id: str = ""
    images: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    source: str | None = None
    metadata: dict[str, Any] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _fill_id(self) -> Self:
        if not self.id:
            # Frozen for everyone else; the derived id belongs to construction.
            object.__setattr__(self, "id", content_id(self))
        return self


class Demonstration(Record):
    """A conversation whose assistant turns are to be imitated."""

    messages: tuple[Message, ...] = pydantic.Field(min_length=2)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.messages[-1].role != "assistant":
            raise ValueError("field 'messages' must end with the assistant's turn")
        if any(message.role == "assistant" and not message.text for message in self.messages):
            raise ValueError("field 'messages' has an empty assistant turn")
        check_images(self.messages, self.images)
        return self


class PreferencePair(Record):
    """A prompt with a chosen and a rejected response."""

    prompt: tuple[Message, ...] = pydantic.Field(min_length=1)
    chosen: str = pydantic.Field(min_length=1)
    rejected: str = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.prompt[-1].role != "user":
            raise ValueError(f"field 'prompt' must end with the user's turn (it ends with the {self.prompt[-1].role}'s)")
        check_images(self.prompt, self.images)
        return self


def check_images(messages: tuple[Message, ...], images: tuple[str, ...]) -> None:
    """Raises ValueError unless the image parts, none of them the assistant's, match the files one to one."""
    if any(message.role == "assistant" and message.image_count for message in messages):
        raise ValueError("an assistant turn holds an image; images belong in the user's or the system's turns")
    places = sum(message.image_count for message in messages)
    if places != len(images):
        raise ValueError(f"{places} image places in the messages but {len(images)} files in field 'images'")


def content_id(record: Record) -> str:
    """16 hexadecimal digits that follow from what the record says, whichever format it was read from."""
    content = record.model_dump(mode="json", exclude={"id", "parents", "source", "metadata"})
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
