"""What any HTTP API has in common: addresses, keys, and what an error reply says."""

from __future__ import annotations

import email.utils
import math
import os
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from mede2_jax.config import UserError
from mede2_jax.engines.wire.attempts import Failed, Refused
from mede2_jax.foreign import JSONFault, parse_json, shown

LONGEST_TEXT = 300
"""Characters of a server's error that are quoted."""
LONGEST_ERROR = 20_000
"""Characters of it that are looked at."""
CONNECT_SECONDS = 10.0
SHORTEST_KEY = 8
"""What is shorter (`none`, `x`) is no secret, and may be a word of a message."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = ("content_filter", "content_policy_violation", "invalid_prompt")
"""Codes of an error that says: against our rules. Azure's filter, and OpenAI's."""


def base_urls(urls: Sequence[str], path: str = "/v1") -> list[str]:
    """The URLs in one form, each once.

    Args:
        urls: As the user wrote them.
        path: What is meant where a URL has no path.

    Raises:
        UserError: One is no http URL, or holds a password.
    """
    result = []
    for url in urls:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise UserError(f"base_url {url.split('@')[-1]!r} is no URL of a server ({error}); write http://HOST:PORT{path}") from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "base_url holds a name, password or key, which would be written into files; keys belong in the environment (OPENAI_API_KEY)"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"base_url {url!r} is no URL of a server; write http://HOST:PORT{path}")
        result.append(url.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{path}")
    return list(dict.fromkeys(result))


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
        parameter = error_field(response, "param")
        is_policy = error_field(response, "code") in POLICY
        return Refused(reason, response.text[:LONGEST_ERROR], parameter if isinstance(parameter, str) else "", is_policy=is_policy)
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
    """A message without the key, should a server repeat it, whole or in part: no SHORTEST_KEY letters of it in a row are left."""
    pieces = {key[at : at + SHORTEST_KEY] for at in range(len(key) - SHORTEST_KEY + 1)}
    found = [at for at in range(len(text) - SHORTEST_KEY + 1) if text[at : at + SHORTEST_KEY] in pieces] if pieces else []
    for first, last in reversed(_runs(found)):
        text = f"{text[:first]}[key]{text[last + SHORTEST_KEY :]}"
    return text


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of numbers that are no more than SHORTEST_KEY apart."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number - runs[-1][1] <= SHORTEST_KEY:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def key_in_the_open(url: str, name: str, key: str) -> str | None:
    """What the user should know of a key that travels to another machine as it is; None: it does not."""
    parts = urlsplit(url)
    if not key or parts.scheme == "https" or parts.hostname in LOOPBACK:
        return None
    return f"the key in {name} goes to {url} unencrypted: whoever is on the way can read it; unset it where that server needs none"


def error_text(response: Any) -> str:
    """The message in an error reply, on one line."""
    try:
        found = parse_json(response.content)
        found = found.get("error", found) if isinstance(found, dict) else found
        found = found.get("message", found) if isinstance(found, dict) else found
        return quoted(found if isinstance(found, str) else response.text)
    except JSONFault:
        return quoted(response.text)


def error_field(response: Any, name: str) -> Any:
    """A field of an error reply beside its message; None if it is not there."""
    try:
        return parse_json(response.content)["error"].get(name)
    except (JSONFault, KeyError, TypeError, AttributeError):
        return None


def quoted(text: str) -> str:
    """The beginning of a server's text, on one line."""
    return shown(text, LONGEST_TEXT)


def retry_after(response: Any) -> float | None:
    """Seconds that the server asks to be left alone, by `Retry-After` (seconds or a date); None if it does not say."""
    given = response.headers.get("retry-after")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        date = email.utils.parsedate_tz(given)
        if date is None:
            return None
        seconds = email.utils.mktime_tz(date) - time.time()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
