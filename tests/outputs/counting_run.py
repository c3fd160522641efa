"""The smallest command with a resumable run: it writes the squares of numbers."""

import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console

from mede2_jax.config import Config
from mede2_jax.outputs.failures import Failure
from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.manifest import Begun, begun_otherwise, differences
from mede2_jax.outputs.resumable import Outcome, ResumableRun


class SquaresConfig(Config):
    out: Path
    count: int = 10
    """How many numbers; may change."""
    power: int = 2


class Square(Config):
    number: int
    square: int
    padding: str = ""


class FailedSquare(Failure):
    number: int
    attempts: int = 0

    @property
    def items(self):
        return [self.number]


class Squares:
    """A tally."""

    def __init__(self):
        self.numbers: set[int] = set()

    @property
    def records(self):
        return len(self.numbers)

    def add(self, record):
        if record.number < 0:
            raise ValueError(f"{record.number} is negative")
        self.numbers.add(record.number)

    def counts(self):
        return {"squares": self.records, "sum": sum(self.numbers)}


class SquaresRun(ResumableRun[int, Square, FailedSquare, Begun, Squares]):
    COMMAND, DOING, RECORD, NOTHING = "python -m mede2_jax.squares", "squaring", "square", "nothing is squared yet"
    BEGUN, FAILURE = Begun, FailedSquare

    def __init__(self, config: SquaresConfig, file: OutputFile, make: Any) -> None:
        super().__init__(config, file, Squares(), Console(quiet=True))
        self.config, self.make, self.asked = config, make, []

    def check_same(self, before):
        options = differences(before.config, self.config.model_dump(mode="json"), ("out", "count").__contains__)
        if options:
            raise begun_otherwise(self.out, options.values())

    def read(self, raw, where):
        return Square.model_validate(raw)

    def plan(self):
        return [number for number in range(self.config.count) if number not in self.tally.numbers]

    def items(self, wanted):
        return [wanted]

    def is_open(self, item):
        return item not in self.tally.numbers

    def total(self):
        return self.config.count

    @contextlib.contextmanager
    def answers(self):
        yield map(self.outcome, self.missing)

    def outcome(self, number):
        before = self.failures.get(number)
        attempts = before.attempts if before else 0
        self.asked.append((number, attempts))
        made = self.make(number)
        if made is None:
            return Outcome([number], failure=FailedSquare(number=number, reason=f"{number} is odd", attempts=attempts + 1))
        return Outcome([number], [Square(number=number, square=number**2, padding=made)], tokens=1)

    def inputs(self):
        return {"numbers": "natural"}

    def counts(self):
        return {"in": self.config.count}

    def dropped(self):
        return self.failures.by_reason()

    def begin(self):
        self.say(f"{len(self.missing)} to square")

    def finish(self):
        self.say(f"{self.tally.records} squares")


def squares(out, make=lambda number: "", **options):
    """A run from beginning to end; returns what was asked for."""
    config = SquaresConfig(out=out, **options)
    with OutputFile(config.out, "squares") as file:
        run = SquaresRun(config, file, make)
        run.run()
        return run.asked
