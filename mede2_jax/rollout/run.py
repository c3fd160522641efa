"""A sampling run: which samples are wanted, what an engine is asked for them, and what is kept of its replies."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mede2_jax.config import UserError, counted
from mede2_jax.data.about import conversation
from mede2_jax.data.readers import read_own
from mede2_jax.data.records import Question, Remark, Rollout, SampleUsage
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Completion
from mede2_jax.foreign import shown
from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.manifest import Json, manifest_path
from mede2_jax.outputs.progress import AGAIN
from mede2_jax.outputs.resumable import Outcome, ResumableRun
from mede2_jax.reasoning.prompts import ABOUT
from mede2_jax.rollout.api import APIJob, APIRun, open_api_job
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.rollout.engine import check_api, check_engine, open_engine
from mede2_jax.rollout.job import SamplingJob, open_job, question_seed
from mede2_jax.rollout.manifest import BegunRollouts, FailedSamples, check_same
from mede2_jax.rollout.output import missing_runs, note
from mede2_jax.rollout.summary import PaidTally, Tally, closing_table

Samples = tuple[int, range]
"""A question, by its number in the file, and samples of it: one request, so that its prompt and images are computed once."""


def run(config: RolloutConfig, model_dir: Path, console: Console) -> None:
    """Samples what is missing in `config.out`.

    Args:
        config: The run.
        model_dir: The model directory to sample.
        console: Where to show progress.

    Raises:
        UserError: Something the user gave cannot be used, or the engine broke down; a file that was there has lost nothing.
    """
    assert config.out is not None
    with OutputFile(config.out, "rollouts", " (each shard needs one of its own)") as file:
        job = open_job(config, model_dir, console)
        check_engine(job)
        RolloutRun(job, file, console).run()


def run_api(config: APIRun, console: Console) -> None:
    """Asks an API for what is missing in `config.out`.

    Args:
        config: The run.
        console: Where to show progress.

    Raises:
        UserError: As `run`; or the API cannot be asked.
    """
    assert config.out is not None
    with OutputFile(config.out, "rollouts", " (each shard needs one of its own)") as file:
        if file.is_empty:  # of one that has all samples nothing is asked, so no key is needed
            check_api(config)
        RolloutRun(open_api_job(config, console), file, console).run()


def alone(runs: Sequence[Samples]) -> list[Samples]:
    """Each sample as a request of its own."""
    return [(number, range(sample, sample + 1)) for number, samples in runs for sample in samples]


def first_requests(job: SamplingJob) -> Iterator[ChatRequest]:
    """One request for each question, for all its samples."""
    return (request(job, number, range(job.config.n)) for number in job.numbers)


def request(job: SamplingJob, number: int, samples: range) -> ChatRequest:
    """The request for these samples of the question with that number."""
    question = job.questions.question(number)
    images = job.images(number, question)
    seed = question_seed(job.config.seed, question.id) + samples.start
    return ChatRequest(question.id, conversation(question, job.config.ask), images, len(samples), seed)


class RolloutRun(ResumableRun[Samples, Rollout, FailedSamples, BegunRollouts, Tally]):
    """The samples of one file, from those that are there to all."""

    COMMAND, DOING, RECORD, NOTHING = "python -m mede2_jax.rollout", "sampling", "sample", "no sample came yet"
    BEGUN, FAILURE = BegunRollouts, FailedSamples

    def __init__(self, job: SamplingJob, file: OutputFile, console: Console) -> None:
        super().__init__(job.config, file, PaidTally() if isinstance(job, APIJob) else Tally(), console)
        self.job = job
        self.seeds = {id: question_seed(job.config.seed, id) for id in job.all_ids}
        self.number_of = {job.all_ids[number]: number for number in job.numbers}
        self.done: dict[str, set[int]] = {}

    def check_same(self, before: BegunRollouts) -> None:
        """Refuses a file of another config, engine, model, other questions or images."""
        check_same(self.job, before)

    def read(self, raw: Json, where: str) -> Rollout:
        """A sample of this run."""
        about = ABOUT.get(self.job.config.ask)
        rollout = read_own(raw, Remark if about else Rollout, where)
        if isinstance(rollout, Remark) and about and rollout.about != about.title:
            raise UserError(f"{where}: it was asked {shown(rollout.about)}, and now it would be {about.title}; use another --out")
        note(rollout, self.done, self.seeds, self.job.config.n, where)
        return rollout

    def plan(self) -> list[Samples]:
        """Each question's missing samples; of an API each alone, since each may be refused, and costs something, alone."""
        n = self.job.config.n
        runs = [(number, runs) for id, number in self.number_of.items() for runs in missing_runs(self.done.get(id, set()), n)]
        return alone(runs) if isinstance(self.job, APIJob) else runs

    def items(self, wanted: Samples) -> Sequence[Hashable]:
        """Question and number of each sample."""
        number, samples = wanted
        return [(self.job.all_ids[number], sample) for sample in samples]

    def is_open(self, item: Any) -> bool:
        """Whether that sample of a question of this file is not there."""
        question, sample = item
        return question in self.seeds and sample not in self.done.get(question, set())

    def total(self) -> int:
        """Questions × n."""
        return len(self.number_of) * self.job.config.n

    @contextlib.contextmanager
    def answers(self) -> Iterator[Iterator[Outcome[Rollout, FailedSamples]]]:
        """The engine's replies."""
        requests = (self.request(number, samples) for number, samples in self.missing)
        with open_engine(self.job, self.say) as engine:
            yield map(self._outcome, engine.answer(requests))

    def request(self, number: int, samples: range) -> ChatRequest:
        """The request for these samples of the question with that number."""
        return request(self.job, number, samples)

    def response(self, completion: Completion) -> str:
        """What is kept of an answer: a thought that an API has set apart stands before it, as where models write it themselves."""
        thought = completion.thought if self.job.config.ask == "answer" else ""
        return completion.text if thought in completion.text else f"<think> {thought} </think>\n\n{completion.text}"

    def inputs(self) -> Mapping[str, Any]:
        """Model, processor, questions, images, versions, engine."""
        images = self.job.inputs["images"]
        # Of questions that a smaller limit leaves out as well: their samples are still in the file.
        digests = {**(self.before.images.digests if self.before else {}), **images["digests"]}
        return {**self.job.inputs, "images": {**images, "digests": digests}, "engine": self.job.engine}

    def counts(self) -> Mapping[str, Any]:
        """Questions."""
        return {"questions": len(self.job.numbers)}

    def dropped(self) -> Mapping[str, int]:
        """Samples that failed, by reason."""
        return self.failures.by_reason()

    def more(self) -> Mapping[str, Any]:
        """Of an API, who answered and what it cost."""
        return self.tally.paid(self._lost) if isinstance(self.tally, PaidTally) else {}

    def begin(self) -> None:
        """Says how many samples are wanted, or that all are there."""
        config, begun, total = self.job.config, self.progress.begun_with, self.progress.total
        if not self.missing:
            self.say(f"{config.out} has all {counted(total, 'sample')}; nothing to do")
            return
        there = f", {begun:,} are there" if begun else ""
        what = f"{counted(len(self.job.numbers), 'question')} × {config.n} = {counted(total, 'sample')}{there}"
        self.say(f"{what}; engine {self.job.engine}, {self.job.described}")

    def finish(self) -> None:
        """The closing table."""
        failed = self.failures.by_reason(now=True)
        self.console.print(closing_table(self.tally, self.progress, failed, self._lost))
        self.say(f"{'rollouts:':10} {self.out}")
        if failed:
            self.say(f"{counted(sum(failed.values()), 'sample')} failed: see {manifest_path(self.out)}; {AGAIN}", style="yellow")
        if not self.tally.samples:
            raise UserError(f"no question could be answered; the first: {self.failures.now[0].reason}")

    @property
    def _lost(self) -> float:
        """US dollars that samples which failed have cost."""
        return sum(failure.cost or 0.0 for failure in self.failures.listed())

    def _outcome(self, reply: ChatReply | ChatFailure) -> Outcome[Rollout, FailedSamples]:
        """A refusal, or a reply that was cut before it began, is what came of an API's sample; it is not asked again."""
        if isinstance(reply, ChatReply) or reply.end == "failed":
            return self._found(reply)
        asked = reply.request
        # One sample, as `plan` asks for.
        empty = Completion("", (), None, "length" if reply.end == "cut" else "stop", asked.seed)
        tokens = reply.usage.prompt_tokens if reply.usage else 0
        found = self._found(ChatReply(asked, tokens, (empty,), reply.usage))
        more = {"reason": reply.reason} | ({"finish_reason": "refusal"} if reply.end == "refused" else {})
        return dataclasses.replace(found, records=[rollout.model_copy(update=more) for rollout in found.records])

    def _found(self, reply: ChatReply | ChatFailure) -> Outcome[Rollout, FailedSamples]:
        asked = reply.request
        first = asked.seed - self.seeds[asked.id]
        samples = range(first, first + asked.n)
        number = self.number_of[asked.id]
        if isinstance(reply, ChatFailure):
            cost = reply.usage.cost if reply.usage else None
            failure = FailedSamples(question=asked.id, samples=tuple(samples), reason=reply.reason, cost=cost or None)
            return Outcome(self.items((number, samples)), failure=failure)
        question = self.job.questions.question(number)
        rollouts = [self._rollout(question, sample, reply, index) for index, sample in enumerate(samples)]
        return Outcome(self.items((number, samples)), rollouts, tokens=sum(rollout.response_tokens for rollout in rollouts))

    def _rollout(self, question: Question, sample: int, reply: ChatReply, index: int) -> Rollout:
        completion = reply.completions[index]
        assert completion.seed == reply.request.seed + index
        kept, about = self.job.config.logprobs, ABOUT.get(self.job.config.ask)
        rollout = Rollout(
            id=f"{question.id}#{sample}",
            images=question.images,
            parents=(question.id,),
            source=question.source,
            licence=question.licence,
            metadata=question.metadata,
            prompt=reply.request.messages,
            answer=None if about else question.answer,
            options=None if about else question.options,
            sample=sample,
            response=self.response(completion),
            finish_reason=completion.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            response_tokens=reply.usage.response_tokens if reply.usage else len(completion.token_ids),
            seed=completion.seed,
            model=self.job.sampled,
            usage=_usage(reply),
            token_ids=completion.token_ids if kept else None,
            logprobs=completion.logprobs if kept else None,
        )
        return Remark(**dict(rollout), about=about.title) if about else rollout


def _usage(reply: ChatReply) -> SampleUsage | None:
    """Of an API, what a sample took."""
    if (usage := reply.usage) is None:
        return None
    return SampleUsage(
        model=usage.model or None,
        cost=usage.cost,
        cached_cost=usage.cached_cost if usage.cached else None,
        without=usage.without or None,
    )
