"""Where the images of a data file lie. A manifest may say so, but it travels with the file: it opens no folder that is far from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.outputs.manifest import Said, is_as_written, manifest_path, read_said

OURS = "python -m mede2_jax."
"""What the `command` of every manifest begins with that is written here."""


def image_root(file: Path, given: Path | None, option: str = "--image_root", notify: Callable[[str], None] | None = None) -> Path:
    """The folder that a file's image paths start from: the one given, or the one its manifest names, or the file's own.

    A manifest's folder counts where the manifest was written here and names it in full, and either the folder is near the file (in
    the file's own folder or the one around that), or the file is the very one that the manifest was written beside, and no copy.
    One that is not there counts for nothing: file and images may have been moved together.

    Args:
        file: The data file.
        given: What the user says.
        option: How the user says it.
        notify: Hears of a manifest's folder that is not the file's own.

    Raises:
        UserError: The manifest is damaged, or names a folder that does not count.
    """
    if given is not None:
        return given
    said = read_said(file, Said)
    images = said.images if said is not None else None
    root = _folder(images.get("root")) if isinstance(images, dict) else None
    if said is None or root is None or _same(root, file.parent):
        return file.parent
    if fault := _fault(root, said, file):
        cure = f"give {option}=FOLDER, that one or another"
        raise UserError(f"{manifest_path(file)} says that image paths start from {shown(str(root), 200)!r}, {fault}; {cure}")
    if notify is not None:
        notify(describe_root(file, root))
    return root


def describe_root(file: Path, root: Path) -> str:
    """The line that tells of a folder that a manifest named, before images are read from there."""
    return f"images of {file}: paths start from {root}, as its manifest says"


def _fault(root: Path, said: Said, file: Path) -> str:
    """Why a manifest's folder does not count, if so."""
    if not root.is_absolute():
        return "which is another folder wherever a command runs"
    if not said.command.startswith(OURS):
        return "and was not written by a command of this package"
    if not _is_near(root, file) and not is_as_written(said, file):
        return "which is far from the file, and the file is a copy, or its manifest another's"
    return ""


def _is_near(root: Path, file: Path) -> bool:
    """Whether a folder is in a file's own or in the one around that, links followed."""
    folder = file.parent.resolve()
    around = folder.parent
    # Around a file in a home lie all homes, and around one in /data all there is.
    too_wide = around in _homes() or around == Path(around.anchor)
    return root.resolve().is_relative_to(folder if too_wide else around)


def _homes() -> tuple[Path, ...]:
    """The user's home and the folders around it; none where the user has none, as in some containers."""
    try:
        home = Path.home().resolve()
    except RuntimeError:
        return ()
    return (home, *home.parents)


def _folder(value: object) -> Path | None:
    """A folder that is there, or None."""
    try:
        return Path(value) if isinstance(value, str) and Path(value).is_dir() else None
    except (OSError, ValueError):  # too long for a path, or with a null character
        return None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
