"""The responses of each question with what the judgments say of them: one pass over the rollouts, which stay in their file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pydantic
from rich.console import Console

from mede2_jax.config import UserError
from mede2_jax.data.images import resolve_image
from mede2_jax.data.judged import ImageFiles, difference, knows_images, of_both
from mede2_jax.data.readers import read_own
from mede2_jax.data.reading import located, reading_progress
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Rollout
from mede2_jax.foreign import shown
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import Said, manifest_path, read_said
from mede2_jax.pair.choose import Candidate
from mede2_jax.pair.config import PairConfig
from mede2_jax.pair.verdicts import JudgedRollout, fails, overruled, read_judgments
from mede2_jax.reasoning.rubric import Criterion

NOT_JUDGED = "not judged"
RESERVED = "spells a token that training takes for structure"
"""With tokens of its own: the model may not sample that one. Training would refuse the whole file."""


class JudgingSaid(Said):
    """What is read back of the manifest of judgments that are not there."""

    dropped: dict[str, int] = pydantic.Field(default_factory=dict)
    """Responses without any judgment, by reason."""


class SamplingProcessor(pydantic.BaseModel):
    """Of the processor that the model was sampled with."""

    reserved: tuple[str, ...] = pydantic.Field(default=(), strict=False)
    """What no text may hold."""


class SamplingSaid(Said):
    """What is read back of the manifest of rollouts."""

    processor: SamplingProcessor = SamplingProcessor()


@dataclass(slots=True)
class Asked:
    """A question, by its responses."""

    content: bytes
    """Digest of prompt and images, which all its responses must share."""
    first: int
    """Record of the first response."""
    candidates: list[Candidate] = field(default_factory=list)


@dataclass(frozen=True)
class PairingJob:
    """What pairs are made of."""

    config: PairConfig
    file: RecordFile
    files: ImageFiles
    judged: Mapping[str, JudgedRollout]
    questions: dict[str, Asked]
    """In the order of their first responses."""
    dropped: Counter[str]
    """Responses that can be neither chosen nor rejected, by reason."""
    failing: Counter[Criterion]
    """How many responses fail each criterion."""
    reserved: tuple[str, ...] = ()
    """What no response that is trained on may hold."""
    by_people: int = 0
    """Responses of which people decide."""

    def rollout(self, record: int) -> Rollout:
        """A response with its question."""
        return read_own(self.file[record], Rollout, self.file.where(record))


def open_job(config: PairConfig, console: Console) -> PairingJob:
    """Reads judgments and rollouts and puts them together.

    Raises:
        UserError: A file cannot be read, or they do not belong together.
    """
    assert config.judgments is not None and config.rollouts is not None
    if not config.judgments.exists() and (said := read_said(config.judgments, JudgingSaid)) is not None:
        reasons = ", ".join(f"{shown(reason)}: {count:,}" for reason, count in said.dropped.items())
        raise UserError(f"no response was judged ({reasons}), so there are no pairs to make; see {manifest_path(config.judgments)}")
    people = read_judgments(config.people) if config.people is not None else {}
    judged = overruled(read_judgments(config.judgments), people)
    file = RecordFile(config.rollouts)
    root = image_root(config.rollouts, config.image_root, notify=lambda line: console.print(line, soft_wrap=True, markup=False))
    said_of_rollouts = read_said(config.rollouts, SamplingSaid) or SamplingSaid()
    reserved = said_of_rollouts.processor.reserved
    job = PairingJob(config, file, ImageFiles(root), judged, {}, Counter(), Counter(), reserved, len(people))
    seen: dict[str, int] = {}
    with reading_progress(console.is_terminal) as progress:
        task = progress.add_task(f"reading {file.path.name}", total=len(file))
        for record in range(len(file)):
            progress.advance(task)
            rollout = job.rollout(record)
            if (first := seen.setdefault(rollout.id, record)) != record:
                raise UserError(f"{file.where(record)}: field 'id': {rollout.id!r} is also that of {file.where(first)}; ids must differ")
            _add(job, rollout, record)
    if foreign := next((id for id in judged if id not in seen), None):
        raise UserError(
            f"{judged[foreign].where}: a judgment of {foreign!r}, which is not in {file.path}; give the rollouts that were judged"
        )
    for asked in job.questions.values():
        asked.candidates.sort(key=lambda candidate: (candidate.sample, candidate.id))
    return job


def _add(job: PairingJob, rollout: Rollout, record: int) -> None:
    """Takes note of a response."""
    where = job.file.where(record)
    content = _content(rollout)
    asked = job.questions.setdefault(rollout.question_id, Asked(content, record))
    if asked.content != content:
        raise UserError(
            f"{where}: question {rollout.question_id!r} has another prompt or other images than at {job.file.where(asked.first)}; "
            "questions need ids of their own"
        )
    judged = job.judged.get(rollout.id)
    if judged is None:
        job.dropped[NOT_JUDGED] += 1
        return
    if difference(judged.of, rollout.content_digest):
        raise UserError(f"{judged.where}: a judgment of another response than {rollout.id!r} of {where}; judge these rollouts first")
    if judged.question != rollout.question_id:
        raise UserError(f"{judged.where}: field 'question' is {judged.question!r}, but {rollout.id!r} answers {rollout.question_id!r}")
    found = fails(judged, job.config)
    if isinstance(found, str) or any(token in rollout.response for token in job.reserved):
        job.dropped[found if isinstance(found, str) else RESERVED] += 1
        return
    job.failing.update(found)
    files = ""
    with located(where):
        if knows_images(judged.of):
            files = job.files.digest(rollout.images)
        elif not asked.candidates:
            for name in rollout.images:
                resolve_image(job.files.root, name)
    if difference(judged.of, of_both(rollout.content_digest, files)):
        raise UserError(f"{judged.where}: a judgment of other images than {rollout.id!r} of {where} has now; put them back, or judge anew")
    asked.candidates.append(Candidate(record, rollout.id, rollout.sample, found))


def _content(rollout: Rollout) -> bytes:
    content = rollout.model_dump(mode="json", include={"prompt", "images"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]
