"""What a judgment is of: what a response says (`Rollout.content_digest`), and the image files that were shown with it.

Both are parts of `Judgment.of`, as `CONTENT-FILES`; where no files were looked at, or by an older version, it is `CONTENT` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from mede2_jax.data.images import read_image_bytes
from mede2_jax.data.records import Message


class ImageFiles:
    """Digests of the image files under one folder, each read once.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests: dict[str, bytes] = {}

    def digest(self, names: Sequence[str]) -> str:
        """16 hexadecimal digits that follow from the files of a question, in their order; empty for none.

        Raises:
            UserError: One cannot be read.
        """
        for name in names:
            if name not in self._digests:
                self._digests[name] = hashlib.sha256(read_image_bytes(self.root, name)).digest()
        return files_digest(self._digests[name] for name in names) if names else ""


def demonstration_digest(prompt: Sequence[Message], images: Sequence[str], response: str) -> str:
    """16 hexadecimal digits that follow from what a demonstration says."""
    content = {"prompt": [message.model_dump(mode="json") for message in prompt], "images": list(images), "response": response}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def files_digest(digests: Iterable[bytes]) -> str:
    """16 hexadecimal digits that follow from the digests (SHA-256) of image files."""
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def of_both(content: str, files: str) -> str:
    """What a judgment of a response is of, that was shown with these files (empty: with none that were looked at)."""
    return f"{content}-{files}" if files else content


def difference(of: str, other: str) -> Literal["", "response", "images"]:
    """In what two judgments are not of the same; where one does not know its images, they are not compared."""
    content, _, files = of.partition("-")
    other_content, _, other_files = other.partition("-")
    if content != other_content:
        return "response"
    return "images" if files and other_files and files != other_files else ""


def knows_images(of: str) -> bool:
    """Whether a judgment says which image files it is of."""
    return "-" in of
