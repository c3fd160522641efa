"""One small chat interface to everything that answers: a vLLM server, the Flax sampler, an API.

An engine is given requests, of which it takes only as many as it can work on, and gives back replies in the order in which
they are finished. One request asks for n samples of one conversation, so that prompt and images are computed once.

Sample i of a request has the seed `request.seed + i`: asking an engine for fewer samples, or later for those that are missing,
gives what one request for all would have given. Another engine makes other numbers of the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import pydantic
from PIL import Image

from mede2_jax.config import Config
from mede2_jax.data.processor import Processor
from mede2_jax.data.records import Message
from mede2_jax.engines.picture import Picture

FinishReason = Literal["stop", "length"]
"""`stop`: the model ended its turn, or wrote a stop text. `length`: it was cut at `max_tokens`."""
NoAnswer = Literal["failed", "refused", "cut"]
"""`refused`: an API, or its filters, will not answer this. `cut`: `max_tokens` were used up before the answer began. Else `failed`."""


class Sampling(Config):
    """How responses are sampled; the same for every request of an engine."""

    temperature: float = pydantic.Field(default=1.0, ge=0.0, le=2.0)
    """Divides the logits; 0 is greedy."""
    top_p: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the fewest tokens that have this probability together (after temperature)."""
    max_tokens: int = pydantic.Field(default=2048, ge=1)
    """Longest response in tokens, its end token counted."""
    stop: tuple[Annotated[str, pydantic.Field(min_length=1)], ...] = ()
    """Texts that end a response when they appear; the response is cut before them."""


@dataclass(frozen=True)
class ChatRequest:
    """A conversation, and how many responses to it are wanted."""

    id: str
    messages: tuple[Message, ...]
    images: tuple[Image.Image | Picture, ...]
    """RGB, or files, one for each image part, in order."""
    n: int
    seed: int
    """Of the first sample; sample i has `seed + i`."""
    schema: Mapping[str, Any] | None = None
    """A JSON schema that the response is asked to follow (structured output); an engine that cannot refuses the request."""

    @property
    def decoded(self) -> tuple[Image.Image, ...]:
        """The images in RGB."""
        return tuple(image.image() if isinstance(image, Picture) else image for image in self.images)


@dataclass(frozen=True)
class Usage:
    """What a reply took."""

    prompt_tokens: int
    response_tokens: int
    """What is paid as output: of a model that thinks, its thoughts too."""
    cost: float
    """US dollars; 0 when it came from the cache, or where nobody knows the model's prices."""
    cached: bool
    cached_cost: float = 0.0
    """US dollars that what came from the cache had cost when it was paid for."""
    model: str = ""
    """What the API says has answered, which may name a version."""
    without: tuple[str, ...] = ()
    """Options that the API does not take, and was asked without."""


@dataclass(frozen=True)
class Completion:
    """One response."""

    text: str
    """What its tokens say, special ones such as `<think>` too; without the token or the stop text that ended it."""
    token_ids: tuple[int, ...]
    """As sampled, the end token among them if there was one."""
    logprobs: tuple[float, ...] | None
    """Of each token under the model itself, before temperature, top_p and banned tokens; None where not asked for."""
    finish_reason: FinishReason
    seed: int
    thought: str = ""
    """What an API says apart from the text of how it came to it; empty: nothing."""


@dataclass(frozen=True)
class ChatReply:
    """All responses to a request, sample 0 first."""

    request: ChatRequest
    prompt_tokens: int
    completions: tuple[Completion, ...]
    usage: Usage | None = None
    """Of engines whose answers cost money."""


@dataclass(frozen=True)
class ChatFailure:
    """A request that this engine cannot answer, such as a prompt that is too long; trying again would not help."""

    request: ChatRequest
    reason: str
    usage: Usage | None = None
    """Of engines whose answers cost money, where it took something all the same."""
    end: NoAnswer = "failed"


CUT = "\N{REPLACEMENT CHARACTER}"
"""What stands for a part of a letter."""


class ChatEngine(Protocol):
    """What answers requests. A context manager: entering starts it (and waits until it can answer), leaving stops it."""

    def __enter__(self) -> ChatEngine: ...

    def __exit__(self, *exception: Any) -> None: ...

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply | ChatFailure]:
        """Answers every request once, in the order they are finished; takes requests only as there is room for them.

        Raises:
            UserError: The engine has broken down. What was answered has been given out; the rest can be asked again.
        """
        ...


def tokens_text(tokenizer: Any, tokens: Sequence[int], stop: Sequence[int] = ()) -> str:
    """The text of a response's tokens, all but the last if that is one of `stop`.

    Special tokens are not left out: where `<think>` is one, a response without it would be trained on as another response. The beginning of
    a letter that was cut off is, as vLLM does it.
    """
    ended = len(tokens) > 0 and tokens[-1] in stop
    text = str(tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return text.rstrip(CUT)


def before_stop_text(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first stop text in it; all of it if there is none."""
    return text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]


@dataclass(frozen=True)
class TokenRules:
    """Which tokens end a response, and which may not be sampled."""

    stop: tuple[int, ...]
    banned: tuple[int, ...]
    """Image and other reserved tokens, and rows of the vocabulary without a token."""


def token_rules(processor: Processor, vocab_size: int) -> TokenRules:
    """The rules of a model.

    Args:
        processor: Its tokenizer and chat template.
        vocab_size: Rows of its vocabulary, which may be more than it has tokens.
    """
    chat = processor.chat
    # Released models were trained to end a turn with the first, and a text with the last: both end a response.
    stop = {chat.end_token_id, chat.tokenizer.eos_token_id, chat.pad_token_id} - {None}
    tokens = {int(index): token for token, index in chat.tokenizer.get_vocab().items()}
    # Not every tokenizer of a family has all the tokens that are reserved in it.
    banned = {index for index in range(vocab_size) if index not in tokens or tokens[index] in chat.reserved} - stop
    return TokenRules(tuple(sorted(stop)), tuple(sorted(banned)))
