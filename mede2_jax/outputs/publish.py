"""A file and its manifest take the place of an earlier run's, so that no file ever lies beside another's manifest.

A run that is killed here leaves the old file, the new one, or no manifest; which of both a file without one is, what lies beside it
tells, and the next run puts the right manifest back. For a file `p.jsonl`:

| | |
|---|---|
| `.p.jsonl.partial` | the new records, while they are made |
| `.p.jsonl.manifest.json.partial` | their manifest, whole before anything is replaced |
| `.p.jsonl.manifest.json.before` | the old records' manifest, while they are replaced |

Only what the same command made is replaced.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.json_file import load_checked
from mede2_jax.outputs.manifest import Said, file_digest, identity, manifest_path, manifest_text, read_said


def partial_path(out: Path) -> Path:
    """Where the records for `out` are made."""
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


def check_replaceable(out: Path, command: str, what: str) -> None:
    """Refuses a file that a command did not make; changes nothing.

    Args:
        out: The file.
        command: As manifests name it.
        what: The records in words, such as `pairs`.

    Raises:
        UserError: As said; or it is no file, or its manifest is damaged.
    """
    if out.is_dir():
        raise UserError(f"--out={out} is a folder; give a file, such as {out / f'{what}.jsonl'}")
    if not out.exists():
        return
    said = read_said(out, Said)
    if said.command != command if said is not None else _left(out, command) is None:
        raise UserError(f"{out} is there and was not made by {command}; use another --out, or move it away")


def settle(out: Path, command: str) -> None:
    """Gives a file back the manifest that is its own, where a run ended while it published; the other files are held."""
    if out.exists() and not manifest_path(out).exists() and (left := _left(out, command)) is not None:
        os.replace(left, manifest_path(out))


def clear(out: Path) -> None:
    """Removes what a run has left beside a file that has its manifest, or is not there."""
    for path in (partial_path(out), _staged(out), _before(out)):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def undone_on_failure(outs: Sequence[Path], command: str) -> Iterator[None]:
    """As `settle` and `clear`, after an error inside, which is the one to report."""
    try:
        yield
    except BaseException:
        for out in outs:
            with contextlib.suppress(OSError):
                settle(out, command)
                clear(out)
        raise


def _staged(out: Path) -> Path:
    return out.with_name(f".{manifest_path(out).name}.partial")


def _before(out: Path) -> Path:
    return out.with_name(f".{manifest_path(out).name}.before")


def _left(out: Path, command: str) -> Path | None:
    """Of the manifests that a run has left, the one of the file as it is."""
    digest = file_digest(out)
    for left in (_staged(out), _before(out)):
        try:
            said = load_checked(left, Said)
        except UserError:  # not there, or not whole
            continue
        # Manifests were without the digest once.
        if said.command == command and said.file.get("digest", digest if left == _before(out) else None) == digest:
            return left
    return None
