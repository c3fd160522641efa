"""Image files: found under one root, size known from the header, decoded in full to RGB, every fault a `UserError`."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import shown

ImageSize = tuple[int, int]
"""Height and width in pixels."""

MAX_ASPECT_RATIO = 200
"""An image longer than this many times its width, or the other way round, is refused: Qwen's resizing, the strictest, would."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""What is decoded. Pillow knows more, some by calling other programs (EPS), which data from strangers must not reach."""
MAX_FILE_BYTES = 1 << 29
"""A larger file is refused before it is read."""

_STACKS = ("GIF", "TIFF", "WEBP", "PNG")
"""Formats that hold several frames. The second image in a camera's JPEG is its preview, or a depth map."""

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_WIDE_CHANNELS = re.compile(r"(RGB|RGBA|LA);16([LBN])")
"""Pillow's names for 16 bits a channel as they lie in the file; it would give their high bytes alone, which are nearly black in a
12-bit scan. N is the machine's own order."""
_BLOCK_PIXELS = 1 << 20
"""Of a wide image that are stretched at a time: its numbers in float64 would be several times the image."""

# Pillow warns of large images, and of damaged ones before it refuses them, in lines that name no file. Said once, for the
# whole process: `catch_warnings` in one thread would undo what another has set.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Colour profiles of scanners and notes of image editors are larger than Pillow's 1 MiB; the pixels beside them are whole.
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 25
# libtiff writes lines of its own to stderr, with a file's text in them; Pillow raises besides.
for _handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
    with contextlib.suppress(AttributeError, OSError):  # a Pillow without libtiff, or one that keeps its names to itself
        ctypes.CDLL(Image.core.__file__)[_handler](ctypes.c_void_p(None))


@dataclass(frozen=True)
class CheckedImage:
    """What is known of an image file that was looked at once."""

    digest: bytes
    """Of the file."""
    size: ImageSize
    is_stack: bool
    """Whether it holds several frames."""


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
    except RuntimeError:  # of Python before 3.13
        raise UserError(f"image {shown} is, or lies behind, a link that leads back to itself; put the file there") from None
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


def check_image(data: bytes, name: str, max_image_pixels: int, *, decode: bool = True) -> CheckedImage:
    """Looks at an image file, by default at its pixels too.

    Raises:
        UserError: As `decode_image`; without `decode`, as `image_size`.
    """
    if decode:
        image = decode_image(data, name, max_image_pixels)
        size = image.height, image.width
    else:
        size = image_size(data, name, max_image_pixels)
    try:
        with _open(data, max_image_pixels) as image:
            is_stack = image.format in _STACKS and bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame is damaged, and not used
        is_stack = True
    return CheckedImage(hashlib.sha256(data).digest(), size, is_stack)


def describe_stacks(names: Iterable[str]) -> str | None:
    """What a user hears of image files that hold several frames; None if there are none."""
    if not (stacks := sorted(set(names))):
        return None
    examples = ", ".join(repr(shown(name)) for name in stacks[:3]) + (", …" if len(stacks) > 3 else "")
    return f"{counted(len(stacks), 'image file')} with several frames (a stack or an animation), of which the first is used: {examples}"


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

    Transparency is laid over white. Values wider than 8 bits (12- or 16-bit scans) are stretched from their own range to
    0–255, all colours alike, since the bit depth in use is not written in the file.

    Raises:
        UserError: As `image_size`, and for a truncated or damaged file.
    """
    try:
        with _open(data, max_image_pixels) as image:
            raw = _raw_mode(image)  # before anything, such as a look for an orientation tag, decodes the pixels
            _checked_size(image, name, max_image_pixels)
            if raw is not None and ";16" in raw and image.mode not in _WIDE_MODES:
                return _upright(_wide_to_rgb(image, raw, data, name, max_image_pixels), image)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Exception as error:
        raise _broken(name, max_image_pixels, error) from None


def open_wide_grey(data: bytes, name: str, max_image_pixels: int) -> np.ndarray | None:
    """The values [H, W] of a grey image of more than 8 bits, upright; None of any other image.

    Raises:
        UserError: As `decode_image`.
    """
    try:
        with _open(data, max_image_pixels) as image:
            if image.mode not in _WIDE_MODES:
                return None
            _checked_size(image, name, max_image_pixels)
            image.load()
            return np.asarray(ImageOps.exif_transpose(image))
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
    stretched = Image.fromarray(_stretched(np.asarray(image)))
    if (alpha := _alpha_of_key(np.asarray(image)[..., None], image)) is not None:
        stretched.putalpha(Image.fromarray(alpha))
    return stretched


def _alpha_of_key(values: np.ndarray, image: Image.Image) -> np.ndarray | None:
    """Opacity [H, W] of numbers [H, W, C] where a PNG names one colour that is transparent."""
    key = image.info.get("transparency")
    if not isinstance(key, int | tuple):
        return None
    return np.where((values == np.asarray(key)).all(axis=-1), 0, 255).astype(np.uint8)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Numbers [H, W, …] from their own range to 0–255; what is not finite counts as zero."""
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK_PIXELS * len(values) // max(1, values.size))
    blocks = [slice(start, start + rows) for start in range(0, len(values), rows)]

    def finite(block: slice) -> np.ndarray:
        return np.nan_to_num(values[block].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)

    low, high = min(finite(block).min() for block in blocks), max(finite(block).max() for block in blocks)
    for block in blocks:
        result[block] = np.round((finite(block) - low) * (255.0 / (high - low))) if high > low else 0
    return result


