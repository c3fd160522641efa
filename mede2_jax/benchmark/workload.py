"""Made-up records for a benchmark: random words of the model's own tokenizer, and images of noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mede2_jax.benchmark.config import SyntheticConfig
from mede2_jax.config import UserError
from mede2_jax.data.source import Stage


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
