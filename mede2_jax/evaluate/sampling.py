"""The replies of an evaluation: two sampling runs, the second of which asks what follows a first reply. All of it is `rollout`'s."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Message, Question, Rollout
from mede2_jax.engines.chat import ChatReply, ChatRequest, Completion
from mede2_jax.foreign import shown
from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.manifest import Json, begun_otherwise, differences, file_digest, read_begun
from mede2_jax.outputs.resumable import Outcome
from mede2_jax.rollout.engine import open_engine
from mede2_jax.rollout.job import ModelJob, SamplingJob
from mede2_jax.rollout.manifest import BegunRollouts, FailedSamples
from mede2_jax.rollout.run import RolloutRun, Samples, alone
from mede2_jax.tasks.asking import THEN, second_turn

COMMAND = "python -m mede2_jax.evaluate"
ROLLOUTS, SECOND_TURNS = "rollouts.jsonl", "second_turns.jsonl"
Sample = tuple[str, int]
"""A question, and the number of a reply to it."""
JobT = TypeVar("JobT", bound=SamplingJob)


class BegunEvaluation(BegunRollouts):
    """What a run needs of the manifest of the run before."""

    benchmarks: Json


def check_benchmarks(file: OutputFile, benchmarks: Mapping[str, Any]) -> None:
    """Refuses a file of another evaluation, before anything beside it is touched.

    Raises:
        UserError: Tasks, their files or the prompts are not the same; shows the difference.
    """
    if not file.is_empty:
        before = read_begun(file.path, BegunEvaluation).benchmarks
        if differing := differences(before, dict(benchmarks), lambda _: False):
            raise begun_otherwise(file.path, differing.values())


def of_benchmarks(job: JobT, benchmarks: Mapping[str, Any]) -> JobT:
    """A job whose questions are known by what they were made of: which of the items are in their file may change."""
    digest = hashlib.sha256(json.dumps(benchmarks, sort_keys=True).encode()).hexdigest()
    return dataclasses.replace(job, inputs={**job.inputs, "questions": {**job.inputs["questions"], "digest": digest}})


class EvaluationRun(RolloutRun):
    """Replies to questions; first ones, where they have two turns."""

    COMMAND = COMMAND
    BEGUN: type[BegunRollouts] = BegunEvaluation

    def __init__(self, job: SamplingJob, file: OutputFile, benchmarks: Mapping[str, Any], console: Console) -> None:
        super().__init__(job, file, console)
        self.benchmarks = benchmarks
        self.place = {id: number for number, id in enumerate(job.all_ids)}
        self._asked: dict[str, Question] = {}

    def inputs(self) -> Mapping[str, Any]:
        """As of rollouts, and what the questions were made of."""
        return {**super().inputs(), "benchmarks": self.benchmarks}

    def read(self, raw: Json, where: str) -> Rollout:
        """A reply to what would be asked now, word for word and image for image."""
        rollout = super().read(raw, where)
        question = self.question(rollout.question_id)
        if (rollout.prompt, rollout.images) != (self.conversation(question, rollout.sample), question.images):
            raise UserError(f"{where}: {shown(question.id)} was asked otherwise then, in words or images; use another --out")
        if (rollout.source, rollout.metadata) != (question.source, self.metadata(question)):  # scores go by what it says of itself
            raise UserError(f"{where}: what it says of {shown(question.id)} in source and metadata is not so; use another --out")
        return rollout

    def metadata(self, question: Question) -> Mapping[str, Any]:
        """What replies say of a question."""
        return question.metadata

    def response(self, completion: Completion) -> str:
        """The text of an answer alone, as the owners' own harnesses read it."""
        return completion.text

    def question(self, id: str) -> Question:
        """The question of that id."""
        if id not in self._asked:
            self._asked[id] = self.job.questions.question(self.place[id])
        return self._asked[id]

    def conversation(self, question: Question, sample: int) -> tuple[Message, ...]:
        """What is sent for a sample."""
        return question.prompt


