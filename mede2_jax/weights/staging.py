"""Directories and files that appear whole or not at all: written beside their destination, synced, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mede2_jax.config import UserError

MARKERS = ("model.json", "config.json", "adapter_config.json")
"""Only a directory with one of these may be replaced: a slip of the hand must not delete anything else."""


@contextlib.contextmanager
def staged_directory(to: Path, *, needed_bytes: int = 0, overwrite: bool = False) -> Iterator[Path]:
    """A directory beside `to`, renamed to it on success and removed on any failure.

    Raises:
        UserError: `to` exists (and may not be replaced), is being written by another process, or the disk is too full.
    """
    check_target(to, overwrite)
    to.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(to.parent).free
    if free < needed_bytes:
        raise UserError(
            f"{str(to)!r} needs {needed_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; free some, or choose another"
        )
    partial = partial_path(to)
    with _only_writer(partial):
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        try:
            partial.mkdir()
            yield partial
            _sync(partial)
            _replace(partial, to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_target(to: Path, overwrite: bool) -> None:
    """Refuses a target that exists, unless it is a model and may be replaced.

    Raises:
        UserError: As said.
    """
    if not to.exists() and not to.is_symlink():
        return
    if not overwrite:
        raise UserError(f"{str(to)!r} exists; choose another target or add --overwrite")
    if not to.is_dir() or to.is_symlink() or (any(to.iterdir()) and not any((to / name).exists() for name in MARKERS)):
        raise UserError(f"{str(to)!r} is not a model, and is not replaced; choose another target")


def partial_path(to: Path) -> Path:
    """The same on every process, and found again after a kill."""
    return to.parent / f".{to.name}.partial"


@contextlib.contextmanager
def _only_writer(partial: Path) -> Iterator[None]:
    """Two processes writing one target would delete each other's work; the lock dies with its holder."""
    lock = partial.with_suffix(".lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {str(partial)!r}; wait for it") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _replace(partial: Path, to: Path) -> None:
    if not to.exists():
        partial.rename(to)
        return
    old = to.parent / f".{to.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    try:
        to.rename(old)
        partial.rename(to)
    except BaseException:
        if old.exists() and not to.exists():
            old.rename(to)
        raise
    shutil.rmtree(old)


def _sync(directory: Path) -> None:
    """Puts all files on disk before the rename makes them visible: a crash must not leave a complete-looking husk."""
    for folder, _, files in os.walk(directory):
        for name in (*files, "."):
            handle = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
