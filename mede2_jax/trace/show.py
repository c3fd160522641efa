"""A pair's history on a terminal, to be read from the question down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mede2_jax.data.records import Judgment, Rollout
from mede2_jax.foreign import visible
from mede2_jax.origins.source import facts
from mede2_jax.reasoning import prompts
from mede2_jax.reasoning.answers import final_answer
from mede2_jax.reasoning.judge_reply import Verdict
from mede2_jax.reasoning.rubric import ASPECTS, MMRP
from mede2_jax.trace.pairs import History


def shown(history: History, limit: int | None) -> Iterator[RenderableType]:
    """The history, to be read from the question down."""
    pair, question = history.pair, history.rollouts["chosen"]
    yield Panel(_question(question, limit), title=f"question {safe(question.question_id)}", title_align="left")
    for side, rollout in history.rollouts.items():
        judgments = history.judgments[side]
        body = Group(_rollout(rollout), Text(_cut(rollout.response, limit)), _verdicts(judgments))
        yield Panel(body, title=f"{side}: rollout {safe(rollout.id)}", title_align="left")
    yield Panel(_sources(history), title=f"pair {safe(pair.id)}", title_align="left")


def _question(rollout: Rollout, limit: int | None) -> RenderableType:
    texts = [f"{message.role}: {message.text}" for message in rollout.prompt if message.role != "system"]
    table = grid()
    table.add_row("images", safe(", ".join(rollout.images) or "none"))
    table.add_row("right answer", safe(rollout.answer or "not known"))
    return Group(Text(_cut("\n".join(texts), limit)), table)


def grid() -> Table:
    """Two columns; nothing is cut: digests are to be copied."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    return table


def _rollout(rollout: Rollout) -> Table:
    table = grid()
    table.add_row("model", safe(rollout.model))
    table.add_row("sample, seed", f"{rollout.sample}, {rollout.seed}")
    table.add_row("final answer", safe(final_answer(rollout.response) or "none"))
    return table


def _verdicts(judgments: Sequence[Judgment]) -> Table:
    """One column a judgment."""
    table = Table()
    table.add_column("aspect (* not of MMRP)")
    for judgment in judgments:
        judge = judgment.judge
        asked = f", prompt {judge.prompt}" if judge.prompt else ""
        table.add_column(safe(f"judgment {judgment.id}\n{judge.engine} {judge.model}{asked}"), overflow="fold")
    for aspect in ASPECTS:
        verdicts = [getattr(judgment, aspect) for judgment in judgments]
        name = aspect.replace("_", " ") + ("" if aspect in MMRP else "*")
        table.add_row(name, *(_verdict(verdict) for verdict in verdicts))
    return table


def _verdict(verdict: Verdict) -> str:
    met = "[green]yes[/]" if verdict.met else "[red]no[/]"
    return f"{met}  {safe(verdict.reason)}" if verdict.reason else met


def _sources(history: History) -> RenderableType:
    table = grid()
    fails = history.pair.metadata.get("rejected_fails") or []
    table.add_row("rejected fails", safe(", ".join(map(str, fails)) if isinstance(fails, list) else str(fails)))
    for source in history.sources:
        table.add_row(source.name, safe(str(source.path or "—")) + (f" [yellow]({safe(source.fault)})[/]" if source.fault else ""))
        for name, value in facts(source):
            table.add_row("", f"{name}: {safe(value)}")
    used = {judgment.judge.prompt for judgments in history.judgments.values() for judgment in judgments} - {None}
    for prompt in prompts.JUDGES.values():
        if prompt.title in used:
            table.add_row("judge's prompt", safe(f"{prompt.title} ({prompt.origin}), mede2_jax.reasoning.prompts"))
            used.discard(prompt.title)
    for title in sorted(filter(None, used)):
        table.add_row("judge's prompt", f"{safe(title)} [yellow](not in this version of mede2_jax)[/]")
    return table


def safe(text: str) -> str:
    """Foreign text for a cell: neither a terminal nor rich obeys it."""
    return escape(visible(text))


def _cut(text: str, limit: int | None) -> str:
    if limit is None or len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])}… ({len(text) - limit:,} characters more: --limit=0)"
