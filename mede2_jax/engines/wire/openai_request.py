"""What is sent to a server of the OpenAI chat protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT, NO_SYSTEM_PROMPT
from mede2_jax.data.records import ImagePart, Message
from mede2_jax.engines.chat import ChatRequest, Sampling, TokenRules
from mede2_jax.engines.picture import Picture
from mede2_jax.engines.wire.pictures import data_url

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
        # A special token may be part of what is said, as `<think>` is in some tokenizers; the one that ends a response is left out anyway.
        "skip_special_tokens": False,
        "return_token_ids": True,
        "watermarking": False,
    }
    if system_prompt == NO_SYSTEM_PROMPT:
        body["extra_body"]["chat_template_kwargs"] = {"default_system_prompt": False}
    return body


def chat_messages(request: ChatRequest, system_prompt: str) -> list[dict[str, Any]]:
    """The conversation in the protocol's form, images in their places, as `travelling` has them."""
    images = iter(request.images)
    turns = [{"role": message.role, "content": _content(message, images)} for message in request.messages]
    if system_prompt not in (DEFAULT_SYSTEM_PROMPT, NO_SYSTEM_PROMPT) and request.messages[0].role != "system":
        turns.insert(0, {"role": "system", "content": system_prompt})
    return turns


def _content(message: Message, images: Iterator[Image.Image | Picture]) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    return [
        {"type": "image_url", "image_url": {"url": data_url(next(images))}}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in message.content
    ]
