"""A run from config to file: what is missing is asked for, and what comes is written at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from mede2_jax.config import UserError, counted
from mede2_jax.data.records import Question, Rollout
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest
from mede2_jax.outputs.file import describe_torn
from mede2_jax.outputs.progress import AGAIN, RunProgress, closing
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.rollout.engine import check_engine, engine_kind, open_engine
from mede2_jax.rollout.manifest import Failure, Manifest, check_same
from mede2_jax.rollout.output import RolloutFile, missing_runs
from mede2_jax.rollout.setup import Setup, open_setup, question_seed
from mede2_jax.rollout.summary import Tally, closing_table


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
    with RolloutFile(config.out) as file:
        setup = open_setup(config, model_dir, console)
        check_engine(setup)
        manifest = Manifest(setup, None if file.is_empty else check_same(setup))
        tally = Tally()
        done, torn = file.read(_seeds(setup), config.n, tally)
        if torn:
            console.print(f"{config.out}: {describe_torn(torn, 'sample')}", markup=False)
        _Run(setup, file, manifest, tally, done, console).run()


def _seeds(setup: Setup) -> dict[str, int]:
    return {id: question_seed(setup.config.seed, id) for id in setup.all_ids}


def first_requests(setup: Setup) -> Iterator[ChatRequest]:
    """One request for each question, for all its samples."""
    return (request(setup, number, range(setup.config.n)) for number in setup.numbers)


def request(setup: Setup, number: int, samples: range) -> ChatRequest:
    """The request for these samples of the question with that number."""
    question = setup.questions.question(number)
    images = setup.questions.images(number, question)
    seed = question_seed(setup.config.seed, question.id) + samples.start
    return ChatRequest(question.id, question.prompt, images, len(samples), seed)


class _Run:
    """The samples of one file, from those that are there to all."""

    def __init__(
        self, setup: Setup, file: RolloutFile, manifest: Manifest, tally: Tally, done: Mapping[str, set[int]], console: Console
    ) -> None:
        self.setup, self.file, self.manifest, self.tally, self.console = setup, file, manifest, tally, console
        self.engine = engine_kind(setup.config)
        ids = {number: setup.all_ids[number] for number in setup.numbers}
        self.missing = {number: missing_runs(done.get(id, set()), setup.config.n) for number, id in ids.items()}
        self.number_of = {id: number for number, id in ids.items()}
        self.wanted = len(ids) * setup.config.n
        left = sum(len(samples) for runs in self.missing.values() for samples in runs)
        self.progress = RunProgress(console, "sampling", self.wanted - left, self.wanted)

    def run(self) -> None:
        """Samples what is missing, keeps the manifest, and shows what came out."""
        config, begun = self.setup.config, self.progress.begun_with
        if begun == self.wanted:
            self.console.print(f"{config.out} has all {counted(self.wanted, 'sample')}; nothing to do", markup=False)
        else:
            there = f", {begun:,} are there" if begun else ""
            what = f"{counted(len(self.setup.numbers), 'question')} × {config.n} = {counted(self.wanted, 'sample')}{there}"
            self.console.print(f"{what}; engine {self.engine}")
            self._write(finished=False)
            self._sample()
        self._write(finished=True)
        self.console.print(closing_table(self.tally, self.progress, self.manifest.dropped))
        self.console.print(f"{'rollouts:':10} {config.out}", soft_wrap=True, markup=False)
        if self.manifest.failures:
            failed = f"{sum(self.manifest.dropped.values()):,} samples failed: see {self.manifest.path}; {AGAIN}"
            self.console.print(failed, style="yellow", soft_wrap=True, markup=False)
        if not self.tally.samples:
            raise UserError(f"no question could be answered; the first: {self.manifest.failures[0].reason}")

    def _sample(self) -> None:
        with (
            closing(self._close_early, self._kept),
            open_engine(self.setup, lambda line: self.console.print(line, soft_wrap=True, markup=False)) as engine,
            self.progress,
        ):
            for reply in engine.answer(self._requests()):
                self._take(reply)

    def _requests(self) -> Iterator[ChatRequest]:
        """One request for each run of missing samples, so that a question's prompt and images are computed once."""
        return (request(self.setup, number, samples) for number, runs in self.missing.items() for samples in runs)

    def _take(self, reply: ChatReply | ChatFailure) -> None:
        request = reply.request
        first = request.seed - question_seed(self.setup.config.seed, request.id)
        if isinstance(reply, ChatFailure):
            self.manifest.failures.append(Failure(request.id, range(first, first + request.n), reply.reason))
            tokens = 0
        else:
            question = self.setup.questions.question(self.number_of[request.id])
            rollouts = [self._rollout(question, first + index, reply, index) for index in range(request.n)]
            self.file.append(rollouts)
            for rollout in rollouts:
                self.tally.add(rollout)
            tokens = sum(rollout.response_tokens for rollout in rollouts)
        if self.progress.advance(request.n, tokens):
            self._write(finished=False)

    def _rollout(self, question: Question, sample: int, reply: ChatReply, index: int) -> Rollout:
        completion = reply.completions[index]
        assert completion.seed == reply.request.seed + index
        kept = self.setup.config.logprobs
        return Rollout(
            id=f"{question.id}#{sample}",
            images=question.images,
            parents=(question.id,),
            source=question.source,
            metadata=question.metadata,
            prompt=question.prompt,
            answer=question.answer,
            options=question.options,
            sample=sample,
            response=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            response_tokens=len(completion.token_ids),
            seed=completion.seed,
            model=self.setup.sampled,
            token_ids=completion.token_ids if kept else None,
            logprobs=completion.logprobs if kept else None,
        )

    def _write(self, *, finished: bool) -> None:
        self.manifest.write(self.tally, self.wanted, self.progress.seconds, engine=self.engine, finished=finished)

    def _kept(self) -> str:
        return f"{self.tally.samples:,} samples are in {self.setup.config.out}, {AGAIN}" if self.tally.samples else "no sample came yet"

    def _close_early(self) -> None:
        """The manifest of a run that ends before its time, if it can be written: the first error is the one to report."""
        with contextlib.suppress(OSError, UserError):
            # A signal can fall between a line and its count.
            tally = Tally()
            self.file.read(_seeds(self.setup), self.setup.config.n, tally)
            self.tally = tally
        if self.tally.samples:
            with contextlib.suppress(OSError):
                self._write(finished=False)
        else:
            self.manifest.path.unlink(missing_ok=True)
