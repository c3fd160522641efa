"""`<file>.manifest.json` beside a file of records: how it was made, and whether a run may go on with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from mede2_jax.config import MOST_FAULTS, UserError
from mede2_jax.foreign import JSONFault, parse_json, shown
from mede2_jax.json_file import check
from mede2_jax.outputs.file import write_whole
from mede2_jax.tree import flatten

Json = dict[str, Any]


class Said(pydantic.BaseModel):
    """What is read back of a manifest. Whoever wrote it: what is of another type is a fault of one line, what is unknown is let be."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True)

    command: str = ""
    """What wrote it."""
    finished: bool = True
    file: Json = pydantic.Field(default_factory=dict)
    """What `identity` said of the file."""
    failed: list[Json] = pydantic.Field(default_factory=list)
    """Wanted records that did not come."""
    images: Any = None


class Begun(Said):
    """What a run needs of the manifest of a file that it is to go on with; a command adds the digests that it compares."""

    config: Json
    seconds: float = pydantic.Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """That all runs before have taken together."""


SaidT = TypeVar("SaidT", bound=Said)
BegunT = TypeVar("BegunT", bound=Begun)


def manifest_path(file: Path) -> Path:
    """Where the manifest of a file lies."""
    return file.parent / f"{file.name}.manifest.json"  # with_name raises for a name that is none, such as "."


def identity(file: Path) -> Json:
    """What tells a file from its copies: the number that its file system has given it, which renaming does not change."""
    return {"inode": file.stat().st_ino} if file.exists() else {}


def is_as_written(said: Said, file: Path) -> bool:
    """Whether a file is the one that its manifest was written beside, and not a copy, which may come from anywhere."""
    return bool(said.file) and said.file.get("inode") == identity(file).get("inode")


def manifest_text(content: Mapping[str, Any]) -> str:
    """A manifest as it is written."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_manifest(file: Path, content: Mapping[str, Any]) -> None:
    """Replaces the manifest of a file in one step, and says in it which file that is."""
    write_whole(manifest_path(file), manifest_text({**content, "file": identity(file)}))


def read_begun(out: Path, model: type[BegunT]) -> BegunT:
    """The manifest of a file that a run is to go on with.

    Raises:
        UserError: There is none, or it is damaged: nobody knows how the file was made.
    """
    path = manifest_path(out)
    try:
        return check(_content(path), model, str(path), f"it is damaged, so nobody knows how {out} was made: use another --out")
    except FileNotFoundError:
        raise UserError(f"{out} is there without {path.name}, so nobody knows how it was made; use another --out") from None
    except (OSError, JSONFault) as error:
        raise UserError(f"{path} is damaged ({error}), so nobody knows how {out} was made; use another --out") from None


def read_manifest(file: Path) -> Json | None:
    """The manifest beside a file as it is; None where there is none.

    Raises:
        UserError: It is damaged.
    """
    path = manifest_path(file)
    cure = f"put back the one that was written with {file.name}, or delete it"
    try:
        return _content(path)
    except FileNotFoundError:
        return None
    except _NoObject:
        raise UserError(f"{path} is no manifest (it must be an object); {cure}") from None
    except (OSError, JSONFault) as error:
        raise UserError(f"cannot read {path} ({error}); {cure}") from None


def read_said(file: Path, model: type[SaidT]) -> SaidT | None:
    """What is needed of the manifest beside a file; None where there is none.

    Raises:
        UserError: It is damaged, or a field has another type than the model's.
    """
    content = read_manifest(file)
    cure = f"put back the one that was written with {file.name}, or delete it"
    return None if content is None else check(content, model, str(manifest_path(file)), cure)


class _NoObject(JSONFault):
    """JSON that is no object."""


def _content(path: Path) -> Json:
    value = parse_json(path.read_bytes())
    if not isinstance(value, dict):
        raise _NoObject("it must be an object")
    return value


def recorded_path(text: str, file: Path) -> Path:
    """A path as a manifest has it: it started from the folder its command ran in; else it may lie beside `file`, if both were moved.

    Raises:
        UserError: It is no path.
    """
    path = Path(text)
    beside = file.parent / path.name
    try:
        return beside if not path.exists() and beside.exists() else path
    except OSError as error:  # too long for a path
        raise UserError(f"a manifest that {file} leads to names {shown(text)!r}, which is no path ({error.strerror})") from None


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any], is_free: Callable[[str], bool], first: str = "then", second: str = "now"
) -> dict[str, str]:
    """The options that differ between two configs, each with both values in words; those that are free to change left out."""
    before, after = flatten(then, "."), flatten(now, ".")  # what is not set may also be missing: options come with time
    names = sorted(name for name in before.keys() | after.keys() if not is_free(name) and before.get(name) != after.get(name))
    return {name: f"{shown(name)}: {_shown(before.get(name))} {first}, {_shown(after.get(name))} {second}" for name in names}


def begun_otherwise(out: Path, differing: Iterable[str], hint: str = "") -> UserError:
    """The error of a run that may not go on with a file."""
    return UserError(f"{out} was begun otherwise ({several_of(differing)}){hint}; go on with the same, or use another --out")


def several_of(differing: Iterable[str]) -> str:
    """The first `MOST_FAULTS` of them, and how many more there are."""
    several = list(differing)
    more = [f"and {len(several) - MOST_FAULTS} more"] if len(several) > MOST_FAULTS else []
    return "; ".join(several[:MOST_FAULTS] + more)


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
    return shown(digest.removeprefix("sha256:")[:12]) + "…"


def _shown(value: Any) -> str:
    return "none" if value in (None, []) else shown(str(value), 200)
