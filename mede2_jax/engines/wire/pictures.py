"""Pictures as they travel: in their file's own compressed pixels where these show the very same, else as PNG, which loses nothing."""

from __future__ import annotations

import base64
import io

from PIL import Image

from mede2_jax.data.images import FORMATS
from mede2_jax.engines.picture import Picture, pixel_digest
from mede2_jax.engines.wire.own_bytes import own_bytes

MAX_OWN_BYTES = 15_000_000
"""A larger file is sent as PNG if that is smaller: with base64 around it, it would fill the 20 MB that APIs take in a request."""
PLAIN_MODES = ("RGB", "L", "P", "1")
"""Of which everybody makes the same RGB."""


def data_url(image: Image.Image | Picture) -> str:
    """An image as a `data:` URL."""
    kind, data = travelling(image)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def travelling(image: Image.Image | Picture) -> tuple[str, bytes]:
    """The MIME type and the bytes that an image is sent as.

    A file that is upright as it lies there goes as it is, but for its metadata; one with an orientation, transparency, several frames,
    CMYK or more than 8 bits goes as PNG of what it shows.
    """
    if isinstance(image, Image.Image):
        return "image/png", png(image)
    own = own_bytes(image.data)
    if own is None or not _shows(own[1], image):
        return "image/png", png(image.image())
    if len(own[1]) > MAX_OWN_BYTES and len(encoded := png(image.image())) < len(own[1]):
        return "image/png", encoded
    return own


def png(image: Image.Image) -> bytes:
    """An image's RGB pixels as PNG."""
    buffer = io.BytesIO()
    # A copy of the pixels alone: a colour profile or a transparent colour of the file would go into the PNG as well.
    Image.frombytes("RGB", image.size, image.convert("RGB").tobytes()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _shows(data: bytes, picture: Picture) -> bool:
    """Whether a plain reader of these bytes, who knows of no orientation, sees what the picture shows."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return image.mode in PLAIN_MODES and not image.has_transparency_data and pixel_digest(image) == picture.pixels
    except Exception:  # whatever Pillow's parsers meet: then it is sent as PNG
        return False
