"""What came out of a sampling run: counts, and the closing table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from mede2_jax.data.records import Rollout
from mede2_jax.foreign import one_line
from mede2_jax.outputs.progress import RunProgress
from mede2_jax.outputs.summary import share
from mede2_jax.reasoning.answers import final_answer, grade


@dataclasses.dataclass
class Tally:
    """Counts over samples."""

    samples: int = 0
    truncated: int = 0
    """Cut at the longest allowed."""
    empty: int = 0
    unparsed: int = 0
    """No final answer can be read."""
    known: int = 0
    """Of a question whose answer is known."""
    correct: int = 0
    response_tokens: int = 0

    @property
    def records(self) -> int:
        """How many samples there are."""
        return self.samples

    def counts(self) -> dict[str, int]:
        """For the manifest."""
        return dataclasses.asdict(self)

    def add(self, rollout: Rollout) -> None:
        """Counts a sample.

        Raises:
            ValueError: Its right answer is none of its options.
        """
        outcome = grade(rollout.response, rollout.answer, rollout.options)
        self.samples += 1
        self.truncated += rollout.finish_reason == "length"
        self.empty += not rollout.response.strip()
        self.unparsed += outcome == "unparsed" or (outcome is None and final_answer(rollout.response) is None)
        self.known += outcome is not None
        self.correct += outcome == "correct"
        self.response_tokens += rollout.response_tokens


def closing_table(tally: Tally, progress: RunProgress, failures: Mapping[str, int]) -> Table:
    """What the file holds, and what this run did."""
    sampled, seconds = progress.done - progress.begun_with - sum(failures.values()), max(progress.seconds, 1e-9)
    table = Table(title="rollouts", show_header=False)
    rows: dict[str, Any] = {
        "samples": f"{tally.samples:,}",
        "truncated": share(tally.truncated, tally.samples),
        "empty": share(tally.empty, tally.samples),
        "no answer to read": share(tally.unparsed, tally.samples),
        "correct, where known": share(tally.correct, tally.known),
        "response tokens": f"{tally.response_tokens:,}, {tally.response_tokens / max(tally.samples, 1):,.0f} a sample",
    }
    if sampled:
        rows["this run"] = f"{sampled:,} samples in {seconds:.1f} s: {sampled / seconds:.2f}/s, {progress.tokens / seconds:,.0f} tokens/s"
    for name, value in rows.items():
        table.add_row(name, value)
    for reason, count in failures.items():
        table.add_row("[yellow]failed[/]", f"{count:,}: {escape(one_line(reason))}")
    return table
