"""What a request may cost at most, known before it is sent: what a budget sets aside for it.

The reply has at most `max_tokens`, thoughts counted. Of the prompt only a bound is known, since tokenizers are the API's own: a token
of text is at least one byte of it; a picture has at most what the API's documentation counts for its size.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from mede2_jax.engines.chat import ChatRequest

PROMPT_MARKS, TURN_MARKS = 256, 32
"""Tokens of a chat template around all turns (a system text of its own), and around each."""
SCHEMA_FORM = 2
"""A schema is told to the model in a form of the API's own; with so many times its bytes."""

GEMINI_TILE, GEMINI_TILE_TOKENS, GEMINI_PICTURE = 768, 258, 1120
"""ai.google.dev/gemini-api/docs: a picture is cut into tiles of 768 × 768, or of two thirds of its shorter side, each of 258 tokens;
Gemini 3 counts 1,120 for one."""
OPENAI_TILES = {"gpt-4o-mini": (2833, 5667), "gpt-4o": (85, 170)}
"""platform.openai.com/docs/guides/images-vision: tokens of a picture, and of each of its tiles of 512 × 512 (see `_openai_tiles`)."""
OPENAI_PATCH, OPENAI_PATCHES, OPENAI_PATCH_TOKENS = 32, 10_000, 2.5
"""The same page, of models that count patches: their side, the most that a picture has, and the most that one counts."""
OWN_SERVER_PICTURE = 3400
"""A small picture in InternVL's 12 tiles and thumbnail; Qwen's patches of 28 × 28 are fewer than what OPENAI_PATCH gives."""


class Most(NamedTuple):
    """Tokens that a request takes at most."""

    prompt: int
    response: int


def most_tokens(request: ChatRequest, api: str, model: str, max_tokens: int) -> Most:
    """The bound of a request for one sample.

    Args:
        request: What is asked.
        api: `gemini` or `openai`.
        model: As the API calls it.
        max_tokens: Longest reply.
    """
    text = sum(len(message.text.encode("utf-8", "surrogatepass")) + TURN_MARKS for message in request.messages)
    schema = 0 if request.schema is None else SCHEMA_FORM * len(json.dumps(request.schema, default=dict).encode())
    count = gemini_picture if api == "gemini" else lambda width, height: openai_picture(model, width, height)
    return Most(PROMPT_MARKS + text + schema + sum(count(*image.size) for image in request.images), max_tokens)


def gemini_picture(width: int, height: int) -> int:
    """Tokens of a picture of that size, at most."""
    crop = max(int(min(width, height) / 1.5), 1)
    tiles = max(math.ceil(width / side) * math.ceil(height / side) for side in (GEMINI_TILE, crop))
    return max(tiles * GEMINI_TILE_TOKENS, GEMINI_PICTURE)


def openai_picture(model: str, width: int, height: int) -> int:
    """Tokens of a picture of that size, at most; of a model that nobody knows here, by whichever rule counts most."""
    tiles = _openai_tiles(width, height)
    for name, (base, tile) in OPENAI_TILES.items():
        if model.rpartition("/")[2].startswith(name):
            return base + tile * tiles
    patches = min(math.ceil(width / OPENAI_PATCH) * math.ceil(height / OPENAI_PATCH), OPENAI_PATCHES)
    return max(85 + 170 * tiles, math.ceil(patches * OPENAI_PATCH_TOKENS), OWN_SERVER_PICTURE)


def _openai_tiles(width: int, height: int) -> int:
    """Tiles of 512 × 512 after the picture was made to fit into 2048 × 2048, and then its shorter side into 768."""
    for limit, side in ((2048, max), (768, min)):
        scale = min(limit / side(width, height), 1.0)
        width, height = math.ceil(width * scale), math.ceil(height * scale)
    return math.ceil(width / 512) * math.ceil(height / 512)
