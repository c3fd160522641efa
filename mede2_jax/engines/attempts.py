"""How one attempt to get an answer may end, and what an HTTP status says of that."""

from __future__ import annotations

import os
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.engines.openai_reply import error_field, error_text, retry_after

ATTEMPTS = 4
"""Failures of one request, in a time in which other requests are answered, before it is given up."""
CONNECT_SECONDS = 10.0
SHORTEST_KEY = 8
"""What is shorter (`none`, `x`) is no secret, and may be a word of a message."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(Exception):
    """The server cannot answer this request, now or later."""


class Failed(Exception):
    """An attempt that failed.

    Args:
        reason: Why.
        is_down: The server could not be reached, or broke the connection.
        counts: How much of it is the request's own fault.
        rest: Seconds that the server asks to be left alone.
        is_well: The reply was whole, there was just no answer in it.
        may_cost: It broke off after it was sent: the server may have done its work.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_down: bool = False,
        counts: int = 1,
        rest: float | None = None,
        is_well: bool = False,
        may_cost: bool = False,
    ) -> None:
        super().__init__(reason)
        self.is_down, self.counts, self.rest, self.is_well, self.may_cost = is_down, counts, rest, is_well, may_cost


def status_fault(url: str, response: Any, fix: str) -> Exception:
    """What an HTTP status other than success means for the request.

    Args:
        url: Who answered.
        response: The reply, read to its end.
        fix: What the user may have to correct if no request can be answered.
    """
    status = response.status_code
    reason = f"{status} {error_text(response)}"
    if status in (400, 413, 422):
        return Refused(reason)
    if status == 429 and error_field(response, "code") == "insufficient_quota":  # OpenAI's word for: the account has no money
        return UserError(f"{url} answers {reason}; {fix}")
    if status in (429, 503):
        return Failed(reason, counts=0, rest=retry_after(response))
    if status in (408, 409, 425) or status >= 500:
        return Failed(reason, rest=retry_after(response))
    return UserError(f"{url} answers {reason}; {fix}")


def api_key(*names: str) -> str:
    """The API key in the first of these environment variables that is set, without white space around it; empty if there is none.

    Raises:
        UserError: It holds what no key does. It could not be sent, and the error would repeat it.
    """
    key, name = next(((key, name) for name in names if (key := os.environ.get(name, "").strip())), ("", ""))
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(f"{name} holds a line break, a space or a letter that no key has; set it anew")
    return key


def hide_key(text: str, key: str) -> str:
    """A message without the key, should a server repeat it, and without what a shortened message has left of it."""
    if len(key) < SHORTEST_KEY:
        return text
    for length in range(len(key), SHORTEST_KEY - 1, -1):
        text = text.replace(key if length == len(key) else key[:length] + "…", "[key]")
    return text
