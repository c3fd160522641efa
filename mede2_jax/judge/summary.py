"""What came out of a judging run: counts by criterion, what it took, how far the judge agrees with itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from mede2_jax.data.records import Judgment
from mede2_jax.foreign import one_line
from mede2_jax.outputs.progress import RunProgress
from mede2_jax.outputs.summary import share
from mede2_jax.reasoning.rubric import ASPECTS, MMRP, Aspect, failed
from mede2_jax.statistics.agreement import Agreement, agreement


class Tally:
    """Counts over judgments."""

    def __init__(self) -> None:
        self.verdicts: dict[str, dict[int, tuple[bool, ...]]] = {}
        """Of each response and repeat, in the order of `ASPECTS`."""
        self.records = 0
        """How many judgments there are, each of another response or repeat."""
        self.positive = self.wrong = 0
        """Judgments that find all of MMRP met; that find the answer wrong where rules do not tell, and count as neither."""
        self.met = dict.fromkeys(ASPECTS, 0)
        self.contradicted = 0
        """Judgments that call an answer wrong which is right by the rules."""
        self.prompt_tokens = self.response_tokens = self.calls = self.cached = 0
        self.cost = self.cached_cost = 0.0
        """US dollars of all answers, whenever they were paid for; of those that came from the cache."""
        self.asked_without: Counter[str] = Counter()
        """Judgments whose judge was asked without an option that its API does not take, by option."""

    @property
    def negative(self) -> int:
        """How many find some of MMRP not met."""
        return self.records - self.positive - self.wrong

    def add(self, judgment: Judgment) -> None:
        """Counts a judgment."""
        verdicts = judgment.verdicts
        self.verdicts.setdefault(judgment.rollout, {})[judgment.repeat] = tuple(verdicts[aspect] for aspect in ASPECTS)
        self.records += 1
        wrong = judgment.outcome is None and not verdicts["correctness"]
        self.wrong += wrong
        self.positive += not wrong and not failed(verdicts)
        for aspect in ASPECTS:
            self.met[aspect] += verdicts[aspect]
        self.contradicted += judgment.outcome == "correct" and not verdicts["correctness"]
        if (usage := judgment.usage) is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.response_tokens += usage.response_tokens
            self.calls += usage.calls
            self.cached += usage.cached
            self.cost += usage.whole_cost
            self.cached_cost += usage.cached_cost or 0.0
            self.asked_without.update(usage.without or ())

    def agreements(self, repeat: int) -> dict[Aspect | str, Agreement]:
        """How far the judge agrees with itself over `repeat` judgments, by aspect and as to which responses are positive."""
        if repeat < 2:
            return {}
        complete = [
            [by_repeat[place] for place in range(repeat)] for by_repeat in self.verdicts.values() if {*range(repeat)} <= by_repeat.keys()
        ]
        columns: dict[Aspect | str, list[list[bool]]] = {
            aspect: [[verdicts[place] for verdicts in item] for item in complete] for place, aspect in enumerate(ASPECTS)
        }
        columns["positive"] = [[not failed(dict(zip(ASPECTS, verdicts, strict=True))) for verdicts in item] for item in complete]
        return {name: found for name, items in columns.items() if (found := agreement(items)) is not None}

    def counts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "judgments": self.records,
            "positive": self.positive,
            "negative": self.negative,
            "wrong": self.wrong,
            "met": dict(self.met),
            "contradicted": self.contradicted,
            "prompt_tokens": self.prompt_tokens,
            "response_tokens": self.response_tokens,
            "calls": self.calls,
            "cached": self.cached,
            "asked_without": dict(sorted(self.asked_without.items())),
        }


def closing_table(
    tally: Tally, rollouts: int, dropped: Mapping[str, int], failures: Mapping[str, int], lost: float, progress: RunProgress
) -> Table:
    """What the file holds, and what this run did; `lost` is what judgments that failed have cost."""
    table = Table(title="judgments", show_header=False)
    total = tally.records
    table.add_row("responses", f"{rollouts:,}")
    for reason, count in dropped.items():
        table.add_row("  left out", f"{share(count, rollouts)}: {escape(one_line(reason))}")
    table.add_row("  judged", share(len(tally.verdicts), rollouts))
    table.add_section()
    table.add_row("judgments", f"{total:,}")
    for aspect in MMRP:
        table.add_row(f"  {aspect.replace('_', ' ')}", share(tally.met[aspect], total))
    table.add_row("  all four: positive", share(tally.positive, total))
    table.add_row("  any not: negative", share(tally.negative, total))
    if tally.wrong:
        table.add_row("  judged wrong", share(tally.wrong, total))
    if tally.contradicted:
        table.add_row("[yellow]  right, judged wrong[/]", share(tally.contradicted, total))
    for reason, count in failures.items():
        table.add_row("[yellow]  failed[/]", f"{count:,}: {escape(one_line(reason))}")
    if tally.calls:
        table.add_section()
        cached = f", {tally.cached:,} from the cache" if tally.cached else ""
        table.add_row("requests", f"{tally.calls:,}{cached}")
        for name, count in sorted(tally.asked_without.items()):
            table.add_row("[yellow]  asked without[/]", f"{count:,}: {escape(one_line(name))}, which the API does not take")
        table.add_row("tokens", f"{tally.prompt_tokens:,} in, {tally.response_tokens:,} out")
        failed = f", and ${lost:,.4f} for judgments that failed" if lost else ""
        before = f", of it ${tally.cached_cost:,.4f} from the cache" if tally.cached_cost else ""
        # $0 would say that it was free: the model may have no price here.
        table.add_row("cost", f"${tally.cost:,.4f}{before}{failed}" if tally.cost or lost else "none counted")
    done, seconds = progress.done - progress.begun_with, max(progress.seconds, 1e-9)
    if done:
        table.add_row("this run", f"{done:,} in {seconds:.1f} s: {done / seconds:,.1f}/s")
    return table


def agreement_table(agreements: Mapping[Aspect | str, Agreement]) -> Table:
    """How far the judge agrees with itself."""
    first = next(iter(agreements.values()))
    table = Table(title=f"self-agreement over {first.items:,} responses")
    for column in ("", "agreement", f"{first.kind}'s kappa"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in agreements.items():
        table.add_row(name.replace("_", " "), f"{found.percent:.1%}", "—" if found.kappa is None else f"{found.kappa:.2f}")
    return table
