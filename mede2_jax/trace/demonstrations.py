"""The history of a demonstration: its teacher and ratings, what became of its question, and the files that these stand in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, Remark, Review
from mede2_jax.foreign import shown as in_short
from mede2_jax.foreign import visible
from mede2_jax.origins.history import Historian, walk
from mede2_jax.origins.leakage import certificates
from mede2_jax.origins.source import Source
from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.remarks import read_rating
from mede2_jax.trace.curation import of_question
from mede2_jax.trace.scores import tree
from mede2_jax.trace.show import grid, safe


def of_demonstration(id: str, path: Path) -> Iterator[RenderableType]:
    """The history of a demonstration, to be read from the top down.

    Raises:
        UserError: There is no such demonstration, or a file that is needed is missing or damaged.
    """
    found, source = _demonstration(id, path), Historian().records("demonstrations", path)
    origin = found.metadata.get("distilled")
    if not isinstance(origin, dict):
        raise UserError(f"{path}: {in_short(id)} does not say whose response it is made of; python -m mede2_jax.distill writes what does")
    question = found.parents[0] if found.parents else ""
    table = grid()
    for name, value in (("demonstration", id), ("question", question), *((str(name), str(value)) for name, value in origin.items())):
        table.add_row(safe(name.replace("_", " ")), safe(value))
    for name, value in (*_ratings(id, source), *_reviews(id, source)):
        table.add_row(safe(name), safe(value))
    yield table
    for one in walk(source):
        if one.name == "questions" and one.path is not None and "steps" in (one.manifest.get("config") or {}):
            yield Text(visible(of_question(question, one.path)))
            break  # which looks through those before, too
    for certificate in certificates(source):
        matched = any(match.record == question for match in certificate.certificate.matches)
        said = "it is too like an item of it" if matched else "it is not among what was found"
        yield Text(visible(f"checked against {certificate.certificate.benchmark} ({certificate.certificate.digest}): {said}"))
    yield tree(source)


def _demonstration(id: str, path: Path) -> Demonstration:
    file = RecordFile(path)
    for number in range(len(file)):
        if file[number].get("id") == id:
            return read_record(file[number], Demonstration, "mede2", file.where(number))
    raise UserError(f"no demonstration {in_short(id)!r} in {path}; its first is {in_short(file[0].get('id')) if len(file) else 'none'}")


def _ratings(id: str, source: Source) -> Iterator[tuple[str, str]]:
    """Who rated it, and what was said."""
    entries: Any = source.manifest.get("ratings")
    for one in source.made_of:
        if one.name != "ratings" or one.path is None or not one.path.is_file() or not isinstance(entries, list):
            continue
        file = RecordFile(one.path)
        for number in range(len(file)):
            remark = read_own(file[number], Remark, file.where(number))
            if remark.question_id != id:
                continue
            try:
                verdicts = read_rating(remark.response)
            except Unreadable as unreadable:
                yield f"rated by {remark.model}", f"unread: {unreadable}"
                continue
            for merit, verdict in verdicts.items():
                yield f"{merit.replace('_', ' ')}, by {remark.model}", f"{'yes' if verdict.met else 'no'}: {verdict.reason or ''}"


def _reviews(id: str, source: Source) -> Iterator[tuple[str, str]]:
    """What people said of it, as far as their files are there."""
    for one in source.made_of:
        if one.name != "reviews" or one.path is None or not one.path.is_file():
            continue
        file = RecordFile(one.path)
        for number in range(len(file)):
            review = read_own(file[number], Review, file.where(number))
            if review.demonstration == id:
                comment = review.metadata.get("comment")
                for merit, met in review.verdicts.items():
                    yield f"{merit.replace('_', ' ')}, by {review.annotator}", "yes" if met else "no"
                if isinstance(comment, str):
                    yield f"comment of {review.annotator}", comment
