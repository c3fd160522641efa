"""A run that can be killed anywhere and started again with the same command: from the records that are there to all that are wanted.

A command subclasses `ResumableRun` with what is its own (what a record is, what is wanted, who makes it, what is counted); `OutputFile`,
the manifest beside it, progress, and how the run ends are here.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pydantic
from rich.console import Console

from mede2_jax.config import Config, UserError
from mede2_jax.json_file import check
from mede2_jax.outputs.failures import Failures, FailureT
from mede2_jax.outputs.file import OutputFile, Unwritable, describe_torn
from mede2_jax.outputs.manifest import Begun, Json, manifest_path, read_begun, read_manifest, write_manifest
from mede2_jax.outputs.progress import AGAIN, RunProgress, closing, undisturbed

RecordT = TypeVar("RecordT", bound=pydantic.BaseModel)
RecordT_contra = TypeVar("RecordT_contra", contravariant=True)
WantedT = TypeVar("WantedT")
BegunT = TypeVar("BegunT", bound=Begun)


class Tally(Protocol[RecordT_contra]):
    """Counts over the records of a file."""

    @property
    def records(self) -> int:
        """How many were counted."""
        ...

    def add(self, record: RecordT_contra) -> None:
        """Counts a record.

        Raises:
            ValueError: It says what cannot be; nothing was counted.
        """
        ...

    def counts(self) -> Mapping[str, Any]:
        """For the manifest."""
        ...


TallyT = TypeVar("TallyT", bound=Tally)


@dataclass(frozen=True)
class Outcome(Generic[RecordT, FailureT]):
    """What came of something that was wanted."""

    items: Sequence[Hashable]
    """Names of the records that were wanted."""
    records: Sequence[RecordT] = ()
    """One of each, or none."""
    failure: FailureT | None = None
    """Why there are none."""
    tokens: int = 0
    """That were made for them."""


class ResumableRun(abc.ABC, Generic[WantedT, RecordT, FailureT, BegunT, TallyT]):
    """One run on one file. `run` does all of it; the methods that follow are a command's own.

    Args:
        config: Of the run; the manifest holds it, and another one on the same file is refused by `check_same`.
        file: The output, held.
        tally: Counts nothing yet.
        console: Where to show progress.

    Raises:
        UserError: The file may not be gone on with: it has no manifest, or one of another run, or a line that is none of this run's.
            It is as it was.
    """

    COMMAND: ClassVar[str]
    """As the user types it."""
    DOING: ClassVar[str]
    """What is done, such as `sampling`."""
    RECORD: ClassVar[str]
    """What a line holds, such as `sample`."""
    NOTHING: ClassVar[str]
    """What is said at an early end where there is no record."""
    BEGUN: type[BegunT]
    """What is needed of the manifest of the run before."""
    FAILURE: type[FailureT]
    """What the manifest keeps of what failed."""

    def __init__(self, config: Config, file: OutputFile, tally: TallyT, console: Console) -> None:
        self.run_config, self.file, self.tally, self.console = config, file, tally, console
        self.before: BegunT | None = None
        """The manifest of the run before, where this one goes on with its file."""

    @abc.abstractmethod
    def check_same(self, before: BegunT) -> None:
        """Refuses a file that was begun with another config or other inputs.

        Raises:
            UserError: `begun_otherwise`, with what differs.
        """

    @abc.abstractmethod
    def read(self, raw: Json, where: str) -> RecordT:
        """A line of the file as the record it is, which comes to `tally` next.

        Raises:
            UserError: This run would not have written it.
        """

    @abc.abstractmethod
    def plan(self) -> Sequence[WantedT]:
        """What is wanted and not there, in the order in which it is to be made; the file has been read."""

    @abc.abstractmethod
    def items(self, wanted: WantedT) -> Sequence[Hashable]:
        """Names of the records that `wanted` asks for; a failure has the same ones."""

    @abc.abstractmethod
    def is_open(self, item: Hashable) -> bool:
        """Whether a record of that name could be in the file, and is not."""

    @abc.abstractmethod
    def total(self) -> int:
        """How many records this run wants, with those that are there."""

    @abc.abstractmethod
    def answers(self) -> AbstractContextManager[Iterator[Outcome[RecordT, FailureT]]]:
        """What comes of all that is in `missing`, in any order; inside `with`, whoever makes it is at work.

        Raises:
            UserError: No more can be made. What was made has been given out.
        """

    @abc.abstractmethod
    def inputs(self) -> Mapping[str, Any]:
        """What the manifest says of what the records are made of."""

    @abc.abstractmethod
    def counts(self) -> Mapping[str, Any]:
        """What the manifest counts besides the records: what went in."""

    @abc.abstractmethod
    def dropped(self) -> Mapping[str, int]:
        """What went in and did not come out, by reason."""

    def more(self) -> Mapping[str, Any]:
        """What else belongs into the manifest."""
        return {}

    @abc.abstractmethod
    def begin(self) -> None:
        """Says what is to be done."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Shows what came out.

        Raises:
            UserError: Nothing did.
        """

    @property
    def out(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def missing(self) -> Sequence[WantedT]:
        """What this run was to make, from its beginning."""
        return self._missing

    def run(self) -> None:
        """Makes what is missing, keeps the manifest, and shows what came out.

        Raises:
            UserError: As the class says; or no more can be made, or nothing could. What was made is in the file.
        """
        self._take_up()
        self.begin()
        if self.missing:
            self.write(finished=False)
            self.work()
        self.write(finished=True)
        self.finish()

    def work(self) -> None:
        """Makes what is missing."""
        try:
            with closing(self._close_early, self.kept), self.answers() as outcomes, self.progress:
                for outcome in outcomes:
                    self._take(outcome)
        except UserError as error:
            raise self.ended_by(error) from None

    def ended_by(self, error: UserError) -> UserError:
        """What the user hears of an early end: of a full disk, also what is kept."""
        return UserError(f"{error}; {self.kept()}") if isinstance(error, Unwritable) else error

    def say(self, line: str, style: str | None = None) -> None:
        """Prints a line as it is."""
        self.console.print(line, soft_wrap=True, markup=False, style=style)

    def kept(self) -> str:
        """What is there, at an early end."""
        return f"{self.tally.records:,} {self.RECORD}s are in {self.out}, {AGAIN}" if self.tally.records else self.NOTHING

    def write(self, *, finished: bool) -> None:
        """Replaces the manifest in one step; `finished`: whether all was tried.

        Raises:
            Unwritable: The disk is full.
        """
        content = {
            "command": self.COMMAND,
            "config": self.run_config.model_dump(mode="json"),
            **self.inputs(),
            "finished": finished,
            "counts": {**self.counts(), "wanted": self.progress.total + self._beyond, **self.tally.counts()},
            "dropped": self.dropped(),
            "failed": [failure.model_dump(mode="json") for failure in self.failures.listed()],
            **self.more(),
            "seconds": round((self.before.seconds if self.before else 0.0) + self.progress.seconds, 3),
        }
        try:
            write_manifest(self.out, content)
        except OSError as error:
            raise Unwritable(manifest_path(self.out), error) from None

    def _take_up(self) -> None:
        """Reads what is there, and finds what is missing."""
        known = self._begun()
        for raw, where in self.file.whole_lines():
            self._count(self.read(raw, where), where)
        if torn := self.file.cut_torn():
            self.say(f"{self.out}: {describe_torn(torn, self.RECORD)}")
        self._counted = self.file.size
        # A kill can fall between a record and the manifest, which then still has its failure of before.
        self.failures = Failures(known, self.is_open)
        self._missing = self.plan()
        wanted = [item for one in self.missing for item in self.items(one)]
        done = self.total() - len(wanted)
        # What a wider run has left: it is there, or failed, and this run does not ask for it.
        self._beyond = self.tally.records - done + self.failures.count_without(wanted)
        self.progress = RunProgress(self.console, self.DOING, done, self.total())

    def _begun(self) -> list[FailureT]:
        """Takes the manifest of the run before, if this run may go on with its file; returns what had failed."""
        if not self.file.is_empty:
            self.before = read_begun(self.out, self.BEGUN)
            self.check_same(self.before)
            return self._failures(self.before)
        content = read_manifest(self.out)
        if content is None or content.get("command") != self.COMMAND:
            return []
        # All may have failed: then it stands there and nowhere else. Of another run it does not matter.
        begun = check(content, self.BEGUN, str(manifest_path(self.out)), "delete it")
        try:
            self.check_same(begun)
        except UserError:
            return []
        return self._failures(begun)

    def _failures(self, begun: BegunT) -> list[FailureT]:
        where = f"{manifest_path(self.out)}: failed"
        return [check(failed, self.FAILURE, where, "the manifest is damaged: use another --out") for failed in begun.failed]

    def _count(self, record: RecordT, where: str) -> None:
        try:
            self.tally.add(record)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{where}: {error}; use another --out") from None

    def _take(self, outcome: Outcome[RecordT, FailureT]) -> None:
        with undisturbed():  # a record is in the file and counted, or neither
            self.file.append(outcome.records)
            for record in outcome.records:
                self.tally.add(record)
            self._counted = self.file.size
            self.failures.settle(outcome.items, outcome.failure)
        if self.progress.advance(len(outcome.items), outcome.tokens):
            self.write(finished=False)

    def _close_early(self) -> None:
        """The manifest of a run that ends before its time, if it can be written: the first error is the one to report."""
        with contextlib.suppress(OSError, UserError):
            # A full disk can have taken some of the records that came together, and a part of one.
            self.file.cut_torn()
            for raw, where in self.file.whole_lines(self._counted):
                self._count(self.read(raw, where), where)
        if self.tally.records or self.failures:
            with contextlib.suppress(Unwritable):
                self.write(finished=False)
        else:
            manifest_path(self.out).unlink(missing_ok=True)
