"""`<file>.manifest.json` beside a file of records: how it was made, whether a run may go on with it, where its images lie."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.outputs.file import write_whole

Json = dict[str, Any]


def manifest_path(file: Path) -> Path:
    """Where the manifest of a file lies."""
    return file.with_name(f"{file.name}.manifest.json")


def write_manifest(file: Path, content: Mapping[str, Any]) -> None:
    """Replaces the manifest of a file in one step."""
    write_whole(manifest_path(file), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_begun(out: Path, sections: Callable[[Json], Any]) -> Json:
    """The manifest of a file that a run is to go on with.

    Args:
        out: The file.
        sections: Takes what will be needed from it; may raise KeyError, TypeError or ValueError.

    Raises:
        UserError: There is none, or it is damaged: nobody knows how the file was made.
    """
    path = manifest_path(out)
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        sections(before)
    except FileNotFoundError:
        raise UserError(f"{out} is there without {path.name}, so nobody knows how it was made; use another --out") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged, so nobody knows how {out} was made; use another --out") from None
    return before


def read_manifest(file: Path) -> Json | None:
    """The manifest beside a file; None where there is none.

    Raises:
        UserError: It is damaged.
    """
    path = manifest_path(file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); put back the one that was written with {file.name}, or delete it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no manifest (it must be an object); put back the one that was written with {file.name}, or delete it")
    return content


def image_root(file: Path, given: Path | None) -> Path:
    """The folder that a file's image paths start from: the one given, or the one its manifest names, or the file's own.

    Raises:
        UserError: The manifest is damaged.
    """
    if given is not None:
        return given
    images = (read_manifest(file) or {}).get("images")
    root = images.get("root") if isinstance(images, dict) else None
    # Both may have been moved together.
    return Path(root) if isinstance(root, str) and Path(root).is_dir() else file.parent


def recorded_path(text: str, file: Path) -> Path:
    """A path as a manifest has it: it started from the folder its command ran in; else it may lie beside `file`, if both were moved."""
    path = Path(text)
    beside = file.parent / path.name
    return beside if not path.exists() and beside.exists() else path


def differences(then: Mapping[str, Any], now: Mapping[str, Any], is_free: Callable[[str], bool]) -> dict[str, str]:
    """The options that differ between two configs, each with both values in words; those that are free to change left out."""
    before, after = flattened(then), flattened(now)
    names = sorted(name for name in before.keys() | after.keys() if not is_free(name) and before.get(name) != after.get(name))
    return {name: f"{name}: {_shown(before.get(name))} then, {_shown(after.get(name))} now" for name in names}


def begun_otherwise(out: Path, differing: Iterable[str], hint: str = "") -> UserError:
    """The error of a run that may not go on with a file."""
    return UserError(f"{out} was begun otherwise ({'; '.join(differing)}){hint}; go on with the same, or use another --out")


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config by dotted names. What is not set may also be missing: options come with time."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def by_reason(reasons: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Counts by reason; reasons that differ in numbers only are one."""
    counts: Counter[str] = Counter()
    for reason, count in reasons:
        counts[re.sub(r"\d+", "#", reason)] += count
    return dict(counts)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_digest(digest: str) -> str:
    """The beginning of a digest, for messages."""
    return digest.removeprefix("sha256:")[:12] + "…"


def _shown(value: Any) -> str:
    return "none" if value in (None, []) else str(value)
