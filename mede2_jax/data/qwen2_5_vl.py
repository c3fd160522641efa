"""Qwen2.5-VL on the host: image sizes to grids, patches in window order, and mRoPE positions.

An image of height × width pixels becomes a grid of patches (14×14 pixels), merged 2×2 into units, one token a unit.
Patches are stored window after window (112×112 pixels), units in raster order inside a window, 4 patches a unit, so that
a window and an image are each one contiguous range.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
from jaxtyping import Int32
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.chat import ChatTokenizer
from mede2_jax.data.chat_templates import load_tokenizer
from mede2_jax.data.images import MAX_ASPECT_RATIO
from mede2_jax.data.processor import EncodedImage, Grid, ImageGeometry, ProcessorOptions, repeat_placeholders
from mede2_jax.data.processor_files import (
    PREPROCESSOR,
    DecoderFile,
    check_files,
    load_images,
    quiet_transformers,
    save_files,
)
from mede2_jax.foreign import shown
from mede2_jax.json_file import Count, Foreign, load_checked

MOST_PIXELS = 2**40
"""Of an image: what is more could not be counted with, and says that there is no limit."""
IMAGE_TOKEN = "<|image_pad|>"
RESERVED_TOKENS = (
    IMAGE_TOKEN,
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
)


class _Vision(Foreign):
    """Of config.json's `vision_config`: what the host needs."""

    patch_size: Count | None = None
    spatial_merge_size: Count | None = None
    temporal_patch_size: Count | None = None
    window_size: Count = 112


class _Config(DecoderFile):
    """Of config.json."""

    text_config: DecoderFile = DecoderFile()
    vision_config: _Vision = _Vision()


class _Patches(Foreign):
    """Of the image processor."""

    do_resize: Literal[True]
    patch_size: Annotated[int, pydantic.Field(gt=0, le=1024)]
    merge_size: Annotated[int, pydantic.Field(gt=0, le=64)]
    temporal_patch_size: Annotated[int, pydantic.Field(gt=0, le=64)]


