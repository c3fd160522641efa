"""What a judging run is made of, read and checked before anything is asked: the rollouts, and which of them are to be judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import UserError
from mede2_jax.data.judged import ImageFiles, of_both
from mede2_jax.data.readers import read_own
from mede2_jax.data.reading import located, reading_progress
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Rollout
from mede2_jax.judge.config import JudgeConfig
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import Said, file_digest, read_said
from mede2_jax.reasoning import offline_judge
from mede2_jax.reasoning.answers import BareLetters, Outcome, grade

LEFT_OUT: dict[Outcome | None, str] = {"wrong": "wrong answer", "unparsed": "no answer to read", None: "right answer not known"}
"""Why a response is not judged, by what comparing its answer gave."""
TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Task:
    """A response that is to be judged."""

    number: int
    """Of its record in the file."""
    id: str
    question: str
    digest: str
    """Of what is judged, as `Judgment.of`."""
    outcome: Outcome | None
    """None: the judge decides whether the answer is right."""


@dataclass(frozen=True)
class JudgingJob:
    """What is known before anything is judged."""

    config: JudgeConfig
    file: RecordFile
    image_root: Path
    tasks: tuple[Task, ...]
    """Every response that is to be judged, without `limit`."""
    left_out: dict[str, int]
    """Responses that are not, by reason."""
    inputs: dict[str, Any]
    """What the manifest says of all this."""

    def rollout(self, task: Task) -> Rollout:
        """The response of a task with its question."""
        return read_own(self.file[task.number], Rollout, self.file.where(task.number))


def open_job(config: JudgeConfig, console: Console) -> JudgingJob:
    """Reads, checks and grades every rollout; writes nothing.

    Raises:
        UserError: Something the user gave cannot be used.
    """
    assert config.rollouts is not None
    file = RecordFile(config.rollouts)

    def notify(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    root = image_root(config.rollouts, config.image_root, notify=notify)
    tasks: list[Task] = []
    left_out: Counter[str] = Counter()
    seen: dict[str, int] = {}
    bare = BareLetters()
    files = ImageFiles(root)
    sampled = sampled_images(config.rollouts) if config.judge != "offline" else {}
    with reading_progress(console.is_terminal) as progress:
        task_bar = progress.add_task(f"reading {file.path.name}", total=len(file))
        for number in range(len(file)):
            progress.advance(task_bar)
            rollout = read_own(file[number], Rollout, where := file.where(number))
            if (first := seen.setdefault(rollout.id, number)) != number:
                raise UserError(f"{where}: field 'id': {rollout.id!r} is also that of {file.where(first)}; ids must differ")
            bare.add(rollout.question_id, rollout.answer, rollout.options)
            with located(where):
                found = _task(rollout, number, config)
                if isinstance(found, str):
                    left_out[found] += 1
                    continue
                if config.judge != "offline":
                    found = _with_images(found, files.digest(rollout.images), sampled)
                tasks.append(found)
    if bare.notice:
        notify(bare.notice)
    inputs = {
        "rollouts": {"path": str(file.path.absolute()), "count": len(file), "digest": file_digest(file.path)},
        "images": {"root": str(root.absolute())},
        "judge": config.judged_by.model_dump(mode="json"),
        "versions": {"mede2_jax": __version__},
    }
    return JudgingJob(config, file, root, tuple(tasks), dict(left_out), inputs)


def sampled_images(rollouts: Path) -> dict[str, str]:
    """The digest of each question's image files when it was sampled, as far as the rollouts' manifest is there and says so."""
    said = read_said(rollouts, Said)
    digests = said.images.get("digests") if said is not None and isinstance(said.images, dict) else None
    return {id: digest for id, digest in digests.items() if isinstance(digest, str)} if isinstance(digests, dict) else {}


def _with_images(task: Task, files: str, sampled: Mapping[str, str]) -> Task:
    """The task with the digest of its image files, which must be those that the response was sampled with."""
    if files and sampled.get(task.question, files) != files:
        raise UserError(
            f"images of question {task.question!r} are other files than those that it was sampled with "
            f"({sampled[task.question]} then, {files} now); put them back, or sample it anew"
        )
    return replace(task, digest=of_both(task.digest, files))


def _task(rollout: Rollout, number: int, config: JudgeConfig) -> Task | str:
    """The task that a rollout makes, or why it makes none."""
    if not rollout.question_id:
        raise UserError("field 'parents' must hold the question's id, found []")
    try:
        outcome = grade(rollout.response, rollout.answer, rollout.options)
    except ValueError as error:
        raise UserError(str(error)) from None
    if rollout.finish_reason == "length":
        return TRUNCATED
    if outcome == "wrong" and not rollout.options and config.free_texts == "judge":
        return Task(number, rollout.id, rollout.question_id, rollout.content_digest, None)
    if outcome != "correct" and not (outcome is None and config.unknown_answers == "judge"):
        return LEFT_OUT[outcome]
    if config.judge == "offline":
        if outcome is None:
            raise UserError("field 'answer' is missing, and the offline judge cannot tell what is right; use unknown_answers=leave_out")
        try:
            offline_judge.check_facts(rollout.metadata)
        except ValueError as error:
            raise UserError(f"{error}; data without them needs --judge=gemini or openai") from None
    return Task(number, rollout.id, rollout.question_id, rollout.content_digest, outcome)
