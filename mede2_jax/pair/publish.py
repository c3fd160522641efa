"""Pairs and their manifest take the place of an earlier rule's, so that no file ever lies beside another rule's manifest.

A run that is killed here leaves the old pairs, the new ones, or no manifest; which of both a file without one is, what lies beside it
tells, and the next run puts the right manifest back. For a file `p.jsonl`:

| | |
|---|---|
| `.p.jsonl.partial` | the new pairs, while they are made |
| `.p.jsonl.manifest.json.partial` | their manifest, whole before anything is replaced |
| `.p.jsonl.manifest.json.before` | the old pairs' manifest, while they are replaced |
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.json_file import load_checked
from mede2_jax.outputs.manifest import Said, file_digest, identity, manifest_path, manifest_text, read_said

COMMAND = "python -m mede2_jax.pair"


def partial_path(out: Path) -> Path:
    """Where the pairs for `out` are made."""
    return out.with_name(f".{out.name}.partial")


def publish(partials: Sequence[Path], outs: Sequence[Path], gone: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> None:
    """Puts files and their manifests in their places.

    Args:
        partials: Files that are whole.
        outs: Where each belongs.
        gone: Files of an earlier rule that have no successor.
        manifests: Of each of `outs`; the file's digest is added.
    """
    for partial, out, manifest in zip(partials, outs, manifests, strict=True):
        said = {"digest": file_digest(partial), **identity(partial)}
        _staged(out).write_text(manifest_text({**manifest, "file": said}), encoding="utf-8")
    for out in (*outs, *gone):
        if manifest_path(out).exists():
            os.replace(manifest_path(out), _before(out))
    for out in gone:
        out.unlink(missing_ok=True)
    for partial, out in zip(partials, outs, strict=True):
        os.replace(partial, out)
        os.replace(_staged(out), manifest_path(out))
    for out in (*outs, *gone):
        clear(out)


def check_replaceable(out: Path) -> None:
    """Refuses a file that this command did not make; changes nothing.

    Raises:
        UserError: As said; or it is no file, or its manifest is damaged.
    """
    if out.is_dir():
        raise UserError(f"--out={out} is a folder; give a file, such as {out / 'pairs.jsonl'}")
    if not out.exists():
        return
    said = read_said(out, Said)
    if said.command != COMMAND if said is not None else _left(out) is None:
        raise UserError(f"{out} is there and was not made by {COMMAND}; use another --out, or move it away")


def settle(out: Path) -> None:
    """Gives a file back the manifest that is its own, where a run ended while it published; the other files are held."""
    if out.exists() and not manifest_path(out).exists() and (left := _left(out)) is not None:
        os.replace(left, manifest_path(out))


def clear(out: Path) -> None:
    """Removes what a run has left beside a file that has its manifest, or is not there."""
    for path in (partial_path(out), _staged(out), _before(out)):
        path.unlink(missing_ok=True)


def undo(out: Path) -> None:
    """As `settle` and `clear`, after an error, which is the one to report."""
    with contextlib.suppress(OSError):
        settle(out)
        clear(out)


def _staged(out: Path) -> Path:
    return out.with_name(f".{manifest_path(out).name}.partial")


def _before(out: Path) -> Path:
    return out.with_name(f".{manifest_path(out).name}.before")


def _left(out: Path) -> Path | None:
    """Of the manifests that a run has left, the one of the file as it is."""
    digest = file_digest(out)
    for left in (_staged(out), _before(out)):
        try:
            said = load_checked(left, Said)
        except UserError:  # not there, or not whole
            continue
        # Manifests were without the digest once.
        if said.command == COMMAND and said.file.get("digest", digest if left == _before(out) else None) == digest:
            return left
    return None
