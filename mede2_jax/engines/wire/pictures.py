"""Pictures as they travel."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_url(image: Image.Image) -> str:
    """An RGB image as a `data:` URL of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: Image.Image) -> bytes:
    """An image's RGB pixels as PNG, which loses nothing."""
    buffer = io.BytesIO()
    # A copy of the pixels alone: a colour profile or a transparent colour of the file would go into the PNG as well.
    Image.frombytes("RGB", image.size, image.convert("RGB").tobytes()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
