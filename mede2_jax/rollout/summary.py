"""What came out of a sampling run: counts, and the closing table."""

from __future__ import annotations

import dataclasses
from collections import Counter
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


class PaidTally(Tally):
    """Counts over samples of an API, and what they cost."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0
        self.cost = self.cached_cost = 0.0
        """US dollars of all samples, whenever they were paid for; of those that came from the cache."""
        self.answered_by: Counter[str] = Counter()
        """Samples by what the API says has answered."""
        self.asked_without: Counter[str] = Counter()
        """Samples that were asked without an option that the API does not take, by option."""

    def counts(self) -> dict[str, int]:
        """For the manifest."""
        return {**super().counts(), "refused": self.refused}

    def add(self, rollout: Rollout) -> None:
        """As `Tally.add`."""
        super().add(rollout)
        self.refused += rollout.finish_reason == "refusal"
        if (usage := rollout.usage) is not None:
            self.cost += usage.whole_cost
            self.cached_cost += usage.cached_cost or 0.0
            self.answered_by.update([usage.model] if usage.model else [])
            self.asked_without.update(usage.without or ())

    def paid(self, lost: float) -> dict[str, Any]:
        """What was paid and to whom, for manifests and scores; `lost` is what samples that failed have cost."""
        cost = {"samples": self.cost, "failed": lost, "from_cache": self.cached_cost}
        return {
            "answered_by": dict(sorted(self.answered_by.items())),
            "cost": {name: round(dollars, 6) for name, dollars in cost.items()},
            "asked_without": dict(sorted(self.asked_without.items())),
        }

    def rows(self, lost: float) -> dict[str, str]:
        """Of the closing table."""
        before = f", of it ${self.cached_cost:,.4f} from the cache" if self.cached_cost else ""
        failed = f", and ${lost:,.4f} for samples that failed" if lost else ""
        rows = {
            "refused": share(self.refused, self.samples),
            "answered by": escape(one_line(", ".join(self.answered_by))) or "a model without a name",
            # $0 would say that it was free: the model may have no price here.
            "cost": f"${self.cost:,.4f}{before}{failed}" if self.cost or lost else "none counted",
        }
        without = {f"asked without {escape(one_line(name))}": f"{count:,}" for name, count in self.asked_without.items()}
        return {**rows, **without}


def _graded(tally: Tally) -> dict[str, str]:
    """What answers say; of questions without known answers, whoever scores them says it by his own rule."""
    return {"no answer to read": share(tally.unparsed, tally.samples), "correct, where known": share(tally.correct, tally.known)}


def closing_table(tally: Tally, progress: RunProgress, failures: Mapping[str, int], lost: float = 0.0) -> Table:
    """What the file holds, and what this run did; `lost` is what samples that failed have cost."""
    sampled, seconds = progress.done - progress.begun_with - sum(failures.values()), max(progress.seconds, 1e-9)
    table = Table(title="rollouts", show_header=False)
    rows: dict[str, Any] = {
        "samples": f"{tally.samples:,}",
        "truncated": share(tally.truncated, tally.samples),
        "empty": share(tally.empty, tally.samples),
        **(_graded(tally) if tally.known else {}),
        "response tokens": f"{tally.response_tokens:,}, {tally.response_tokens / max(tally.samples, 1):,.0f} a sample",
    }
    if isinstance(tally, PaidTally):
        rows |= tally.rows(lost)
    if sampled:
        rows["this run"] = f"{sampled:,} samples in {seconds:.1f} s: {sampled / seconds:.2f}/s, {progress.tokens / seconds:,.0f} tokens/s"
    for name, value in rows.items():
        table.add_row(name, value)
    for reason, count in failures.items():
        table.add_row("[yellow]failed[/]", f"{count:,}: {escape(one_line(reason))}")
    return table