class SecondTurns(EvaluationRun):
    """Replies to what is said to a first reply: one for each of the first ones, with its number.

    Args:
        job: Of the first turns.
        file: The output, held.
        benchmarks: What the questions were made of.
        first_file: First replies.
        console: Where to show progress.
    """

    RECORD = "second turn"

    def __init__(self, job: SamplingJob, file: OutputFile, benchmarks: Mapping[str, Any], first_file: Path, console: Console) -> None:
        super().__init__(job, file, benchmarks, console)
        self.first, self.faults = first_replies(first_file), dict[Sample, str]()
        self._first_file = {"path": str(first_file), "digest": file_digest(first_file)}

    def inputs(self) -> Mapping[str, Any]:
        """As of first turns, and these."""
        return {**super().inputs(), "rollouts": self._first_file}

    def conversation(self, question: Question, sample: int) -> tuple[Message, ...]:
        """The first turn, the reply to it, and what the user says then; without that reply, the first turn alone."""
        first = self.first.get((question.id, sample))
        return question.prompt if first is None else second_turn(question.prompt, first.response, str(question.metadata[THEN]))

    def plan(self) -> list[Samples]:
        """Each missing sample alone: each has a conversation of its own."""
        return alone(super().plan())

    def request(self, number: int, samples: range) -> ChatRequest:
        """The request for a sample."""
        asked = super().request(number, samples)
        return dataclasses.replace(asked, messages=self.conversation(self.question(asked.id), samples.start))

    @contextlib.contextmanager
    def answers(self) -> Iterator[Iterator[Outcome[Rollout, FailedSamples]]]:
        """The engine's replies, after what cannot be asked, and what need not be."""
        self._find_faults()
        without = [one for one in self.missing if self._without_asking(self._name(one))]
        outcomes = map(self._unasked, without)
        if len(without) == len(self.missing):
            yield outcomes
            return
        requests = (self.request(*one) for one in self.missing if not self._without_asking(self._name(one)))
        with open_engine(self.job, self.say) as engine:
            yield itertools.chain(outcomes, map(self._outcome, engine.answer(requests)))

    def _name(self, wanted: Samples) -> Sample:
        number, samples = wanted
        return self.job.all_ids[number], samples.start

    def _without_asking(self, name: Sample) -> bool:
        """Whether there is nothing to be said to a first reply: it is none, cannot be shown, or an API's without a response in it."""
        return name in self.faults or self.first[name].reason is not None

    def _unasked(self, wanted: Samples) -> Outcome[Rollout, FailedSamples]:
        """What becomes of such a sample: it failed, or ends as its first turn has ended."""
        name = question, sample = self._name(wanted)
        if name in self.faults:
            failure = FailedSamples(question=question, samples=(sample,), reason=self.faults[name])
            return Outcome(self.items(wanted), failure=failure)
        first = self.first[name]
        metadata = self.metadata(self.question(question))
        nothing = {"prompt_tokens": 0, "response_tokens": 0, "usage": None, "reason": f"the first turn: {first.reason}"}
        prompt = self.conversation(self.question(question), sample)
        return Outcome(self.items(wanted), [first.model_copy(update={**nothing, "prompt": prompt, "metadata": metadata})])

    def _find_faults(self) -> None:
        """Takes note of first turns without a reply, and of replies that cannot be shown to a model of ours."""
        names = [self._name(one) for one in self.missing]
        self.faults = {name: "the first turn has no reply" for name in names if name not in self.first}
        if isinstance(self.job, ModelJob):
            longest = max(self._length(self.job, *name) for name in names)
            self.job = dataclasses.replace(self.job, longest_prompt=max(longest, 1))

    def _length(self, job: ModelJob, id: str, sample: int) -> int:
        """Tokens of a prompt, images counted; 0 where it cannot be asked, of which it takes note."""
        first = self.first.get((id, sample))
        if first is None:
            return 0
        chat = job.processor.chat
        try:
            more = len(chat.prompt(self.conversation(self.question(id), sample))) - len(chat.prompt(first.prompt))
        except UserError as error:  # a reply may hold what the template refuses
            self.faults[id, sample] = f"the reply to the first turn cannot be shown to the model: {error}"
            return 0
        return first.prompt_tokens + more

    def _rollout(self, question: Question, sample: int, reply: ChatReply, index: int) -> Rollout:
        rollout = super()._rollout(question, sample, reply, index)
        return rollout.model_copy(update={"metadata": self.metadata(question)})

    def metadata(self, question: Question) -> Mapping[str, Any]:
        """As of first turns; it is the last one."""
        return {name: value for name, value in question.metadata.items() if name != THEN}


def sample(
    job: SamplingJob, file: OutputFile, benchmarks: Mapping[str, Any], two_turns: Sequence[int], console: Console
) -> dict[bool, Path]:
    """Samples what is missing, in both turns.

    Args:
        job: Of all questions that are asked.
        file: Of the replies to them, held.
        benchmarks: What the questions were made of.
        two_turns: Record numbers of those that have a second turn.
        console: Where to show progress.

    Returns:
        The files of the replies that are scored: to questions of one turn (False) and of two (True).

    Raises:
        UserError: As `rollout.run`.
    """
    EvaluationRun(job, file, benchmarks, console).run()
    out = file.path.with_name(SECOND_TURNS)
    if two_turns:
        config = job.config.model_copy(update={"out": out})
        second = dataclasses.replace(job, config=config, numbers=tuple(two_turns))
        with OutputFile(out, "second turns") as held:
            SecondTurns(second, held, benchmarks, file.path, console).run()
    return {False: file.path, True: out}


def first_replies(path: Path) -> dict[Sample, Rollout]:
    """The replies to first turns of two, by question and sample."""
    file = RecordFile(path)
    rollouts = (read_own(file[number], Rollout, file.where(number)) for number in range(len(file)))
    return {(one.question_id, one.sample): one for one in rollouts if THEN in one.metadata}
