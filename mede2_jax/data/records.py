"""The record kinds, one JSON object a line: training reads demonstrations (SFT) and preference pairs (DPO), sampling reads
questions and writes rollouts, judging writes judgments of these, pairing makes preference pairs of both.

    {"id": "d1", "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]},
                              {"role": "assistant", "content": "…"}], "images": ["scan.png"]}
    {"id": "p1", "prompt": [{"role": "user", "content": "…"}], "images": [], "chosen": "…", "rejected": "…"}
    {"id": "q1", "prompt": [{"role": "user", "content": "…"}], "images": [], "answer": "B", "options": {"A": "…", "B": "…"}}
    {"id": "q1#0", "parents": ["q1"], "sample": 0, "prompt": […], "response": "…", "finish_reason": "stop", …}
    {"id": "q1#0@0", "parents": ["q1#0"], "question": "q1", "repeat": 0, "correctness": {"met": true}, "reflection": {…}, "judge": {…}, …}

Image parts stand for the files in `images`, in order. `id` may be left out: it then follows from the content.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

import pydantic

from mede2_jax.config import Config, counted
from mede2_jax.reasoning.answers import Outcome
from mede2_jax.reasoning.judge_reply import Verdict
from mede2_jax.reasoning.remarks import MERITS, Merit
from mede2_jax.reasoning.rubric import ASPECTS, Aspect

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

    # What a broken model gives is a record all the same.
    model_config = pydantic.ConfigDict(allow_inf_nan=True)

    id: str = ""
    images: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    source: str | None = None
    licence: str | None = None
    """Of what it was made from, by its SPDX name where that is known."""
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
    unscored: tuple[int, ...] = ()
    """Assistant turns that are read but not imitated, by their place in `messages`, from 0."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.messages[-1].role != "assistant":
            raise ValueError("field 'messages' must end with the assistant's turn")
        if self.messages[0].role == "assistant":
            raise ValueError(
                "field 'messages' begins with the assistant's turn, which answers nothing; begin with the user's or the system's"
            )
        turns = {place for place, message in enumerate(self.messages) if message.role == "assistant"}
        if unknown := sorted(set(self.unscored) - turns):
            raise ValueError(f"field 'unscored' names turn {unknown[0]}, which is not the assistant's")
        if not turns - set(self.unscored):
            raise ValueError("no assistant turn of the record is to be scored; take the record out")
        if any(message.role == "assistant" and not message.text for message in self.messages):
            raise ValueError("field 'messages' has an empty assistant turn")
        check_images(self.messages, self.images)
        return self


class Prompted(Record):
    """A conversation that ends where the assistant is to speak."""

    prompt: tuple[Message, ...] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.prompt[-1].role != "user":
            raise ValueError(f"field 'prompt' must end with the user's turn (it ends with the {self.prompt[-1].role}'s)")
        check_images(self.prompt, self.images)
        return self


class PreferencePair(Prompted):
    """A prompt with a chosen and a rejected response."""

    chosen: str = pydantic.Field(min_length=1)
    rejected: str = pydantic.Field(min_length=1)


class Question(Prompted):
    """A prompt that is to be answered, and what is known of the right answer."""

    answer: str | None = pydantic.Field(default=None, min_length=1)
    """The right answer: the letter or the text of one of `options`, or a text; None: not known."""
    options: dict[str, str] | None = None
    """The choices, if the prompt lists some: capital letter to text."""

    @pydantic.model_validator(mode="after")
    def _check_options(self) -> Self:
        for letter, text in (self.options or {}).items():
            if not (len(letter) == 1 and "A" <= letter <= "Z"):
                raise ValueError(f"field 'options': {letter!r} must be one capital letter")
            if not text.strip():
                raise ValueError(f"field 'options.{letter}' is empty")
        if self.options is not None and len(self.options) < 2:
            raise ValueError(f"field 'options' must hold at least 2 choices, found {len(self.options)}; leave it out if there are none")
        return self


class SampleUsage(Config):
    """What a sample of an API took, and who gave it; its tokens are the sample's own."""

    model: str | None = None
    """What the API says has answered, which may name a version."""
    cost: float = 0.0
    """US dollars, without what came from the cache."""
    cached_cost: float | None = None
    """US dollars that the answer from the cache had cost when it was paid for; None: it came from the API."""
    without: tuple[str, ...] | None = None
    """Options that the API does not take, and was asked without; None: it takes all."""

    @property
    def whole_cost(self) -> float:
        """US dollars that this sample has cost, whenever it was paid for."""
        return self.cost + (self.cached_cost or 0.0)


