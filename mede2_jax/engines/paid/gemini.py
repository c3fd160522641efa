"""Gemini, by Google's own client: retries, back-off and the reading of replies are ours."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message
from mede2_jax.engines.chat import ChatRequest, Sampling
from mede2_jax.engines.paid.gemini_reply import read_reply
from mede2_jax.engines.paid.outcome import Outcome
from mede2_jax.engines.wire.attempts import Failed, MalformedReply, Refused
from mede2_jax.engines.wire.http import CONNECT_SECONDS, LOOPBACK, api_key, base_urls, error_field, status_fault
from mede2_jax.engines.wire.pictures import travelling
from mede2_jax.foreign import one_line

URL = "https://generativelanguage.googleapis.com"
API_VERSION = "v1beta"
"""The one with JSON schemas."""
SEEDS = 2**31
"""A seed is a signed 32-bit number."""
HARMS = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")


@dataclass(frozen=True)
class GeminiOptions:
    """What only Gemini knows."""

    thinking: int | None
    """Tokens it may think; None: the model's own default."""
    block: bool
    """Whether its own safety filters decide."""


class GeminiAPI:
    """A `Backend` of the Gemini API.

    Args:
        model: As the API calls it.
        base_url: Another server than Google's, without the API's version.
        timeout: Seconds that one attempt may take.
        sampling: The same for all requests.
        options: Gemini's own.

    Raises:
        UserError: The client is not installed, there is no key, or the URL is none.
    """

    def __init__(self, model: str, base_url: str | None, timeout: float, sampling: Sampling, options: GeminiOptions) -> None:
        try:
            import google.genai
            import httpx2
        except ImportError as error:
            raise UserError(f"Gemini's client is not installed ({error}): pip install -e '.[judge]'") from None
        self._genai, self._http = google.genai, httpx2
        self.url = base_urls([base_url or URL], path="")[0]
        # The order of Google's own client, which says so where both are set.
        self.key = api_key("GOOGLE_API_KEY", "GEMINI_API_KEY")
        if not self.key:
            raise UserError("no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the environment")
        self._model, self._timeout, self._sampling, self._options = model, timeout, sampling, options
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Makes the client, in the event loop that it is used in."""
        types = self._genai.types
        connections = await self._stack.enter_async_context(
            self._http.AsyncClient(
                trust_env=urlsplit(self.url).hostname not in LOOPBACK,  # a proxy of the environment is for other machines
                timeout=self._http.Timeout(self._timeout, connect=CONNECT_SECONDS),
                limits=self._http.Limits(max_connections=None),
            )
        )
        options = types.HttpOptions(
            base_url=self.url,
            api_version=API_VERSION,
            timeout=int(self._timeout * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_async_client=connections,
        )
        self._client = self._genai.Client(vertexai=False, api_key=self.key, http_options=options)
        self._stack.callback(self._client.close)

    async def close(self) -> None:
        """Closes its connections, if it was opened."""
        await self._stack.aclose()

    def prepare(self, request: ChatRequest) -> dict[str, Any]:
        """The arguments of the client's call, made once for all attempts."""
        types, sampling, images = self._genai.types, self._sampling, iter(request.images)

        def parts(message: Message) -> list[Any]:
            if isinstance(message.content, str):
                return [types.Part(text=message.content)]
            return [
                types.Part.from_bytes(data=(sent := travelling(next(images)))[1], mime_type=sent[0])
                if isinstance(part, ImagePart)
                else types.Part(text=part.text)
                for part in message.content
            ]

        turns = [(message.role, parts(message)) for message in request.messages]
        system = [part for role, found in turns if role == "system" for part in found]
        config = types.GenerateContentConfig(
            system_instruction=types.Content(parts=system) if system else None,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_output_tokens=sampling.max_tokens,
            stop_sequences=list(sampling.stop) or None,
            seed=request.seed % SEEDS,
            response_mime_type=None if request.schema is None else "application/json",
            response_json_schema=None if request.schema is None else dict(request.schema),
            thinking_config=None if self._options.thinking is None else types.ThinkingConfig(thinking_budget=self._options.thinking),
            safety_settings=None if self._options.block else _no_filters(types),
            # One call is one request: nothing is asked again, or further, behind the meter's back.
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            automatic_continuation=False,
            # The client's own types would refuse a reply for a field or a reason that is newer than they are.
            should_return_http_response=True,
        )
        contents = [
            types.Content(role="model" if role == "assistant" else "user", parts=found) for role, found in turns if role != "system"
        ]
        return {"model": self._model, "contents": contents, "config": config}

    async def ask(self, arguments: dict[str, Any]) -> Outcome:
        """One attempt.

        Raises:
            Refused: Trying again would not help.
            Failed: It may.
            UserError: No request can be answered.
        """
        http = self._http
        try:
            async with asyncio.timeout(self._timeout):
                reply: Any = await self._client.aio.models.generate_content(**arguments)
        except http.ConnectTimeout:
            raise Failed("cannot be reached (time-out)", is_down=True, counts=0) from None
        except (http.TimeoutException, TimeoutError):
            raise Failed(f"no answer within {self._timeout:.0f} s", may_cost=True) from None
        except http.ConnectError as error:
            raise Failed(f"cannot be reached ({one_line(str(error))})", is_down=True, counts=0) from None
        except (http.TransportError, http.DecodingError) as error:
            reason = one_line(str(error)) or type(error).__name__
            raise Failed(f"the connection broke ({reason})", is_down=True, may_cost=True) from None
        except self._genai.errors.APIError as error:
            raise _fault(self.url, error.response) from None
        except UnicodeDecodeError:  # of an error page
            raise Failed("an error that is no text") from None
        try:
            return read_reply(reply.sdk_http_response.body or "")
        except MalformedReply as fault:
            raise Failed(f"the reply is not as it should be: {fault}", may_cost=True) from None


def _fault(url: str, response: Any) -> Exception:
    """What an error reply means for the request."""
    if 200 < response.status_code < 300:
        return Failed(f"the reply is not as it should be: {response.status_code} without an answer", may_cost=True)
    fix = "check the model's name, base_url, and the key in GEMINI_API_KEY"
    fault = status_fault(url, response, fix)
    found = error_field(response, "details")
    details = [detail for detail in found if isinstance(detail, dict)] if isinstance(found, list) else []
    if isinstance(fault, Refused):
        # A wrong key, and a country that is not served, are 400 as well.
        reasons = {str(detail.get("reason")) for detail in details} | {str(error_field(response, "status"))}
        if reasons & {"API_KEY_INVALID", "API_KEY_EXPIRED", "FAILED_PRECONDITION"}:
            return UserError(f"{url} answers {fault}; {fix}")
    if isinstance(fault, Failed) and fault.rest is None:
        # Where others have a Retry-After, Google has a RetryInfo in the error: {"retryDelay": "37s"}.
        delays = [re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)s", str(detail.get("retryDelay"))) for detail in details]
        fault.rest = max((float(delay[1]) for delay in delays if delay), default=None)
    return fault


def _no_filters(types: Any) -> list[Any]:
    return [types.SafetySetting(category=f"HARM_CATEGORY_{harm}", threshold="BLOCK_NONE") for harm in HARMS]
