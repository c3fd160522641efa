"""What an API said to a request: a whole reply, which is on the bill and in the cache whether there is an answer in it or not."""

from __future__ import annotations

from typing import Any

from mede2_jax.config import Config
from mede2_jax.engines.chat import FinishReason, NoAnswer


class Outcome(Config):
    """A reply that came whole."""

    text: str | None
    """The answer; None: there is none, because of `reason`."""
    thought: str = ""
    """What stands apart from it in a field for reasoning."""
    finish_reason: FinishReason = "stop"
    reason: str = ""
    end: NoAnswer = "failed"
    """Of a reply without an answer: what kind of end it is."""
    is_final: bool = True
    """Asking the very same again would not help: blocked, refused, or answered."""
    prompt_tokens: int | None = None
    """As the API counts them for its bill; None: it does not say."""
    response_tokens: int | None = None
    """Thoughts counted."""
    model: str = ""
    """What the API says has answered, which may name a version."""
    without: tuple[str, ...] = ()
    """Options of the request that the API does not take, and was asked without."""


def no_answer(reason: str, *, is_final: bool, **counts: Any) -> Outcome:
    """A reply without an answer."""
    return Outcome(text=None, reason=reason, is_final=is_final, **counts)
