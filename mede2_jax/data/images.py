"""Image files: found under one root, size known from the header, decoded in full to RGB, every fault a `UserError`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mede2_jax.config import UserError

MAX_ASPECT_RATIO = 200
"""Qwen's resizing refuses images that are longer than this many times their width, or the other way round."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""What is decoded. Pillow knows more, some by calling other programs (EPS), which data from strangers must not reach."""
MAX_FILE_BYTES = 1 << 29
"""A larger file is refused before it is read."""

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def resolve_image(root: Path, name: str) -> Path:
    """The file an image name stands for.

    Raises:
        UserError: The file lies outside `root` (also through `..` or a symbolic link), or there is none.
    """
    if "://" in name or name.startswith("data:"):
        raise UserError(f"image {name[:80]!r} is not a file; download images and give their paths")
    root = root.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise UserError(f"image {name!r} lies outside the image root {str(root)!r}; set data.image_root to a folder that holds all images")
    if not path.is_file():
        raise UserError(f"image {name!r} not found at {str(path)!r}; set data.image_root if image paths start elsewhere")
    return path


def read_image_bytes(root: Path, name: str) -> bytes:
    """The bytes of an image file under `root`."""
    path = resolve_image(root, name)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"image {name!r} is a file of {path.stat().st_size:,} bytes, more than {MAX_FILE_BYTES:,}; make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"image {name!r} cannot be read: {error.strerror}") from None


def image_size(data: bytes, name: str, max_image_pixels: int) -> tuple[int, int]:
    """(height, width) in pixels, upright as its orientation tag says, from the header.

    Raises:
        UserError: Not an image, more than `max_image_pixels`, or an extreme aspect ratio.
    """
    # Pillow's plugins raise whatever their parsers meet (OSError, SyntaxError, struct.error, …): all mean a broken file.
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _checked_size(image, name, max_image_pixels)
    except UserError:
        raise
    except Exception as error:
        raise _broken(name, error) from None


def decode_image(data: bytes, name: str, max_image_pixels: int) -> Image.Image:
    """The upright RGB image; of an animation or a stack, the first frame.

    Transparency is laid over white. Grey values wider than 8 bits (12- or 16-bit scans) are stretched from their own
    range to 0–255, since the bit depth in use is not written in the file.

    Raises:
        UserError: As `image_size`, and for a truncated or damaged file.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _checked_size(image, name, max_image_pixels)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Exception as error:
        raise _broken(name, error) from None


def _checked_size(image: Image.Image, name: str, max_image_pixels: int) -> tuple[int, int]:
    width, height = image.size
    if width * height > max_image_pixels:
        raise UserError(
            f"image {name!r} has {width}×{height} = {width * height:,} pixels, more than data.max_image_pixels={max_image_pixels:,}; "
            "shrink it or raise the limit"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UserError(f"image {name!r} is {width}×{height}: longer than {MAX_ASPECT_RATIO} times its other side; crop it")
    if image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS:
        width, height = height, width
    return height, width


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_MODES:
        image = _stretch(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _stretch(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def _broken(name: str, error: Exception) -> UserError:
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"image {name!r} is enormous: {error}; shrink it")
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(f"image {name!r} is not an image that Pillow can read; convert it to PNG or JPEG")
    return UserError(f"image {name!r} is truncated or damaged ({error}); replace the file")