def _raw_mode(image: Image.Image) -> str | None:
    """How the pixels of an image that is not decoded yet lie in the file."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else None


def _wide_to_rgb(image: Image.Image, raw: str, data: bytes, name: str, max_image_pixels: int) -> Image.Image:
    """An image of 16 bits a channel: decoded once for the high bytes and once, as if in the other order, for the low ones."""
    known = _WIDE_CHANNELS.fullmatch(raw)
    if known is None:
        raise UserError(f"image {name!r} has 16 bits a channel in a form ({raw}) that is not read; convert it to 8 bits, or to RGB or grey")
    channels, order = known.groups()
    here = "L" if sys.byteorder == "little" else "B"
    swapped = "B" if (here if order == "N" else order) == "L" else "L"
    with _open(data, max_image_pixels) as again:
        _read_as(again, raw, "RGBA" if channels == "LA" else f"{channels};16{swapped}")
        again.load()
        other = np.asarray(again)
    alpha: np.ndarray | None = None
    if channels == "LA":  # read as four bytes a pixel: high and low of grey, and of alpha
        colours, alpha = other[..., :1].astype(np.uint16) << 8 | other[..., 1:2], other[..., 2]
    else:
        image.load()
        high = np.asarray(image)
        colours = high[..., :3].astype(np.uint16) << 8 | other[..., :3]
        alpha = high[..., 3] if channels == "RGBA" else _alpha_of_key(colours, image)
    eight = np.broadcast_to(_stretched(colours), (*colours.shape[:2], 3))
    return _to_rgb(Image.fromarray(np.ascontiguousarray(eight if alpha is None else np.dstack([eight, alpha]))))


def _read_as(image: Image.Image, raw: str, other: str) -> None:
    """Makes an image that is not decoded yet take the file's bytes for another mode's."""

    def changed(arguments: Any) -> Any:
        return tuple(other if one == raw else one for one in arguments) if isinstance(arguments, tuple) else other

    assert isinstance(image, ImageFile.ImageFile), "it comes from a file"
    image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]


def _upright(image: Image.Image, original: Image.Image) -> Image.Image:
    """Turned as the original's orientation tag says; of a TIFF, Pillow has done so when it was loaded."""
    if original.format != "TIFF" and (orientation := original.getexif().get(_ORIENTATION_TAG)):
        image.getexif()[_ORIENTATION_TAG] = orientation
    return ImageOps.exif_transpose(image)


def _broken(name: str, max_image_pixels: int, error: Exception) -> UserError:
    if isinstance(error, Image.DecompressionBombError):
        # More than twice Pillow's limit, which is never below ours; its message begins with the number of pixels.
        pixels = re.search(r"\d+", str(error))
        return _too_large(name, f"{int(pixels[0]):,}" if pixels else "far too many", max_image_pixels)
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(f"image {name!r} is not an image that Pillow can read; convert it to PNG or JPEG")
    if "MAX_TEXT_CHUNK" in str(error) or "text memory" in str(error).lower():
        return UserError(f"image {name!r} holds too much beside its pixels (a colour profile, or notes); save it without metadata")
    return UserError(f"image {name!r} is truncated or damaged ({error}); replace the file")


def _too_large(name: str, pixels: str, max_image_pixels: int) -> UserError:
    return UserError(
        f"image {name!r} has {pixels} pixels, more than data.max_image_pixels={max_image_pixels:,}; shrink it or raise the limit"
    )
