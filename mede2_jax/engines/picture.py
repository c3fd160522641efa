"""An image file in a request: its bytes, and what its pixels are. The pixels themselves, ten times as much, are not kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from PIL import Image

from mede2_jax.data.images import decode_image


@dataclass(frozen=True)
class Picture:
    """A file that was decoded once, to see that it can be and what it shows. Made by `read`."""

    data: bytes
    """The file."""
    size: tuple[int, int]
    """Width and height in pixels, upright."""
    pixels: str
    """`pixel_digest` of what it shows."""
    name: str
    max_image_pixels: int

    @classmethod
    def read(cls, data: bytes, name: str, max_image_pixels: int) -> Self:
        """Decodes a file.

        Raises:
            UserError: As `decode_image`.
        """
        image = decode_image(data, name, max_image_pixels)
        return cls(data, image.size, pixel_digest(image), name, max_image_pixels)

    def image(self) -> Image.Image:
        """The upright RGB image."""
        return decode_image(self.data, self.name, self.max_image_pixels)


def pixel_digest(image: Image.Image | Picture) -> str:
    """Digest of what an image shows as RGB, whatever file it came from."""
    if isinstance(image, Picture):
        return image.pixels
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()
