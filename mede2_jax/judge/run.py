"""A run from config to file: what is missing is judged, and what comes is written at once."""

from __future__ import annotations

import contextlib

from rich.console import Console

from mede2_jax.config import UserError, counted
from mede2_jax.data.records import Judgment
from mede2_jax.judge.config import JudgeConfig
from mede2_jax.judge.judges import Judged, open_judge
from mede2_jax.judge.manifest import Manifest, check_same
from mede2_jax.judge.output import JudgmentFile, missing
from mede2_jax.judge.setup import Setup, open_setup
from mede2_jax.judge.summary import Tally, agreement_table, closing_table
from mede2_jax.outputs.file import describe_torn
from mede2_jax.outputs.progress import AGAIN, RunProgress, closing


def run(config: JudgeConfig, console: Console) -> None:
    """Judges what is missing in `config.out`.

    Args:
        config: The run.
        console: Where to show progress.

    Raises:
        UserError: Something the user gave cannot be used, or the judge broke down; a file that was there has lost nothing.
    """
    assert config.out is not None
    with JudgmentFile(config.out) as file:
        setup = open_setup(config, console)
        wanted = len(setup.tasks[: config.limit])
        manifest = Manifest(setup, wanted, None if file.is_empty else check_same(setup))
        tally = Tally()
        torn = file.read({task.id: task for task in setup.tasks}, config.repeat, tally)
        if torn:
            console.print(f"{config.out}: {describe_torn(torn, 'judgment')}", markup=False)
        _Run(setup, file, manifest, tally, console).run()


class _Run:
    """The judgments of one file, from those that are there to all."""

    def __init__(self, setup: Setup, file: JudgmentFile, manifest: Manifest, tally: Tally, console: Console) -> None:
        self.setup, self.file, self.manifest, self.tally, self.console = setup, file, manifest, tally, console
        self.missing = list(missing(setup.tasks[: manifest.wanted], setup.config.repeat, tally, manifest.attempts))
        self.wanted = manifest.wanted * setup.config.repeat
        self.progress = RunProgress(console, "judging", self.wanted - len(self.missing), self.wanted)

    def run(self) -> None:
        """Judges what is missing, keeps the manifest, and shows what came out."""
        config, begun = self.setup.config, self.progress.begun_with
        judge = self.setup.inputs["judge"]
        there = f", {begun:,} are there" if begun else ""
        what = f"{counted(self.manifest.wanted, 'response')} × {config.repeat} to judge of {len(self.setup.file):,}{there}"
        self._say(f"{what}; judge {judge['engine']}, {judge['model']}")
        if self.missing:
            self._write(finished=False)
            self._judge()
        else:
            self._say(f"{config.out} has all {counted(self.wanted, 'judgment')}; nothing to do" if begun else "there is nothing to judge")
        self._write(finished=True)
        failures, failed = self.manifest.failures, self.manifest.failed
        dropped = self.manifest.dropped(self.tally)
        self.console.print(closing_table(self.tally, len(self.setup.file), dropped, failed, self.manifest.lost, self.progress))
        if agreements := self.tally.agreements(config.repeat):
            self.console.print(agreement_table(agreements))
        if self.tally.judgments:
            self._say(f"{'judgments:':10} {config.out}")
        if failures:
            self._say(f"{len(failures):,} judgments failed: see {self.manifest.path}; {AGAIN}", style="yellow")
        if self.missing and not self.tally.judgments:
            raise UserError(f"nothing could be judged; the first: {failures[0].reason}")

    def _judge(self) -> None:
        try:
            with closing(self._close_early, self._kept), open_judge(self.setup, self._say) as judge, self.progress:
                for judged in judge.judge(iter(self.missing)):
                    self._take(judged)
        except UserError as error:
            raise UserError(f"{error}; {self._kept()}" if self.tally.judgments else str(error)) from None

    def _take(self, judged: Judged) -> None:
        tokens = 0
        if judged.verdicts is None:
            self.manifest.failures.append(judged)
        else:
            judgment = self._judgment(judged)
            self.file.append([judgment])
            self.tally.add(judgment)
            tokens = judgment.usage.response_tokens if judgment.usage else 0
        if self.progress.advance(1, tokens):
            self._write(finished=False)

    def _judgment(self, judged: Judged) -> Judgment:
        task, verdicts = judged.wanted.task, judged.verdicts
        assert verdicts is not None
        return Judgment(
            id=judged.wanted.id,
            parents=(task.id,),
            question=task.question,
            repeat=judged.wanted.repeat,
            of=task.digest,
            outcome=task.outcome,
            correctness=verdicts["correctness"],
            logical_consistency=verdicts["logical_consistency"],
            image_analysis=verdicts["image_analysis"],
            no_hallucination=verdicts["no_hallucination"],
            reflection=verdicts["reflection"],
            judge=self.setup.config.judged_by,
            raw=judged.raw,
            usage=judged.usage,
        )

    def _say(self, line: str, style: str | None = None) -> None:
        self.console.print(line, soft_wrap=True, markup=False, style=style)

    def _write(self, *, finished: bool) -> None:
        self.manifest.write(self.tally, self.progress.seconds, finished=finished)

    def _kept(self) -> str:
        return (
            f"{self.tally.judgments:,} judgments are in {self.setup.config.out}, {AGAIN}"
            if self.tally.judgments
            else "nothing is judged yet"
        )

    def _close_early(self) -> None:
        """The manifest of a run that ends before its time, if it can be written: the first error is the one to report."""
        with contextlib.suppress(OSError, UserError):
            # A signal can fall between a line and its count.
            tally = Tally()
            self.file.read({task.id: task for task in self.setup.tasks}, self.setup.config.repeat, tally)
            self.tally = tally
        if self.tally.judgments:
            with contextlib.suppress(OSError):
                self._write(finished=False)
        else:
            self.manifest.path.unlink(missing_ok=True)
