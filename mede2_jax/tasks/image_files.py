"""Where the image files of a benchmark lie, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.data.images import read_image_bytes, resolve_image
from mede2_jax.foreign import shown
from mede2_jax.tasks.asking import ItemImage
from mede2_jax.tasks.item import Task


def image_roots(task: Task, data: Path) -> list[Path]:
    """Where the image files of a task may lie: in the folder that the user gave, or around the file."""
    bases = [data] if data.is_dir() else [data.parent, data.parent.parent]
    return [base / folder for base in bases for folder in task.image_folders]


def image_bytes(image: ItemImage, roots: Sequence[Path]) -> bytes:
    """What an image of an item holds.

    Raises:
        UserError: Its file is in none of the folders, or cannot be read.
    """
    if image.data is not None:
        return image.data
    for root in roots:
        try:
            resolve_image(root, image.name)
        except UserError:
            continue
        return read_image_bytes(root, image.name)
    places = " or ".join(shown(str(root), 200) for root in roots)
    raise UserError(f"no image {shown(image.name)!r} in {places}; put it there, or give --images=FOLDER (data/README.md says where from)")
