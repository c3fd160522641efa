"""What came out of pairing: responses, pairs and questions, each with what was dropped and why, so that in = out + dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from mede2_jax.pair.choose import Candidate, Choice
from mede2_jax.pair.job import PairingJob
from mede2_jax.reasoning.rubric import Criterion

NO_POSITIVE, NO_NEGATIVE, NOTHING_JUDGED, BY_LIMITS = "no positive response", "no negative response", "no judged response", "by limits"


@dataclass
class Report:
    """Counts of a run."""

    responses: int
    """All that went in."""
    responses_dropped: Counter[str]
    failing: Counter[Criterion]
    """Responses that fail each criterion."""
    questions: int
    positive: int = 0
    negative: int = 0
    candidates: int = 0
    """Of Y_p × Y_n, over all questions."""
    pairs: int = 0
    held_out: int = 0
    """Of these, for evaluation."""
    pairs_dropped: Counter[str] = field(default_factory=Counter)
    questions_dropped: Counter[str] = field(default_factory=Counter)
    rejected_fails: Counter[Criterion] = field(default_factory=Counter)
    """Pairs whose rejected response fails each criterion."""
    lengths: dict[str, list[int]] = field(default_factory=lambda: {"chosen": [], "rejected": []})
    """Characters of the two responses of each pair."""

    @classmethod
    def of(cls, job: PairingJob) -> Report:
        """The report of a run that has only read its files."""
        return cls(len(job.file), job.dropped, job.failing, len(job.questions))

    def add_without(self, positive: int, negative: int) -> None:
        """Counts a question that lacks one side or both."""
        self.positive, self.negative = self.positive + positive, self.negative + negative
        self.questions_dropped[NO_NEGATIVE if positive else NO_POSITIVE if negative else NOTHING_JUDGED] += 1

    def add(self, choice: Choice, candidates: Sequence[Candidate], responses: Sequence[str], *, held_out: bool) -> None:
        """Counts a question and its pairs."""
        positive = sum(not candidate.fails for candidate in candidates)
        self.positive, self.negative = self.positive + positive, self.negative + len(candidates) - positive
        self.candidates += positive * (len(candidates) - positive)
        self.pairs_dropped += choice.dropped
        self.pairs += len(choice.pairs)
        self.held_out += held_out * len(choice.pairs)
        self.questions_dropped.update([] if choice.pairs else [BY_LIMITS])
        for chosen, rejected in choice.pairs:
            self.rejected_fails.update(candidates[rejected].fails)
            self.lengths["chosen"].append(len(responses[chosen]))
            self.lengths["rejected"].append(len(responses[rejected]))

    def why_none(self) -> str:
        """What became of the questions and of their pairs, where there is no pair."""
        parts = [f"{count:,} of {self.questions:,} questions: {reason}" for reason, count in self.questions_dropped.items()]
        return "; ".join(parts + [f"{count:,} pairs: {reason}" for reason, count in self.pairs_dropped.items()])

    def content(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "counts": {
                "responses": {"in": self.responses, "positive": self.positive, "negative": self.negative},
                "questions": {"in": self.questions, "with_pairs": self.questions - self.questions_dropped.total()},
                "pairs": {"in": self.candidates, "train": self.pairs - self.held_out, "eval": self.held_out},
            },
            "dropped": {
                "responses": dict(self.responses_dropped),
                "questions": dict(self.questions_dropped),
                "pairs": dict(self.pairs_dropped),
            },
            "responses_fail": dict(self.failing),
            "rejected_fails": dict(self.rejected_fails),
            "characters": {side: _quantiles(lengths) for side, lengths in self.lengths.items()},
        }


def tables(report: Report) -> Iterator[Table]:
    """The report, to be read."""
    table = Table(title="pairs", show_header=False)
    table.add_row("responses", f"{report.responses:,}")
    for reason, count in report.responses_dropped.items():
        table.add_row("  left out", f"{count:,}: {reason}")
    table.add_row("  positive, negative", f"{report.positive:,}, {report.negative:,}")
    table.add_section()
    table.add_row("questions", f"{report.questions:,}")
    for reason, count in report.questions_dropped.items():
        table.add_row("  without pairs", f"{count:,}: {reason}")
    table.add_section()
    table.add_row("Y_p × Y_n", f"{report.candidates:,}")
    for reason, count in report.pairs_dropped.items():
        table.add_row("  left out", f"{count:,}: {reason}")
    table.add_row("  pairs", f"{report.pairs:,}" + (f", {report.held_out:,} of them held out" if report.held_out else ""))
    yield table
    table = Table(title="rejected responses fail")
    table.add_column("criterion")
    table.add_column("pairs", justify="right")
    for criterion, count in report.rejected_fails.most_common():
        table.add_row(criterion.replace("_", " "), f"{count:,} ({count / report.pairs:.1%})")
    yield table
    table = Table(title="characters")
    for column in ("", "mean", "10%", "50%", "90%", "longest"):
        table.add_column(column, justify="right" if column else "left")
    for side, lengths in report.lengths.items():
        table.add_row(side, *(f"{value:,.0f}" for value in _quantiles(lengths).values()))
    yield table


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {}
    ordered = sorted(lengths)
    at = {f"p{share}": float(ordered[min(len(ordered) * share // 100, len(ordered) - 1)]) for share in (10, 50, 90)}
    return {"mean": round(sum(ordered) / len(ordered), 1), **at, "longest": float(ordered[-1])}
