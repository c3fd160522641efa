"""Image files: found under one root, size known from the header, decoded in full to RGB, every fault a `UserError`."""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mede2_jax.config import UserError

ImageSize = tuple[int, int]
"""Height and width in pixels."""

MAX_ASPECT_RATIO = 200
"""An image longer than this many times its width, or the other way round, is refused: Qwen's resizing, the strictest, would."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""What is decoded. Pillow knows more, some by calling other programs (EPS), which data from strangers must not reach."""
MAX_FILE_BYTES = 1 << 29
"""A larger file is refused before it is read."""

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

# Pillow warns of large images, and of damaged ones before it refuses them, in lines that name no file. Said once, for the
# whole process: `catch_warnings` in one thread would undo what another has set.
warnings.filterwarnings("ignore", module=r"PIL\.")


def resolve_image(root: Path, name: str) -> Path:
    """The file an image name stands for.

    In a snapshot of huggingface_hub's cache files are links to the blobs beside it; these are followed.

    Raises:
        UserError: The file lies outside `root` (also through `..` or a symbolic link), or there is none.
    """
    shown = repr(name if len(name) <= 80 else name[:79] + "…")
    if "://" in name or name.startswith("data:"):
        raise UserError(f"image {shown} is not a file; download images and give their paths (without 'file://')")
    root = root.resolve()
    try:
        path = (root / name).resolve()
        found = path.is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character: most likely the image's own bytes
        raise UserError(f"image {shown} is no path; save images as files and give their paths") from None
    if not path.is_relative_to(root) and not _is_hub_link(root, name, path):
        if _is_within(root, name):
            cure = "copy the folder with its links followed (cp -rL)"
            raise UserError(f"image {name!r} is a link out of the image root {str(root)!r}, to {str(path)!r}; {cure}")
        raise UserError(f"image {name!r} lies outside the image root {str(root)!r}; set (data.)image_root to a folder that holds them all")
    if not found:
        raise UserError(f"image {name!r} not found at {str(path)!r}; set (data.)image_root if image paths start elsewhere")
    return path


def _is_within(root: Path, name: str) -> bool:
    """Whether a name stays under `root` but for links."""
    return Path(os.path.normpath(root / name)).is_relative_to(root)


def _is_hub_link(root: Path, name: str, path: Path) -> bool:
    """Whether an image of REPOSITORY/snapshots/REVISION is a link to a file of REPOSITORY/blobs. All links of `path` are followed."""
    repository = next((folder.parent.parent for folder in (root, *root.parents) if folder.parent.name == "snapshots"), None)
    return repository is not None and path.is_relative_to(repository / "blobs") and _is_within(root, name)


def read_image_bytes(root: Path, name: str) -> bytes:
    """The bytes of an image file under `root`."""
    path = resolve_image(root, name)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"image {name!r} is a file of {path.stat().st_size:,} bytes, more than {MAX_FILE_BYTES:,}; make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"image {name!r} cannot be read: {error.strerror}") from None


def image_size(data: bytes, name: str, max_image_pixels: int) -> ImageSize:
    """(height, width) in pixels, upright as its orientation tag says, from the header.

    Raises:
        UserError: Not an image, more than `max_image_pixels`, or an extreme aspect ratio.
    """
    # Pillow's plugins raise whatever their parsers meet (OSError, SyntaxError, struct.error, …): all mean a broken file.
    try:
        with _open(data, max_image_pixels) as image:
            return _checked_size(image, name, max_image_pixels)
    except UserError:
        raise
    except Exception as error:
        raise _broken(name, max_image_pixels, error) from None


def decode_image(data: bytes, name: str, max_image_pixels: int) -> Image.Image:
    """The upright RGB image; of an animation or a stack, the first frame.

    Transparency is laid over white. Grey values wider than 8 bits (12- or 16-bit scans) are stretched from their own
    range to 0–255, since the bit depth in use is not written in the file.

    Raises:
        UserError: As `image_size`, and for a truncated or damaged file.
    """
    try:
        with _open(data, max_image_pixels) as image:
            _checked_size(image, name, max_image_pixels)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Exception as error:
        raise _broken(name, max_image_pixels, error) from None


def _open(data: bytes, max_image_pixels: int) -> Image.Image:
    """Reads the header. Nothing is decoded before `_checked_size` has compared its size with our limit.

    Pillow's own limit would refuse some images that ours admits. It stays, since a few plugins allocate while they read the
    header and ask only it; it counts for the whole process, and is only ever raised, so no thread takes from another.
    """
    if (theirs := Image.MAX_IMAGE_PIXELS) is not None and theirs < max_image_pixels:
        Image.MAX_IMAGE_PIXELS = max_image_pixels
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _checked_size(image: Image.Image, name: str, max_image_pixels: int) -> ImageSize:
    width, height = image.size
    if width * height > max_image_pixels:
        raise _too_large(name, f"{width}×{height} = {width * height:,}", max_image_pixels)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UserError(f"image {name!r} is {width}×{height}: longer than {MAX_ASPECT_RATIO} times its other side; crop it")
    # Of a TIFF, Pillow gives the upright size from the start.
    if image.format != "TIFF" and image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS:
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


def _broken(name: str, max_image_pixels: int, error: Exception) -> UserError:
    if isinstance(error, Image.DecompressionBombError):
        # More than twice Pillow's limit, which is never below ours; its message begins with the number of pixels.
        pixels = re.search(r"\d+", str(error))
        return _too_large(name, f"{int(pixels[0]):,}" if pixels else "far too many", max_image_pixels)
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(f"image {name!r} is not an image that Pillow can read; convert it to PNG or JPEG")
    return UserError(f"image {name!r} is truncated or damaged ({error}); replace the file")


def _too_large(name: str, pixels: str, max_image_pixels: int) -> UserError:
    return UserError(
        f"image {name!r} has {pixels} pixels, more than data.max_image_pixels={max_image_pixels:,}; shrink it or raise the limit"
    )
