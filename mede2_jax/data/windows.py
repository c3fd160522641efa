"""Grey images of more than 8 bits, as scanners and DICOM exports have them, through a window that is said."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from mede2_jax.data.images import open_wide_grey


class Window(NamedTuple):
    """Values that become black and white; between them grey grows evenly."""

    low: float
    high: float


def windowed(data: bytes, name: str, max_image_pixels: int, share: tuple[float, float]) -> tuple[bytes, Window] | None:
    """A grey image of more than 8 bits as a PNG of 8 bits; None of any other image, which is to stay as it is.

    Args:
        data: The image file.
        name: For messages.
        max_image_pixels: An image with more is an error.
        share: Per cent of the pixels that are at most black, and at most white: (0, 100) is the whole range.

    Raises:
        UserError: As `images.decode_image`.
    """
    values = open_wide_grey(data, name, max_image_pixels)
    if values is None:
        return None
    finite = values if values.dtype.kind in "iu" else np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (float(edge) for edge in np.percentile(finite, share))
    if not low < high:  # most of it has one value: then what there is
        low, high = float(finite.min()), float(finite.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    grey = np.empty(finite.shape, np.uint8)
    for row, line in enumerate(finite):  # in float64, a row at a time
        grey[row] = np.round(np.clip((line.astype(np.float64) - low) * scale, 0.0, 255.0))
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue(), Window(low, high)
