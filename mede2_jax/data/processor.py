"""What rows need from a model family's processor, its options, and how an encoded image looks.

P patches, U merged units, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydantic
from jaxtyping import Bool, Float32, Int32
from PIL import Image

from mede2_jax.config import Config, UserError
from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT, ChatTokenizer

Grid = tuple[int, int]
"""Height and width of an image in patches."""


class ProcessorOptions(Config):
    """How images and conversations are prepared. A family refuses the image options that it does not know."""

    min_pixels: int | None = None
    """Smallest image area after resizing, for families that keep an image's shape; none: the model directory's."""
    max_pixels: int | None = None
    """Largest image area after resizing, for families that keep an image's shape; none: the model directory's."""
    crop_to_patches: bool | None = None
    """Cut an image into tiles, for families with tiles of one size; off: one tile an image; none: the model directory's."""
    min_tiles: int | None = None
    """Fewest tiles of an image that is cut, the thumbnail not counted; none: the model directory's."""
    max_tiles: int | None = None
    """Most tiles of an image that is cut, the thumbnail not counted; none: the model directory's."""
    system_prompt: str = pydantic.Field(default=DEFAULT_SYSTEM_PROMPT, min_length=1)
    """For conversations without a system turn: default is the chat template's own (if it has one), none is no system turn,
    anything else is the text of one. Inference must use the same: it is part of the prompt, not of the model directory."""

    @pydantic.field_validator("system_prompt", mode="before")
    @classmethod
    def _is_written_out(cls, value: Any) -> Any:
        if value in (None, "", False):
            raise ValueError("write none for no system turn, or default for the chat template's own")
        return value

    def check_known(self, family: str, *known: str) -> None:
        """Refuses an image option that `family` does not have; `known` are those it has."""
        for name in ProcessorOptions.model_fields:
            if name not in (*known, "system_prompt") and (value := getattr(self, name)) is not None:
                have = ", ".join(f"data.{other}" for other in known)
                raise UserError(f"{family} has no data.{name} (found {value}); leave it out (its image options: {have})")


@dataclass(frozen=True)
class ImageGeometry:
    """Where the patches and units of one image lie; indices count from the image's own first patch or unit."""

    unit_order: Int32[np.ndarray, " U"]
    """Raster index of the unit stored k-th."""
    unit_index: Int32[np.ndarray, " U"]
    """Storage index of the k-th unit in raster order."""
    patch_positions: Int32[np.ndarray, "P 2"]
    """Row and column of each stored patch in the image's grid, or in its tile."""
    window_start: Int32[np.ndarray, " P"]
    window_end: Int32[np.ndarray, " P"]
    """The stored patches that share the patch's window, or its tile."""


@dataclass(frozen=True)
class EncodedImage:
    """An image's patches in storage order, with their geometry."""

    patches: Float32[np.ndarray, "P C"]
    geometry: ImageGeometry


class Processor(Protocol):
    """Tokenizer, chat template and image processing of one model."""

    chat: ChatTokenizer
    pad_token_id: int
    patch_dim: int
    patch_multiple: int
    """The patches of a row must be a multiple of this."""
    position_axes: int
    """Axes of a token's position."""

    @property
    def vllm_image(self) -> str | None:
        """The text that a vLLM server puts an image for, where it is not the image token: no text of a request may hold it."""

    @property
    def vllm_chat_template(self) -> str | None:
        """The chat template that a vLLM server must be given, since it has its own name for an image; None: the directory's serves."""

    def save(self, directory: str | Path, *, images: bool = True) -> None:
        """Writes the files it is loaded from, with the image options in use unless no `images` were seen."""

    @property
    def fingerprint(self) -> str:
        """A digest of everything that turns a record into numbers."""

    def grid(self, height: int, width: int) -> Grid:
        """The patch grid of an image of height × width pixels."""

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """Cuts an RGB image into patches in storage order."""

    def token_repeats(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """How often each token is repeated: an image placeholder as often as its image takes tokens, others once."""

    def positions(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, "*A T"]:
        """Rotary positions of a widened token sequence: [axes, T], or [T] when there is one axis."""

    def image_index(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """For each image token the merged unit in storage that replaces it, counted over all images; -1 for text."""


def repeat_placeholders(is_image: Bool[np.ndarray, " T"], counts: Sequence[int]) -> Int32[np.ndarray, " T"]:
    """How often each token is repeated: the k-th image placeholder `counts[k]` times, other tokens once.

    Raises:
        UserError: There are more or fewer placeholders than images.
    """
    if is_image.sum() != len(counts):
        raise UserError(
            f"the chat template wrote {int(is_image.sum())} image placeholders for {len(counts)} images; it must write one each"
        )
    repeats = np.ones(len(is_image), dtype=np.int32)
    repeats[is_image] = counts
    return repeats
