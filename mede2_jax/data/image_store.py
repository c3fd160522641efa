"""A folder of image files, each there once, by the digest of what it holds."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path

from mede2_jax.data.images import check_image

IMAGES = "images"
_SUFFIX = re.compile(r"\.[a-z]{3,4}")


class ImageStore:
    """Image files by the digest of what they hold.

    Args:
        folder: Whose `images` hold the files: that of an evaluation, or of a file of questions.
        max_image_pixels: An image with more is an error.
    """

    def __init__(self, folder: Path, max_image_pixels: int) -> None:
        self.folder, self.max_image_pixels = folder / IMAGES, max_image_pixels
        self.names: dict[str, str] = {}
        """What its owner calls each."""

    def put(self, data: bytes, name: str) -> str:
        """Keeps an image, from any thread; returns its path from the folder.

        Raises:
            UserError: It cannot be decoded.
        """
        suffix = Path(name).suffix.lower()
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        if not path.exists():
            check_image(data, name, self.max_image_pixels)
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{path.name}.{threading.get_ident()}.partial"
            partial.write_bytes(data)
            os.replace(partial, path)
        relative = f"{IMAGES}/{path.name}"
        self.names.setdefault(relative, name)
        return relative
