"""Made-up records: random words of the model's own tokenizer, and images of noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from mede2_jax.config import Config, UserError
from mede2_jax.data.source import Stage


class SyntheticConfig(Config):
    """The made-up records that are trained on when no `data.path` is given. Lengths and sizes are drawn evenly between two ends."""

    examples: int = Field(default=96, ge=1)
    """Demonstrations, or pairs."""
    prompt_tokens: int = Field(default=120, ge=1)
    """Of each question, images not counted."""
    response_tokens: tuple[int, int] = (100, 500)
    """Shortest and longest response."""
    images: int = Field(default=1, ge=0)
    """Of each question; 0 for texts alone."""
    text_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions that have no image all the same."""
    image_pixels: tuple[int, int] = (336, 560)
    """Shortest and longest side of an image."""
    seed: int = 0
    keep: Path | None = None
    """Write the records to this folder, which must not be there yet, and leave them there; none: to a temporary one."""

    @field_validator("response_tokens", "image_pixels")
    @classmethod
    def _in_order(cls, ends: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= ends[0] <= ends[1]:
            raise ValueError(f"shortest {ends[0]} is longer than longest {ends[1]}" if ends[0] > ends[1] else f"{ends[0]} is too short")
        return ends


def write_records(folder: Path, stage: Stage, config: SyntheticConfig, tokenizer: Any) -> Path:
    """Writes images and a data file, and returns its path.

    Args:
        folder: Where to.
        stage: sft makes demonstrations, dpo preference pairs.
        config: How many, and how long.
        tokenizer: Whose words are used: each of them is one token.

    Raises:
        UserError: The tokenizer has no words to use.
    """
    rng = np.random.default_rng(config.seed)
    words = _words(tokenizer)
    (folder / "images").mkdir()

    def text(tokens: int) -> str:
        return "".join(rng.choice(words, tokens)).strip()

    def response() -> str:
        return text(int(rng.integers(config.response_tokens[0], config.response_tokens[1] + 1)))

    lines = []
    for number in range(config.examples):
        # Spread evenly, not drawn: a few records hold the share too.
        text_only = int((number + 1) * config.text_share) > int(number * config.text_share)
        count = 0 if text_only else config.images
        images = [_write_image(folder / f"images/{number}-{index}.jpg", config, rng) for index in range(count)]
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": text(config.prompt_tokens)}]
        prompt = [{"role": "user", "content": content}]
        record: dict[str, Any] = {"id": f"s{number}", "images": [f"images/{path.name}" for path in images]}
        if stage == "dpo":
            record |= {"prompt": prompt, "chosen": response(), "rejected": response()}
        else:
            record |= {"messages": [*prompt, {"role": "assistant", "content": response()}]}
        lines.append(json.dumps(record))
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _words(tokenizer: Any) -> list[str]:
    """Words that the tokenizer makes one token of, wherever they stand: letters after a space."""
    found = []
    for token in range(min(len(tokenizer), 60_000)):
        text = tokenizer.decode([token])
        if len(text) > 3 and text[0] == " " and text[1:].isascii() and text[1:].isalpha() and text.islower():
            found.append(text)
    if len(found) < 50:
        raise UserError(f"this tokenizer has only {len(found)} words of one token to make records of; give --data.path")
    return found


def _write_image(path: Path, config: SyntheticConfig, rng: np.random.Generator) -> Path:
    width, height = (int(side) for side in rng.integers(config.image_pixels[0], config.image_pixels[1] + 1, 2))
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path, quality=90)
    return path
