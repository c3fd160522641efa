"""Which images show the same picture, though written anew, resized or cropped by a few per cent. N images, C crops, H bits.

Each image has a perceptual hash of 256 bits (imagehash's pHash), and its crops have theirs: what somebody has cut from it is among these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import imagehash
import numpy as np
from jaxtyping import Int8
from PIL import Image, ImageOps

_SIDE = 16
BITS = _SIDE * _SIDE
_SMALL = 256
"""Pixels of the longer side that hashes are made of."""
_CUT = 0.05
_CROPS = (
    (0.0, 0.0, 0.0, 0.0),
    *((cut, cut, cut, cut) for cut in (_CUT / 2, _CUT)),
    *(tuple(_CUT * (place == side) for place in range(4)) for side in range(4)),
    *((_CUT, _CUT, 0.0, 0.0), (0.0, _CUT, _CUT, 0.0), (_CUT, 0.0, 0.0, _CUT), (0.0, 0.0, _CUT, _CUT)),
)
"""What is cut off left, above, right and below, as shares; the whole image first."""
MIRROR = len(_CROPS)
"""Place of the mirror image's hash after those of the crops."""
_BLOCK = 1024


def hashes(image: Image.Image) -> Int8[np.ndarray, "C+1 H"]:
    """The hashes of an image, of its crops and of its mirror image, a bit as 1 or −1."""
    grey = image.convert("L")
    scale = _SMALL / max(grey.size)
    if scale < 1:
        grey = grey.resize((max(round(grey.width * scale), 1), max(round(grey.height * scale), 1)), Image.Resampling.BOX, reducing_gap=2.0)
    width, height = grey.size
    crops = [grey.crop((width * left, height * top, width * (1 - right), height * (1 - bottom))) for left, top, right, bottom in _CROPS]
    bits = [imagehash.phash(crop, hash_size=_SIDE).hash.ravel() for crop in (*crops, ImageOps.mirror(grey))]
    return np.where(np.array(bits), 1, -1).astype(np.int8)


def neighbours(whole: Int8[np.ndarray, "M H"], others: Int8[np.ndarray, "N C H"], distance: float) -> Iterator[tuple[int, int, int, float]]:
    """Pairs of images of which one may be cut from the other: (of `whole`, of `others`, crop, share of bits that differ).

    Args:
        whole: First hashes of images.
        others: Hashes of images, with their crops.
        distance: Most bits that may differ, as a share.
    """
    least = BITS * (1 - 2 * distance)  # of the product of two hashes
    for start in range(0, len(whole), _BLOCK):
        block = whole[start : start + _BLOCK].astype(np.float32)
        best = np.full((len(block), len(others)), -BITS, np.float32)
        crop = np.zeros(best.shape, np.int8)
        for number in range(others.shape[1]):
            product = block @ others[:, number].astype(np.float32).T
            better = product > best
            best[better], crop[better] = product[better], number
        for row, column in zip(*np.nonzero(best >= least), strict=True):
            yield start + int(row), int(column), int(crop[row, column]), float((1 - best[row, column] / BITS) / 2)


def stacked(rows: Sequence[np.ndarray]) -> Int8[np.ndarray, "N C H"]:
    """Hashes of several images."""
    return np.stack(rows) if rows else np.zeros((0, MIRROR + 1, BITS), np.int8)
