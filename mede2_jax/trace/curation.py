"""What became of a question when its bank was curated."""

from __future__ import annotations

from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.data.record_file import RecordFile
from mede2_jax.foreign import shown

_DETAILS = ("similarity", "distance", "pass_rate")


def of_question(id: str, curated: Path) -> str:
    """A line: the question stays, is held out, or is left out, by which step and why.

    Raises:
        UserError: A file is missing or damaged, or none has the question.
    """
    beside = {what: curated.with_name(f"{curated.stem}.{what}.jsonl") for what in ("dropped", "eval")}
    for path, said in ((curated, f"{id} stays: it is in {curated}"), (beside["eval"], f"{id} is held out: it is in {beside['eval']}")):
        if path == curated or path.exists():
            file = RecordFile(path)
            if any(file[number].get("id") == id for number in range(len(file))):
                return said + _edited(id, curated.with_name(f"{curated.stem}.refined.jsonl"))
    file = RecordFile(beside["dropped"])
    for number in range(len(file)):
        left = file[number]
        if left.get("id") == id:
            details = [str(left["by"])] if left.get("by") else []
            details += [f"{name} {left[name]}" for name in _DETAILS if left.get(name) is not None]
            more = f" ({', '.join(details)})" if details else ""
            return f"{id} is left out by step {shown(left.get('step'))}: {shown(left.get('reason'), 200)}{more}"
    raise UserError(f"no question {shown(id)!r} in {curated} or the files beside it; is it of another bank?")


def _edited(id: str, path: Path) -> str:
    """What was taken out of its text, if anything was to be."""
    file = RecordFile(path) if path.exists() else ()
    for number in range(len(file)):
        if file[number].get("id") == id:
            passages = file[number].get("removed") or []
            kept = f"; its text is as it was: {shown(file[number].get('kept'), 200)}"
            return f"; taken out of its text: {', '.join(repr(shown(one, 200)) for one in passages)}" if passages else kept
    return ""
