"""What the host knows of a question while it is worked on: its samples, their tokens, and whether they are at their end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatReply, Completion, FinishReason, Sampling, before_stop_text, tokens_text
from mede2_jax.engines.flax.prompts import Prompt


@dataclasses.dataclass
class Sample:
    """A response that grows."""

    seed: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    finish_reason: FinishReason | None = None
    text: str = ""
    """Once it is finished."""

    def take(self, tokens: Sequence[int], logprobs: Sequence[float], tokenizer: Any, stop: Sequence[int], sampling: Sampling) -> None:
        """Adds tokens up to the one that ends the response: a stop token, the last of a stop text, or the longest there may be."""
        before = len(self.tokens)
        for token, logprob in zip(tokens, logprobs, strict=True):
            if not np.isfinite(logprob):
                raise UserError("the model gives log-probabilities that are not finite; is it whole, and was it trained with care?")
            self.tokens.append(int(token))
            self.logprobs.append(float(logprob))
            if token in stop:
                self.finish_reason = "stop"
            elif len(self.tokens) == sampling.max_tokens:
                self.finish_reason = "length"
            if self.finish_reason:
                break
        if self.finish_reason or sampling.stop:
            self.text = tokens_text(tokenizer, self.tokens, stop)
            self._cut(before, tokenizer, sampling.stop)

    def _cut(self, before: int, tokenizer: Any, stop: Sequence[str]) -> None:
        """Ends the response where a stop text appears, which can only be behind its first `before` tokens."""
        if not any(text in self.text for text in stop):
            return
        length = next(
            length
            for length in range(before + 1, len(self.tokens) + 1)
            if any(text in tokens_text(tokenizer, self.tokens[:length]) for text in stop)
        )
        self.text = before_stop_text(tokens_text(tokenizer, self.tokens[:length]), stop)
        self.tokens, self.logprobs, self.finish_reason = self.tokens[:length], self.logprobs[:length], "stop"


class Slot:
    """A question and its samples, of which so many are decoded at a time.

    Args:
        prompt: The question.
        width: How many.
    """

    def __init__(self, prompt: Prompt, width: int) -> None:
        self.prompt, self.length = prompt, 0
        self.samples = [Sample(prompt.request.seed + index) for index in range(prompt.request.n)]
        self._width, self._first = width, 0

    @property
    def turn(self) -> list[Sample]:
        """The samples that are being decoded."""
        return self.samples[self._first : self._first + self._width]

    @property
    def is_finished(self) -> bool:
        """Whether no sample is left to decode."""
        return self._first >= len(self.samples)

    def take(self, tokens: np.ndarray, logprobs: np.ndarray, tokenizer: Any, stop: Sequence[int], sampling: Sampling) -> None:
        """What a call has added to each sample, [n, C]; when all of this turn are at their end, the next begin."""
        for sample, more, scores in zip(self.turn, tokens.tolist(), logprobs.tolist(), strict=False):
            if sample.finish_reason is None:
                sample.take(more, scores, tokenizer, stop, sampling)
        self.length += tokens.shape[1]
        if all(sample.finish_reason for sample in self.turn):
            self._first, self.length = self._first + self._width, 0

    def reply(self) -> ChatReply:
        """The finished question."""
        done = []
        for sample in self.samples:
            assert sample.finish_reason is not None
            done.append(Completion(sample.text, tuple(sample.tokens), tuple(sample.logprobs), sample.finish_reason, sample.seed))
        return ChatReply(self.prompt.request, self.prompt.length, tuple(done))
