"""The OpenAI client, with retries and back-off left to us: one attempt, and how it ended."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import openai

from mede2_jax.engines.wire.attempts import Failed
from mede2_jax.engines.wire.http import CONNECT_SECONDS, LOOPBACK, api_key, status_fault
from mede2_jax.foreign import one_line

FIX = "is --base_url right, and OPENAI_API_KEY?"


def open_client(url: str, timeout: float, key: str | None = None) -> openai.AsyncOpenAI:
    """A client of the server at `url`; the API key, where one is needed, is `key` or the environment's `OPENAI_API_KEY`."""
    # A proxy of the environment is for other machines.
    http = openai.DefaultAsyncHttpxClient(trust_env=urlsplit(url).hostname not in LOOPBACK)
    return openai.AsyncOpenAI(
        base_url=url,
        api_key=key or api_key("OPENAI_API_KEY") or "none",
        timeout=openai.Timeout(timeout, connect=CONNECT_SECONDS),
        max_retries=0,
        http_client=http,
    )


async def send(client: openai.AsyncOpenAI, url: str, body: dict[str, Any], timeout: float, fix: str = FIX) -> bytes:
    """Asks for a chat completion once, and returns the reply as it came.

    Args:
        client: The server's.
        url: Its URL, for messages.
        body: The request.
        timeout: Seconds that it may take.
        fix: What the user may have to correct if no request can be answered.

    Raises:
        Refused: Trying again would not help.
        Failed: It may.
        UserError: No request can be answered.
    """
    try:
        async with asyncio.timeout(timeout):
            response = await client.chat.completions.with_raw_response.create(**body)
            return response.http_response.content
    except (openai.APITimeoutError, TimeoutError) as error:
        if type(error.__cause__).__name__ == "ConnectTimeout":
            raise Failed("cannot be reached (time-out)", is_down=True, counts=0) from None
        raise Failed(f"no answer within {timeout:.0f} s", may_cost=True) from None
    except openai.APIConnectionError as error:
        cause = one_line(str(error.__cause__ or error)) or type(error.__cause__).__name__
        if type(error.__cause__).__name__ == "ConnectError":
            raise Failed(f"cannot be reached ({cause})", is_down=True, counts=0) from None
        raise Failed(f"the connection broke ({cause})", is_down=True, may_cost=True) from None
    except openai.APIStatusError as error:
        raise status_fault(url, error.response, fix) from None