class Rollout(Question):
    """One sampled response to a question, with all that is needed to judge it. Its parent is the question."""

    sample: int = pydantic.Field(ge=0)
    """Which of the question's samples it is, from 0."""
    response: str
    """Without the end token; empty if the model ended its turn at once."""
    finish_reason: Literal["stop", "length", "refusal"]
    """`length`: cut at the longest allowed. `refusal`: an API, or its filters, would not answer."""
    prompt_tokens: int
    """Image tokens counted."""
    response_tokens: int
    """The end token counted; of an API what is paid as output, thoughts too."""
    seed: int
    model: str
    """Digest of the model that was sampled; of an API, `gemini/NAME` or `openai/NAME`."""
    reason: str | None = None
    """Why an API's reply holds no response."""
    usage: SampleUsage | None = None
    """Of an API."""
    token_ids: tuple[int, ...] | None = None
    """As sampled, where log-probabilities were asked for: text need not become the same tokens again."""
    logprobs: tuple[float, ...] | None = None
    """Of each of `token_ids` under the model itself, before temperature and top_p."""

    @property
    def question_id(self) -> str:
        """Of the question it answers."""
        return self.parents[0] if self.parents else ""

    @property
    def content_digest(self) -> str:
        """16 hexadecimal digits that follow from what a judge is shown: question, truth and response."""
        content = self.model_dump(mode="json", include={"prompt", "images", "answer", "options", "response"})
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Remark(Rollout):
    """What a model says about a question or a response, sampled as an answer is: `prompt` is what it was asked, no right answer is known.
    Its parent is the question, or the response."""

    about: str
    """Name and version of the prompt."""


class JudgedBy(Config):
    """Who judged, and how it was asked."""

    engine: Literal["offline", "gemini", "openai", "people"]
    model: str
    """The API's name of it; `rules/N` of the offline judge; `annotator-N` of a person."""
    prompt: str | None = None
    """Name and version of the prompt; None: the offline judge is not asked, and people read the criteria."""


class JudgeUsage(Config):
    """What a judgment took, malformed replies before it counted."""

    prompt_tokens: int = 0
    response_tokens: int = 0
    cost: float = 0.0
    """US dollars, without what came from the cache."""
    cached_cost: float | None = None
    """US dollars that answers from the cache had cost when they were paid for: by a run before that was killed, or for another file."""
    calls: int = 1
    """Requests, one unless a reply was malformed."""
    cached: int = 0
    """Of these answered from the cache."""
    without: tuple[str, ...] | None = None
    """Options that the API does not take, and was asked without; None: it takes all."""

    @property
    def whole_cost(self) -> float:
        """US dollars that these answers have cost, whenever they were paid for."""
        return self.cost + (self.cached_cost or 0.0)


class Judgment(Record):
    """One judgment of one rollout, by MMRP's aspects. Its parent is the rollout."""

    question: str = pydantic.Field(min_length=1)
    """Id of the question."""
    repeat: int = pydantic.Field(ge=0)
    """Which of the rollout's judgments it is, from 0."""
    of: str
    """What was judged, by digests (`data/judged.py`): the rollout's content and its image files. Its id alone could also be another's."""
    outcome: Outcome | None = None
    """Of comparing the final answer with the right one by rules; None: these do not tell, and `correctness` decides."""
    correctness: Verdict
    logical_consistency: Verdict
    image_analysis: Verdict
    no_hallucination: Verdict
    reflection: Verdict
    judge: JudgedBy
    raw: str | None = None
    """The reply as it came."""
    usage: JudgeUsage | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.parents) != 1:
            raise ValueError(f"field 'parents' must hold the rollout's id and nothing else, found {list(self.parents)}")
        return self

    @property
    def rollout(self) -> str:
        """Id of the rollout."""
        return self.parents[0]

    @property
    def verdicts(self) -> dict[Aspect, bool]:
        """Which aspects are met."""
        return {aspect: getattr(self, aspect).met for aspect in ASPECTS}


class Review(Record):
    """What one person said of one demonstration, by the criteria of its rating. Its parent is the demonstration."""

    of: str
    """What was reviewed, by digests, as `Judgment.of`."""
    annotator: str
    verdicts: dict[Merit, bool]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.parents) != 1:
            raise ValueError(f"field 'parents' must hold the demonstration's id and nothing else, found {list(self.parents)}")
        if missing := [merit for merit in MERITS if merit not in self.verdicts]:
            raise ValueError(f"field 'verdicts' lacks {missing[0]!r}")
        return self

    @property
    def demonstration(self) -> str:
        """Id of the demonstration."""
        return self.parents[0]


def check_images(messages: tuple[Message, ...], images: tuple[str, ...]) -> None:
    """Raises ValueError unless the image parts, none of them the assistant's, match the files one to one."""
    if any(message.role == "assistant" and message.image_count for message in messages):
        raise ValueError("an assistant turn holds an image; images belong in the user's or the system's turns")
    places = sum(message.image_count for message in messages)
    if places != len(images):
        raise ValueError(f"{counted(places, 'image place')} in the messages but {counted(len(images), 'file')} in field 'images'")


def content_id(record: Record) -> str:
    """16 hexadecimal digits that follow from what the record says, whichever format it was read from."""
    content = record.model_dump(mode="json", exclude={"id", "parents", "source", "licence", "metadata"})
    if not content.get("unscored"):  # as before there was such a field
        content.pop("unscored", None)
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