class Qwen2_5VLProcessor:
    """Tokenizer, chat template and image processing of one model directory. Use `load`."""

    patch_multiple = 64
    position_axes = 3
    vllm_image = None
    vllm_chat_template = None

    def __init__(self, directory: Path, chat: ChatTokenizer, image_processor: Any, window_size: int) -> None:
        self.directory, self.chat = directory, chat
        self.image_processor = image_processor
        self.patch_size, self.merge = int(image_processor.patch_size), int(image_processor.merge_size)
        self.window_units = window_size // self.merge // self.patch_size
        self.patch_dim = 3 * int(image_processor.temporal_patch_size) * self.patch_size**2
        self.image_token_id, self.pad_token_id = chat.image_token_id, chat.pad_token_id

    @classmethod
    def load(cls, directory: str | Path, options: ProcessorOptions | None = None) -> Self:
        """Opens the tokenizer and processor files of a model directory.

        Args:
            directory: Holds config.json, the tokenizer and the image processor's files.
            options: Of these min_pixels, max_pixels and system_prompt.

        Raises:
            UserError: A file is missing or unreadable, an option is not one of these, or the pixel limits contradict each other.
        """
        quiet_transformers()
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        directory, options = Path(directory), options or ProcessorOptions()
        options.check_known("Qwen2.5-VL", "min_pixels", "max_pixels")
        vision = load_checked(directory / "config.json", _Config).vision_config
        check_files(directory)
        tokenizer = load_tokenizer(directory)
        images = load_images(Qwen2VLImageProcessorPil, directory, _Patches)
        low = options.min_pixels if options.min_pixels is not None else _edge(directory, images, "shortest_edge")
        high = options.max_pixels if options.max_pixels is not None else _edge(directory, images, "longest_edge")
        unit = (images.patch_size * images.merge_size) ** 2
        if not 0 < low <= high or high < unit or low > MOST_PIXELS:
            raise UserError(
                f"min_pixels={shown(low)} and max_pixels={shown(high)} do not fit: need 0 < min_pixels <= max_pixels, "
                f"min_pixels <= {MOST_PIXELS} and max_pixels >= {unit}"
            )
        high = min(high, MOST_PIXELS)  # no image comes near
        images.size = type(images.size)(**{"shortest_edge": low, "longest_edge": high})
        for name, ours in (
            ("patch_size", images.patch_size),
            ("spatial_merge_size", images.merge_size),
            ("temporal_patch_size", images.temporal_patch_size),
        ):
            if (theirs := getattr(vision, name)) not in (None, ours):
                raise UserError(f"{directory}: vision {name} is {theirs} in config.json but {ours} in the image processor")
        if vision.window_size < images.patch_size * images.merge_size:
            raise UserError(f"{directory}: vision window_size is {vision.window_size} in config.json, less than a merged patch")
        chat = ChatTokenizer(tokenizer, image_token=IMAGE_TOKEN, reserved=RESERVED_TOKENS, system_prompt=options.system_prompt)
        return cls(directory, chat, images, vision.window_size)

    @property
    def min_pixels(self) -> int:
        """Smallest image area in pixels after resizing."""
        return int(self.image_processor.size["shortest_edge"])

    @property
    def max_pixels(self) -> int:
        """Largest image area in pixels after resizing."""
        return int(self.image_processor.size["longest_edge"])

    def save(self, directory: str | Path, *, images: bool = True) -> None:
        """Copies the tokenizer and processor files and writes the pixel limits in use, so that inference uses the same.

        Without `images` the limits stay as they were: a run that saw no image has nothing to say of them.
        """
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        # Older readers know min_pixels and max_pixels, newer ones `size`: all must agree.
        size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        save_files(self.directory, Path(directory), self.image_processor, {**limits, "size": size} if images else {})

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of everything that turns a record into numbers."""
        images = {name: str(value) for name, value in sorted(self.image_processor.to_dict().items())}
        images |= {"min_pixels": str(self.min_pixels), "max_pixels": str(self.max_pixels)}
        parts = (json.dumps(images), str(self.window_units), self.chat.fingerprint)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def grid(self, height: int, width: int) -> Grid:
        """The patch grid of an image of height × width pixels.

        Raises:
            UserError: One side is more than 200 times the other.
        """
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise UserError(f"an image of {width}×{height} pixels is longer than {MAX_ASPECT_RATIO} times its other side; crop it")
        factor = self.patch_size * self.merge
        rows, columns = smart_resize(height, width, factor, self.min_pixels, self.max_pixels)
        return rows // self.patch_size, columns // self.patch_size

    def image_tokens(self, grid: Grid) -> int:
        """How many tokens an image takes."""
        return grid[0] * grid[1] // self.merge**2

    def geometry(self, grid: Grid) -> ImageGeometry:
        """Where the image's patches lie in storage."""
        return image_geometry(grid, self.merge, self.window_units)

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """Resizes, normalises and cuts an RGB image into patches in window order."""
        output = self.image_processor(image, return_tensors="np")
        _, height, width = (int(side) for side in output["image_grid_thw"][0])
        geometry = self.geometry((height, width))
        units = output["pixel_values"].reshape(len(geometry.unit_order), self.merge**2, self.patch_dim)
        return EncodedImage(units[geometry.unit_order].reshape(-1, self.patch_dim), geometry)

    def token_repeats(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """How often each token is repeated: an image placeholder as often as its image takes tokens, others once.

        Raises:
            UserError: The template wrote another number of placeholders than there are images.
        """
        return repeat_placeholders(tokens == self.image_token_id, [self.image_tokens(grid) for grid in grids])

    def positions(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, "3 T"]:
        """mRoPE positions (time, height, width) of a token sequence whose images are `grids`."""
        return mrope_positions(tokens == self.image_token_id, grids, self.merge)

    def image_index(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """For each image token the merged unit in storage that replaces it, counted over all images; -1 for text."""
        index = np.full(len(tokens), -1, dtype=np.int32)
        base, units = 0, []
        for grid in grids:
            units.append(self.geometry(grid).unit_index + base)
            base += self.image_tokens(grid)
        if units:
            index[tokens == self.image_token_id] = np.concatenate(units)
        return index


def _edge(directory: Path, images: Any, name: str) -> int:
    """A limit of the image area that the image processor's files set."""
    value = getattr(images.size, name, None)
    if type(value) is not int:
        raise UserError(
            f"{directory / PREPROCESSOR}: size.{name} must be a whole number (got {shown(value)}); or give both limits of pixels"
        )
    return value


@functools.lru_cache(maxsize=512)
def image_geometry(grid: Grid, merge: int, window_units: int) -> ImageGeometry:
    """Storage order, positions and window ranges of the patches of one image.

    Args:
        grid: Patches high and wide, both multiples of `merge`.
        merge: Patches a unit is high and wide.
        window_units: Units a window is high and wide.
    """
    high, wide = grid[0] // merge, grid[1] // merge
    rows, columns = (axis.ravel() for axis in np.mgrid[:high, :wide])
    window = rows // window_units * -(-wide // window_units) + columns // window_units
    order = np.argsort(window, kind="stable")
    index = np.empty_like(order)
    index[order] = np.arange(len(order))
    inner_rows, inner_columns = (axis.ravel() for axis in np.mgrid[:merge, :merge])
    positions = np.stack(
        [rows[order, None] * merge + inner_rows, columns[order, None] * merge + inner_columns],
        axis=-1,
    ).reshape(-1, 2)
    per_patch = np.repeat(window[order], merge**2)
    as_int32 = functools.partial(np.asarray, dtype=np.int32)
    return ImageGeometry(
        unit_order=as_int32(order),
        unit_index=as_int32(index),
        patch_positions=as_int32(positions),
        window_start=as_int32(np.searchsorted(per_patch, per_patch, side="left")),
        window_end=as_int32(np.searchsorted(per_patch, per_patch, side="right")),
    )


def mrope_positions(is_image: np.ndarray, grids: Sequence[Grid], merge: int) -> Int32[np.ndarray, "3 T"]:
    """Positions of a sequence: text counts up on all three axes; an image starts at the next position, spreads over
    height and width, and the text after it goes on from the largest position + 1.

    Args:
        is_image: [T] bool, true for image tokens.
        grids: The images' grids in order.
        merge: Patches a unit is high and wide.
    """
    positions = np.empty((3, len(is_image)), dtype=np.int32)
    at, following = 0, 0
    image_starts = iter(grids)
    while at < len(is_image):
        if is_image[at]:
            high, wide = (side // merge for side in next(image_starts))
            rows, columns = (axis.ravel() for axis in np.mgrid[:high, :wide])
            end = at + high * wide
            positions[:, at:end] = np.stack([np.zeros_like(rows), rows, columns]) + following
            following += max(high, wide)
        else:
            later = np.flatnonzero(is_image[at:])
            end = at + int(later[0]) if len(later) else len(is_image)
            positions[:, at:end] = np.arange(end - at) + following
            following += end - at
        at = end
    return positions
