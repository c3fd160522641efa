"""What rows need from a model family's processor, and how an encoded image looks. P patches, U merged units, T tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int32
from PIL import Image

from mede2_jax.data.chat import ChatTokenizer

Grid = tuple[int, int]
"""Height and width of an image in patches."""


@dataclass(frozen=True)
class ImageGeometry:
    """Where the patches and units of one image lie; indices count from the image's own first patch or unit."""

    unit_order: Int32[np.ndarray, " U"]
    """Raster index of the unit stored k-th."""
    unit_index: Int32[np.ndarray, " U"]
    """Storage index of the k-th unit in raster order."""
    patch_positions: Int32[np.ndarray, "P 2"]
    """Row and column of each stored patch in the image's grid."""
    window_start: Int32[np.ndarray, " P"]
    window_end: Int32[np.ndarray, " P"]


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

    @property
    def fingerprint(self) -> str:
        """A digest of everything that turns a record into numbers."""

    def grid(self, height: int, width: int) -> Grid:
        """The patch grid of an image of height × width pixels."""

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """Cuts an RGB image into patches in storage order."""

    def token_repeats(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """How often each token is repeated: an image placeholder as often as its image takes tokens, others once."""

    def positions(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, "3 T"]:
        """Rotary positions of a widened token sequence."""

    def image_index(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """For each image token the merged unit in storage that replaces it, counted over all images; -1 for text."""
