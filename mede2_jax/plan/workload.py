"""What a step's rows hold, from sizes alone: the shapes that are compiled, and the mean contents that operations are counted of.

The examples are those of `python -m mede2_jax.benchmark` (`--synthetic.…`): a question with images and one response, or two,
all of mean length. A row is as full as whole examples make it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from mede2_jax.config import UserError
from mede2_jax.data.internvl3 import tile_count
from mede2_jax.data.rows import BatchShape, empty_row
from mede2_jax.plan.config import PlanConfig
from mede2_jax.sizing.flops import Contents

TEMPLATE_TOKENS = 30
"""Of a conversation besides its text: system prompt, roles, turn ends, image marks."""
MOST_TILES = 12
"""Of an image, where nothing else is said (Zhu et al. 2025)."""
SPARE_PATCHES = 1.1
"""The data loader's room for patches that are spread unevenly over rows."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A row's sizes, and what it holds."""

    shape: BatchShape
    held: Contents
    """Of all rows of a step."""
    image_share: float
    """Image tokens among real tokens."""


def workload(config: PlanConfig, sizes: Any) -> Workload:
    """The rows of a step.

    Args:
        config: The plan.
        sizes: The family's model config.

    Raises:
        UserError: Not one example fits into a row, or examples of two kinds are asked for.
    """
    made = config.synthetic
    if made.text_share:
        raise UserError(
            f"plan fills rows with examples of one kind; instead of synthetic.text_share={made.text_share:g} set synthetic.images=0"
        )
    image = _image(config, sizes)
    images = made.images
    prompt = TEMPLATE_TOKENS + made.prompt_tokens + images * image.tokens
    response = round(sum(made.response_tokens) / 2)
    pair = config.stage == "dpo"
    shared = pair and config.data.shared_prompt
    copies = 2 if pair and not shared else 1
    tokens = prompt * copies + response * (1 + pair)
    count = config.data.row_tokens // tokens if config.data.packing else int(tokens <= config.data.row_tokens)
    if not count:
        raise UserError(
            f"an example has {tokens} tokens, data.row_tokens={config.data.row_tokens}; raise it, or lower synthetic.response_tokens"
        )
    patches = images * image.patches * copies
    room = config.data.row_patches or max(patches, math.ceil(SPARE_PATCHES * patches * config.data.row_tokens / tokens))
    scored = response * (1 + pair)
    shape = BatchShape(
        tokens=config.data.row_tokens,
        patches=-(-room // image.multiple) * image.multiple if patches else 0,
        scored=-(-scored * count // 64) * 64,
        responses=count * (1 + pair),
        patch_dim=sizes.vision.patch_dim,
        position_axes=3 if sizes.language.mrope_section else 1,
    )
    seen = (
        _triangle(prompt) + (1 + pair) * (prompt * response + _triangle(response))
        if shared or not pair
        else 2 * _triangle(prompt + response)
    )
    every = count * config.rows_per_step * config.accumulation
    held = Contents(
        tokens=tokens * every,
        keys_seen=seen * every,
        scored=scored * every,
        image_tokens=images * image.tokens * copies * every,
        patches=patches * every,
        window_keys=patches * image.window * every,
        image_keys=patches * image.patches * every,
        examples=every,
    )
    return Workload(shape, held, held.image_tokens / held.tokens)


def abstract_batch(config: PlanConfig, shape: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
    """A step's batch, [A, B, …], as the loader would give it."""
    leading = (config.accumulation, config.rows_per_step)
    return {name: jax.ShapeDtypeStruct((*leading, *value.shape), value.dtype) for name, value in empty_row(shape, 0).items()}


@dataclasses.dataclass(frozen=True)
class _Image:
    tokens: int
    patches: int
    window: int
    """Patches that a patch sees in a layer with windows."""
    multiple: int


def _image(config: PlanConfig, sizes: Any) -> _Image:
    """A square image of mean size; InternVL3's is one tile, or as many as it is cut into and a thumbnail."""
    vision = sizes.vision
    side = sum(config.synthetic.image_pixels) / 2
    if hasattr(sizes, "tile_size"):
        data = config.data
        most = 1 if data.crop_to_patches is False else data.max_tiles or MOST_TILES
        tiles = tile_count(round(side), round(side), sizes.tile_size, data.min_tiles or 1, most, thumbnail=True)
        return _Image(tiles * sizes.grid**2 // sizes.merge**2, tiles * sizes.grid**2, sizes.grid**2 + 1, sizes.grid**2)
    merge = vision.spatial_merge_size
    units = max(1, round(side / (vision.patch_size * merge)))
    patches = (units * merge) ** 2
    window = min((vision.window_size // vision.patch_size) ** 2, patches)
    return _Image(patches // merge**2, patches, window, 64)


def _triangle(count: int) -> int:
    return count * (count + 1) // 2
