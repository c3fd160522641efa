"""Qwen2.5-VL on the host: image sizes to grids, patches in window order, and mRoPE positions.

An image of height × width pixels becomes a grid of patches (14×14 pixels), merged 2×2 into units, one token a unit.
Patches are stored window after window (112×112 pixels), units in raster order inside a window, 4 patches a unit, so that
a window and an image are each one contiguous range.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int32
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.chat import ChatTokenizer
from mede2_jax.data.images import MAX_ASPECT_RATIO
from mede2_jax.data.processor import EncodedImage, Grid, ImageGeometry

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
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


class Qwen2_5VLProcessor:
    """Tokenizer, chat template and image processing of one model directory. Use `load`."""

    def __init__(self, directory: Path, tokenizer: Any, image_processor: Any, window_size: int) -> None:
        self.directory = directory
        self.image_processor = image_processor
        self.patch_size, self.merge = int(image_processor.patch_size), int(image_processor.merge_size)
        self.window_units = window_size // self.merge // self.patch_size
        self.patch_dim = 3 * int(image_processor.temporal_patch_size) * self.patch_size**2
        self.chat = ChatTokenizer(tokenizer, image_token=IMAGE_TOKEN, reserved=RESERVED_TOKENS)
        self.image_token_id, self.pad_token_id = self.chat.image_token_id, self.chat.pad_token_id

    @classmethod
    def load(cls, directory: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Self:
        """Opens the tokenizer and processor files of a model directory.

        Args:
            directory: Holds config.json, the tokenizer and the image processor's files.
            min_pixels: Smallest image area in pixels after resizing; None keeps the directory's.
            max_pixels: Largest one.

        Raises:
            UserError: A file is missing or unreadable, or the pixel limits contradict each other.
        """
        # transformers warns that there is no PyTorch; there is not meant to be.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        # Our own threads and processes tokenise in parallel; the tokenizer's pool would only get in their way.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        directory = Path(directory)
        vision = _read_json(directory / "config.json").get("vision_config", {})
        if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise UserError(f"{str(directory)!r} has no tokenizer.json (nor vocab.json); copy the model's tokenizer files there")
        if not any((directory / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            raise UserError(f"{str(directory)!r} has no preprocessor_config.json; copy the model's processor files there")
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
            images = Qwen2VLImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
        except Exception as error:  # a damaged tokenizer.json raises whatever its parser meets, a plain Exception among them
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"cannot load the tokenizer or image processor of {str(directory)!r}: {reason}") from None
        low = min_pixels if min_pixels is not None else images.size["shortest_edge"]
        high = max_pixels if max_pixels is not None else images.size["longest_edge"]
        unit = (images.patch_size * images.merge_size) ** 2
        if not 0 < low <= high or high < unit:
            raise UserError(
                f"min_pixels={low} and max_pixels={high} do not fit: need 0 < min_pixels <= max_pixels and max_pixels >= {unit}"
            )
        images.size = type(images.size)(**{"shortest_edge": low, "longest_edge": high})
        for name, ours in (("patch_size", images.patch_size), ("spatial_merge_size", images.merge_size)):
            if vision.get(name, ours) != ours:
                raise UserError(f"{directory}: vision {name} is {vision[name]} in config.json but {ours} in the image processor")
        return cls(directory, tokenizer, images, int(vision.get("window_size", 112)))

    @property
    def min_pixels(self) -> int:
        """Smallest image area in pixels after resizing."""
        return int(self.image_processor.size["shortest_edge"])

    @property
    def max_pixels(self) -> int:
        """Largest image area in pixels after resizing."""
        return int(self.image_processor.size["longest_edge"])

    def save(self, directory: str | Path) -> None:
        """Copies the tokenizer and processor files and writes the pixel limits in use, so that inference uses the same."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        for name in PROCESSOR_FILES:
            source = self.directory / name
            if source.is_file() and source.resolve() != (target / name).resolve():
                shutil.copyfile(source, target / name)
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        size = {"size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}}
        own, combined = target / "preprocessor_config.json", target / "processor_config.json"
        # Older readers know min_pixels and max_pixels, newer ones `size`, newest ones the nested file: all must agree.
        settings = _read_json(own) if own.is_file() else self.image_processor.to_dict()
        _write_json(own, settings | limits | size)
        if combined.is_file() and "image_processor" in (nested := _read_json(combined)):
            _write_json(combined, nested | {"image_processor": nested["image_processor"] | limits | size})

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of everything that turns a record into numbers."""
        images = {name: str(value) for name, value in sorted(self.image_processor.to_dict().items())}
        images |= {"min_pixels": str(self.min_pixels), "max_pixels": str(self.max_pixels)}
        tokenizer = self.chat.tokenizer
        parts = (json.dumps(images), str(self.window_units), str(tokenizer.chat_template), tokenizer.backend_tokenizer.to_str())
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
        places = tokens == self.image_token_id
        if places.sum() != len(grids):
            raise UserError(
                f"the chat template wrote {int(places.sum())} image placeholders for {len(grids)} images; it must write one each"
            )
        repeats = np.ones(len(tokens), dtype=np.int32)
        repeats[places] = [self.image_tokens(grid) for grid in grids]
        return repeats

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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error.msg} at line {error.lineno}") from None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
