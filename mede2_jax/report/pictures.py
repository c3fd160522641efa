"""Images of a report: files beside it, each once by what it holds, or thumbnails inside the page. A browser gets pixels only."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

from PIL import Image as Pillow

from mede2_jax.config import UserError
from mede2_jax.data.images import check_image, decode_image
from mede2_jax.report.folder import Folder

FOLDER = "images"
SHOWN = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp"}
"""Formats that browsers show; others are written as PNG."""
THUMBNAIL = 320
"""Pixels of the longer side."""


class Pictures:
    """Puts images where the page finds them.

    Args:
        folder: The report's.
        inside: Whether they go into the page, as thumbnails.
        max_image_pixels: One with more is not shown.
    """

    def __init__(self, folder: Folder, *, inside: bool, max_image_pixels: int) -> None:
        self._folder, self._inside, self._limit = folder, inside, max_image_pixels
        self._known: dict[bytes, dict[str, Any]] = {}

    def put(self, data: bytes, name: str) -> dict[str, Any]:
        """An image as the page has it: `src` with its size `w`, `h`, its `name`; or `fault`, why it is not shown."""
        digest = hashlib.sha256(data).digest()
        if digest not in self._known:
            try:
                self._known[digest] = self._thumbnail(data, name) if self._inside else self._file(data, digest.hex(), name)
            except UserError as error:
                self._known[digest] = {"fault": str(error)}
        return {**self._known[digest], "name": name}

    def _file(self, data: bytes, digest: str, name: str) -> dict[str, Any]:
        height, width = check_image(data, name, self._limit, decode=False).size
        with Pillow.open(io.BytesIO(data)) as image:
            suffix = SHOWN.get(image.format or "")
        if suffix is None:
            file = io.BytesIO()
            decode_image(data, name, self._limit).save(file, "PNG")
            data, suffix = file.getvalue(), ".png"
        path = f"{FOLDER}/{digest[:32]}{suffix}"
        self._folder.write(path, data, again=False)
        return {"src": path, "w": width, "h": height}

    def _thumbnail(self, data: bytes, name: str) -> dict[str, Any]:
        image = decode_image(data, name, self._limit)
        width, height = image.size
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        return {"src": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", "w": width, "h": height}


def missing(name: str, fault: str) -> dict[str, Any]:
    """An image that is not there."""
    return {"name": name, "fault": fault}
