"""From benchmarks and a model to scores."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mede2_jax.config import UserError, counted
from mede2_jax.data.image_store import ImageStore
from mede2_jax.data.records import Question
from mede2_jax.evaluate.against import adjust, against_table, check_other
from mede2_jax.evaluate.chosen import Chosen, choose, identity
from mede2_jax.evaluate.config import EvaluateConfig
from mede2_jax.evaluate.dry_run import ITEMS, show_prompts
from mede2_jax.evaluate.paid import paid
from mede2_jax.evaluate.questions import QUESTIONS, prepare, prompts_digest, write_questions
from mede2_jax.evaluate.sampling import COMMAND, ROLLOUTS, check_benchmarks, of_benchmarks, sample
from mede2_jax.outputs.file import OutputFile, write_whole
from mede2_jax.rollout.api import open_api_job
from mede2_jax.rollout.engine import check_api, check_engine
from mede2_jax.rollout.job import ModelJob, SamplingJob, open_job
from mede2_jax.score.against import EVALUATION
from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.judge_job import check_judge
from mede2_jax.score.judge_run import Purse
from mede2_jax.score.responses import Responses, of_prompt, read_responses
from mede2_jax.score.run import add_columns, cells, in_five, score
from mede2_jax.score.summary import Json
from mede2_jax.tasks.asking import THEN
from mede2_jax.weights.model_info import read_info

ENTRY = ("task", "title", "prompt", "mode", "partial", "overall", "at", "shuffles", "api", "against")
"""What evaluation.json says of each score."""


def run(config: EvaluateConfig, console: Console) -> Json:
    """Samples what is missing, scores all of it, and returns what evaluation.json says.

    Raises:
        UserError: What was given cannot be used, or the engine broke down; nothing that was there is lost.
    """
    assert config.out is not None
    if config.out.exists() and not config.out.is_dir():
        raise UserError(f"--out={config.out} is a file; give a folder")
    if config.model is not None:
        read_info(config.model)
    chosen = choose(config)
    for one in chosen:
        for prompt in one.prompts:
            check_judge(one.items.task, config.mode, prompt, config.judge, config.out)
    if config.against is not None:
        check_other(chosen, config.against, config.mode)
    benchmarks = identity(chosen)
    with OutputFile(config.out / ROLLOUTS, "rollouts", " (each shard needs one of its own)") as file:
        check_benchmarks(file, benchmarks)
        if config.asks_an_api and file.is_empty:  # before images are copied; scoring what is there needs no key
            check_api(config.as_api_rollouts(config.out / QUESTIONS, file.path))
        store = ImageStore(config.out, config.processor.max_image_pixels)
        questions = list(prepare(chosen, config.images, config.folders, store))
        numbers = write_questions(config.out / QUESTIONS, questions, keep=not file.is_empty)
        job = of_benchmarks(_job(config, config.out, numbers, console), benchmarks)
        if isinstance(job, ModelJob):
            check_engine(job)
        two_turns = [number for number, question in zip(numbers, questions, strict=True) if THEN in question.metadata]
        files = sample(job, file, benchmarks, two_turns, console)
        scores = _scores(config, chosen, questions, files, console)
    adjust(scores)
    summary: Json = {"command": COMMAND, "config": config.model_dump(mode="json"), "benchmarks": benchmarks, "scores": scores}
    write_whole(config.out / EVALUATION, json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    console.print(_closing_table(scores))
    if config.shuffle_options:
        console.print(_order_table(scores))
    if config.against is not None:
        console.print(against_table(scores, config.against))
    console.print(f"scores and verdicts are in {config.out}, in a folder for each task and prompt", soft_wrap=True, markup=False)
    return summary


def dry_run(config: EvaluateConfig, console: Console) -> None:
    """Shows the first prompts of each task; samples and keeps nothing.

    Raises:
        UserError: What was given cannot be used.
    """
    if config.limit is None and not config.ids:
        config = config.model_copy(update={"limit": ITEMS})
    chosen = choose(config)
    with tempfile.TemporaryDirectory(prefix="mede2-evaluate-") as name:
        folder = Path(name)
        store = ImageStore(folder, config.processor.max_image_pixels)
        questions = list(prepare(chosen, config.images, config.folders, store))
        numbers = write_questions(folder / QUESTIONS, questions, keep=False)
        show_prompts(_job(config, folder, numbers, console), store.names, console)


def _job(config: EvaluateConfig, folder: Path, numbers: Sequence[int], console: Console) -> SamplingJob:
    """The sampling of questions of a folder's file."""
    if config.asks_an_api:
        return open_api_job(config.as_api_rollouts(folder / QUESTIONS, folder / ROLLOUTS), console, numbers)
    assert config.model is not None
    return open_job(config.as_rollouts(folder / QUESTIONS, folder / ROLLOUTS), config.model, console, numbers)


