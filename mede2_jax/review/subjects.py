"""What people review, read from its file: a response with its question, or a demonstration; and by which digest a review knows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.judged import ImageFiles, demonstration_digest, of_both
from mede2_jax.data.readers import read_own, read_record
from mede2_jax.data.reading import located
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, Message, Rollout
from mede2_jax.foreign import shown
from mede2_jax.outputs.image_root import image_root
from mede2_jax.reasoning.answers import Outcome, grade
from mede2_jax.review.config import Reviewed
from mede2_jax.review.criteria import Kind


@dataclass(frozen=True)
class Subject:
    """What is reviewed at once."""

    id: str
    question: str
    """Id of its question; empty where that is not known."""
    of: str
    """Digests of what is shown, as `Judgment.of`."""
    prompt: tuple[Message, ...]
    images: tuple[str, ...]
    response: str
    answer: str | None
    """The right one, in words; None: not known."""
    outcome: Outcome | None
    """Of comparing the final answer with it by rules; None: these do not tell."""


class Subjects:
    """A file of them; nothing is kept but their places.

    Args:
        config: Which file.
        notify: Hears of a folder for images that a manifest names.

    Raises:
        UserError: The file cannot be read, or two of its records have one id.
    """

    def __init__(self, config: Reviewed, notify: Callable[[str], None]) -> None:
        self.path, self.kind = config.file, _kind(config)
        self.root = image_root(config.file, config.image_root, notify=notify)
        self._file, self._files = RecordFile(config.file), ImageFiles(self.root)
        self._answers = _Answers(config.file) if self.kind == "demonstration" else None
        self._places: dict[str, int] = {}
        for number in range(len(self._file)):
            id = self._file[number].get("id")
            if not isinstance(id, str) or not id:
                raise UserError(f"{self._file.where(number)}: field 'id' must be a text, found {shown(id)}; reviews go by it")
            if (first := self._places.setdefault(id, number)) != number:
                raise UserError(f"{self._file.where(number)}: field 'id': {shown(id)} is also that of {self._file.where(first)}")

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def where(self, id: str) -> str:
        """Its place, for messages."""
        return self._file.where(self._places[id])

    def read(self, id: str) -> Subject:
        """One of them.

        Raises:
            UserError: The record is damaged, or an image of it is missing.
        """
        raw, where = self._file[self._places[id]], self.where(id)
        with located(where):
            return self._response(raw, where) if self._answers is None else self._demonstration(raw, where, self._answers)

    def _response(self, raw: dict[str, Any], where: str) -> Subject:
        rollout = read_own(raw, Rollout, where)
        if not rollout.question_id:
            raise UserError("field 'parents' must hold the question's id, found []")
        return Subject(
            id=rollout.id,
            question=rollout.question_id,
            of=of_both(rollout.content_digest, self._files.digest(rollout.images)),
            prompt=rollout.prompt,
            images=rollout.images,
            response=rollout.response,
            answer=_right_answer(rollout),
            outcome=_outcome(rollout),
        )

    def _demonstration(self, raw: dict[str, Any], where: str, answers: _Answers) -> Subject:
        demonstration = read_record(raw, Demonstration, "mede2", where)
        *prompt, said = demonstration.messages
        candidate = answers.of(demonstration)
        return Subject(
            id=demonstration.id,
            question=demonstration.parents[0] if demonstration.parents else "",
            of=of_both(demonstration_digest(prompt, demonstration.images, said.text), self._files.digest(demonstration.images)),
            prompt=tuple(prompt),
            images=demonstration.images,
            response=said.text,
            answer=None if candidate is None else _right_answer(candidate),
            outcome=None if candidate is None else _outcome(candidate),
        )


class _Answers:
    """The right answers of demonstrations, from the candidates that `python -m mede2_jax.distill` has written beside them, if any."""

    def __init__(self, demonstrations: Path) -> None:
        path = demonstrations.with_name(f"{demonstrations.stem}.candidates.jsonl")
        self._file = RecordFile(path) if path.exists() else None
        self._places: dict[Any, int] = {}
        if self._file is not None:
            self._places = {self._file[number].get("id"): number for number in range(len(self._file))}

    def of(self, demonstration: Demonstration) -> Rollout | None:
        """The candidate that a demonstration was.

        Raises:
            UserError: It says something else.
        """
        if self._file is None or (place := self._places.get(demonstration.id)) is None:
            return None
        candidate = read_own(self._file[place], Rollout, where := self._file.where(place))
        *prompt, said = demonstration.messages
        if (candidate.response, candidate.prompt, candidate.images) != (said.text, tuple(prompt), demonstration.images):
            raise UserError(f"is another text than its candidate, {where}; run python -m mede2_jax.distill again")
        return candidate


def _kind(config: Reviewed) -> Kind:
    return "response" if config.rollouts is not None else "demonstration"


def _right_answer(rollout: Rollout) -> str | None:
    """In words: a letter with what it stands for."""
    if rollout.answer is None or rollout.options is None or rollout.answer not in rollout.options:
        return rollout.answer
    return f"{rollout.answer}: {rollout.options[rollout.answer]}"


def _outcome(rollout: Rollout) -> Outcome | None:
    try:
        return grade(rollout.response, rollout.answer, rollout.options)
    except ValueError as error:
        raise UserError(str(error)) from None
