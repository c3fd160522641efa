"""What became of a question when its bank was curated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.record_file import RecordFile
from mede2_jax.foreign import shown
from mede2_jax.origins.history import DEEPEST
from mede2_jax.outputs.manifest import Said, read_said, recorded_path

_DETAILS = ("similarity", "distance", "pass_rate")


class _Curated(Said):
    """What is read of the manifest of curated questions."""

    questions: Any = None


def of_question(id: str, curated: Path) -> str:
    """A line: the question stays, is held out, or is left out, by which step and why.

    Where steps were taken one command after another, each on what the one before has left, it is looked for in all of them.

    Raises:
        UserError: A file is missing or damaged, or none has the question.
    """
    path: Path | None = curated
    for _ in range(DEEPEST):
        if path is None:
            break
        if (said := _found(id, path)) is not None:
            return said
        path = _before(path)
    raise UserError(f"no question {shown(id)!r} in {curated} or the files beside it; is it of another bank?")


def _found(id: str, curated: Path) -> str | None:
    beside = {what: curated.with_name(f"{curated.stem}.{what}.jsonl") for what in ("dropped", "eval")}
    for path, said in ((curated, f"{id} stays: it is in {curated}"), (beside["eval"], f"{id} is held out: it is in {beside['eval']}")):
        if (path == curated or path.exists()) and _record(id, path) is not None:
            return said + _edited(id, curated.with_name(f"{curated.stem}.refined.jsonl"))
    if (left := _record(id, beside["dropped"])) is None:
        return None
    details = [str(left["by"])] if left.get("by") else []
    details += [f"{name} {left[name]}" for name in _DETAILS if left.get(name) is not None]
    more = f" ({', '.join(details)})" if details else ""
    return f"{id} is left out of {curated} by step {shown(left.get('step'))}: {shown(left.get('reason'), 200)}{more}"


def _record(id: str, path: Path) -> Mapping[str, Any] | None:
    if path.exists() and not path.stat().st_size:  # nothing was left out
        return None
    file = RecordFile(path)
    return next((file[number] for number in range(len(file)) if file[number].get("id") == id), None)


def _before(curated: Path) -> Path | None:
    """What these questions were curated from, if that was curated, too."""
    said = read_said(curated, _Curated)
    text = said.questions.get("path") if said is not None and isinstance(said.questions, dict) else None
    if not isinstance(text, str):
        return None
    path = recorded_path(text, curated)
    before = read_said(path, Said) if path.is_file() else None
    return path if before is not None and said is not None and before.command == said.command else None


def _edited(id: str, path: Path) -> str:
    """What was taken out of its text, if anything was to be."""
    if not path.exists() or (found := _record(id, path)) is None:
        return ""
    if passages := found.get("removed") or []:
        return f"; taken out of its text: {', '.join(repr(shown(one, 200)) for one in passages)}"
    return f"; its text is as it was: {shown(found.get('kept'), 200)}"