def _scores(
    config: EvaluateConfig, chosen: Sequence[Chosen], questions: Sequence[Question], files: dict[bool, Path], console: Console
) -> list[Json]:
    assert config.out is not None
    read = functools.cache(lambda path: read_responses(path, ScoreConfig().columns))
    scores: list[Json] = []
    purse = Purse(config.judge.max_cost)
    costs = paid(files.values()) if config.asks_an_api else {}
    for one, folder in zip(chosen, config.folders, strict=True):
        for prompt in one.prompts:
            name = one.items.task.name
            asked = [question for question in questions if (question.source, question.metadata["prompt"]) == (name, prompt)]
            how = ScoreConfig(
                task=name,
                data=folder,
                out=config.out / name / prompt,
                mode=config.mode,
                prompt=prompt,
                partial=one.is_partial,
                k=config.k,
                resamples=config.resamples,
                judge=config.judge,
                against=None if config.against is None else config.against / name / prompt,
            )
            path = files[any(THEN in question.metadata for question in asked)]
            replies = _of_ids(of_prompt(read(path), one.items.task, prompt)[0], one.ids)
            more: Json = {"prompts": {"digest": prompts_digest(asked), "questions": len(asked)}}
            if (name, prompt) in costs:
                more["api"] = costs[name, prompt]
            result = score(how, one.items, replies, prompt, console, more, purse)
            scores.append({name: result[name] for name in ENTRY if name in result})
    return scores


def _of_ids(replies: Responses, ids: Sequence[str]) -> Responses:
    """Replies to the items that are asked: a wider run may have left more."""
    wanted = set(ids)
    return dataclasses.replace(replies, responses=tuple(one for one in replies.responses if one.id in wanted))


def _closing_table(scores: Sequence[Json]) -> Table:
    table = Table(title=f"{counted(len(scores), 'score')} · {scores[0]['mode']}", title_justify="left", title_style="bold")
    for name in ("task", "prompt"):
        table.add_column(name, overflow="fold")
    ends = add_columns(table, [one["overall"] for one in scores])
    for one in scores:
        items = f"{one['overall']['items']:,}" + (f" of {one['partial']['of']:,}" if one["partial"] else "")
        table.add_row(escape(one["task"]), escape(one["prompt"]), items, *cells(one["overall"], ends))
        if five := in_five(one["overall"]):
            table.add_row("", f"{escape(one['prompt'])}, top 5", items, *cells(five, ends))
    return table


def _order_table(scores: Sequence[Json]) -> Table:
    """What the order of the options does to each score."""
    table = Table(title="by order of the options; changed: answers that differ", title_justify="left", title_style="bold")
    for name in ("task", "prompt"):
        table.add_column(name, overflow="fold")
    for name in ("orders", "%", "deviation", "changed"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in scores:
        spread, answers = one["shuffles"]["spread"], one["shuffles"]["answers"]
        percent = f"{100 * spread['lowest']:.2f}–{100 * spread['highest']:.2f}"
        deviation = "" if spread["standard_deviation"] is None else f"{100 * spread['standard_deviation']:.2f}"
        changed = f"{answers['changed']:,} of {answers['items']:,}" if answers["items"] else ""
        table.add_row(escape(one["task"]), escape(one["prompt"]), f"{len(one['shuffles']['by_seed'])}", percent, deviation, changed)
    return table
