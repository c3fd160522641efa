"""What is sent to a server of the OpenAI chat protocol."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT, NO_SYSTEM_PROMPT
from mede2_jax.data.records import ImagePart, Message
from mede2_jax.engines.chat import ChatRequest, Sampling, TokenRules

BANNED_BIAS = -100.0
"""The lowest that the protocol allows; added to a logit, it divides a probability by e¹⁰⁰."""


def request_body(
    request: ChatRequest, sampling: Sampling, *, system_prompt: str, logprobs: bool, rules: TokenRules | None
) -> dict[str, Any]:
    """A request's body, but for the model's name, as the client takes it: what is not of the protocol under `extra_body`.

    Args:
        request: What is asked.
        sampling: How it is sampled.
        system_prompt: As `ProcessorOptions.system_prompt`.
        logprobs: Whether log-probabilities are wanted.
        rules: For vLLM, whose own parameters are then used; None: the protocol only.
    """
    body: dict[str, Any] = {
        "messages": chat_messages(request, system_prompt),
        "n": request.n,
        "seed": request.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.schema is not None:
        # `strict` would refuse every schema that says more than types, such as the bounds of a score.
        shape = {"name": "response", "schema": dict(request.schema), "strict": False}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    if logprobs:
        body["logprobs"] = True
    if rules is None:
        return body
    body |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {str(index): BANNED_BIAS for index in rules.banned}}
    # Whatever a server's own defaults (a model's generation_config.json) could change is said.
    body["extra_body"] = {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(rules.stop),
        "skip_special_tokens": True,
        "return_token_ids": True,
        "watermarking": False,
    }
    if system_prompt == NO_SYSTEM_PROMPT:
        body["extra_body"]["chat_template_kwargs"] = {"default_system_prompt": False}
    return body


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


def chat_messages(request: ChatRequest, system_prompt: str) -> list[dict[str, Any]]:
    """The conversation in the protocol's form, images in their places as PNG, which loses nothing."""
    images = iter(request.images)
    turns = [{"role": message.role, "content": _content(message, images)} for message in request.messages]
    if system_prompt not in (DEFAULT_SYSTEM_PROMPT, NO_SYSTEM_PROMPT) and request.messages[0].role != "system":
        turns.insert(0, {"role": "system", "content": system_prompt})
    return turns


def _content(message: Message, images: Iterator[Image.Image]) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    return [
        {"type": "image_url", "image_url": {"url": data_url(next(images))}}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in message.content
    ]


def data_url(image: Image.Image) -> str:
    """An RGB image as a `data:` URL of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: Image.Image) -> bytes:
    """An image's RGB pixels as PNG, which loses nothing."""
    buffer = io.BytesIO()
    # A copy of the pixels alone: a colour profile or a transparent colour of the file would go into the PNG as well.
    Image.frombytes("RGB", image.size, image.convert("RGB").tobytes()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
