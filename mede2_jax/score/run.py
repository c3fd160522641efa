"""From responses to score.json, verdicts.jsonl and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from mede2_jax import __version__
from mede2_jax.config import UserError, counted
from mede2_jax.foreign import shown, visible
from mede2_jax.outputs.file import write_whole
from mede2_jax.outputs.manifest import file_digest, read_manifest
from mede2_jax.score.against import EVALUATION, SCORE, VERDICTS, compare
from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.judge_job import check_judge
from mede2_jax.score.judge_run import Purse
from mede2_jax.score.judge_tables import agreement_table, judge_notices
from mede2_jax.score.judged import open_and_wrong, with_judge
from mede2_jax.score.leakage import describe_leakage, leakage
from mede2_jax.score.responses import PARENTS, Responses, how_asked, of_part, of_prompt, read_responses, without
from mede2_jax.score.shuffles import described, order_table, over_orders
from mede2_jax.score.summary import ENDS, UNJUDGED, Json, summarise, table
from mede2_jax.score.verdicts import Sample, as_asked, carried_items, judged, pair, steps_of
from mede2_jax.tasks.catalogue import Items, find_task, open_items
from mede2_jax.tasks.own import OwnTask
from mede2_jax.tasks.tables import rows

RULES = 1
"""Version of the rules that read replies: a score names it, and another one may give another score of the same file."""
SAMPLED = ("command", "model", "processor", "engine", "versions", "finished", "answered_by", "cost")
"""What a score keeps of the manifest of rollouts,"""
SAMPLED_BY = ("temperature", "top_p", "max_tokens", "stop", "seed", "n", "limit", "shard", "data", "thinking")
"""and of the config in it."""
LISTED = 20
"""Ids of unparsed samples that the table names; score.json has all."""


def run(config: ScoreConfig, console: Console) -> Json:
    """Scores a file of responses; writes only when all is known.

    Raises:
        UserError: What was given cannot be used, or does not belong together.
    """
    assert config.task is not None and config.responses is not None
    task = find_task(config.task)
    if config.out is not None:
        _check_out(config.out, config.responses)
    if config.prompt is not None and config.prompt in (*task.our_prompts, *task.prompts):
        check_judge(task, config.mode, config.prompt, config.judge, config.out)  # before a long file is read
    read = read_responses(config.responses, config.columns, errors_are_objects=task.errors_are_objects)
    responses, prompt = of_prompt(read, task, config.prompt)
    for where, row in rows(responses.path) if task.setting_column else ():
        task.check_setting(row, where)
    items = open_items(task, config.data, images=False) if config.data is not None else carried_items(task, responses)
    return score(config, items, responses, prompt, console)


def _check_out(out: Path, responses: Path) -> None:
    """Refuses a folder where a score would hide an evaluation's, or be taken for one of them; its own replies may be scored again.

    Raises:
        UserError: As said; or it is a file.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; give a folder")
    folder = out.resolve()
    is_among = (folder.parents[1] / EVALUATION).is_file() if len(folder.parents) > 1 else False
    if (folder / EVALUATION).is_file() or (is_among and responses.resolve().parent != folder.parents[1]):
        raise UserError(f"--out={out} belongs to an evaluation ({EVALUATION} is there), which has scores of its own; give another folder")


def score(
    config: ScoreConfig,
    items: Items,
    responses: Responses,
    prompt: str,
    console: Console,
    more: Json | None = None,
    purse: Purse | None = None,
) -> Json:
    """Scores responses that were read; writes and shows the score, and returns it.

    Args:
        config: How.
        items: Of the task.
        responses: To one of its prompts.
        prompt: Which one.
        console: Where the table goes.
        more: What else score.json is to say of where they come from.
        purse: What a judge may cost; None: what the config says, for this score alone.

    Raises:
        UserError: They do not belong together; or a judge is wanted and cannot be asked, and what was judged is kept.
    """
    task = items.task
    check_judge(task, config.mode, prompt, config.judge, config.out)
    responses, outside = of_part(responses, task)
    asked, left_out = as_asked(items, prompt)
    if not (rest := without(responses, left_out)).responses:
        raise UserError(f"{responses.path}: all of its responses are to items whose options are images, which {prompt} cannot leave out")
    some = pair(asked, rest, partial=config.partial)
    by_rule = judged(asked, some, config.mode, prompt)
    samples, judge = with_judge(config, asked, by_rule, prompt, purse or Purse(config.judge.max_cost), console)
    all_items = table(task, asked.by_id, samples)
    result: Json = {
        "task": task.name,
        "title": task.title,
        "mode": config.mode,
        "prompt": prompt,
        "prompt_is_known": responses.is_evaluation or config.prompt is not None,
        "rules": RULES,
        "version": __version__,
        **_inputs(config, items, responses),
        "partial": {"items": len(some), "of": len(asked.items)} if config.partial else None,
        **({"outside": outside} if outside else {}),
        **(more or {}),
        **summarise(all_items, config),
        "steps": steps_of(samples),
        "unparsed": [sample.name for sample in samples if sample.outcome == "unparsed"],
    }
    if responses.columns["id"] == PARENTS:
        result["leakage"] = leakage(all_items, items.digest, responses.path, config)
    if any(sample.shuffle is not None for sample in samples):
        result["shuffles"] = over_orders(all_items, config)
    result |= _besides(config, items, asked, left_out, samples, judge)
    if config.against is not None:
        result["against"] = compare(all_items, config.against, config)
    if config.out is not None:
        _write(config, result, samples)
    _show(result, console)
    return result


def _besides(
    config: ScoreConfig, items: Items, asked: Items, left_out: Sequence[str], samples: Sequence[Sample], judge: Json | None
) -> Json:
    """What only some scores say; `asked`: the items as they were asked, without those that were `left_out`."""
    task, said = items.task, dict[str, Any]()
    if left_out:
        said["left_out"] = list(left_out)
    if judge is not None:
        said["judge"] = judge
    elif config.mode == "mede2" and (unjudged := open_and_wrong(asked, samples)):
        said["unjudged"] = unjudged
    if isinstance(task, OwnTask):
        said["definition"] = task.definition
    if task.difference and config.mode == "official":
        said["difference_from_owner"] = task.difference
    guesses = config.mode == "official" and all(sample.shuffle is None for sample in samples)  # they are letters in his own order
    if guesses and (figure := task.owners_figure({s.id: s.reading for s in samples}, items.items)) is not None:
        said["owners_figure"] = figure
    return said


def _inputs(config: ScoreConfig, items: Items, responses: Responses) -> Json:
    return {
        "data": {"files": [str(file) for file in items.files], "digest": items.digest, "deviations": items.deviations},
        "responses": {
            "path": str(responses.path),
            "digest": file_digest(responses.path),
            "columns": dict(responses.columns),
            "models": list(responses.models),
        },
        "data_is_carried": config.data is None,
        **({"sampled": said} if responses.columns["id"] == PARENTS and (said := sampled(responses.path)) else {}),
    }


def sampled(path: Path) -> Json | None:
    """How a file of rollouts was sampled, by the manifest beside it: model, engine and options; None where there is none."""
    manifest = read_manifest(path)
    if manifest is None or not isinstance(manifest.get("config"), dict):
        return None
    config = manifest["config"]
    options = {name: config[name] for name in SAMPLED_BY if name in config}
    return {name: manifest[name] for name in SAMPLED if name in manifest} | {"sampling": options}


def _write(config: ScoreConfig, result: Json, samples: Sequence[Sample]) -> None:
    assert config.out is not None
    config.out.mkdir(parents=True, exist_ok=True)
    lines = (
        {
            "id": sample.id,
            "sample": sample.sample,
            "read": sample.reading.answer,
            "step": sample.reading.step,
            "correct": sample.outcome == "correct",
            "outcome": sample.outcome,
            "finish": sample.finish,
            **({} if sample.top5 is None else {"top5": sample.top5}),
            **({} if (rule := sample.by_rule) is None else {"rule": {"step": rule.reading.step, "outcome": rule.outcome}}),
            **sample.asked,
        }
        for sample in samples
    )
    write_whole(config.out / VERDICTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_whole(config.out / SCORE, json.dumps(result, ensure_ascii=False, indent=1) + "\n")


def _show(result: Json, console: Console) -> None:
    overall = result["overall"]
    title = f"{result['title']} · {result['mode']} · {how_asked(result['prompt'], [result['prompt_is_known']])}"
    if "model" in (judge := result.get("judge") or {}):
        title += f" · judged by {judge['model']}"
    shown_table = RichTable(title=title, title_style="bold", title_justify="left")
    shown_table.add_column("")
    ends = add_columns(shown_table, [overall])
    shown_table.add_row("all", f"{overall['items']:,}", *cells(overall, ends))
    if five := in_five(overall):
        shown_table.add_row("all, top 5", f"{overall['items']:,}", *cells(five, ends))
    for values in result["by"].values():
        shown_table.add_section()
        for value, one in values.items():
            shown_table.add_row(escape(visible(value)), f"{one['items']:,}", *cells(one, ends))
    console.print(shown_table)
    if result["at"]:
        console.print(_curves(result["at"]))
    if found := judge.get("agreement"):
        console.print(agreement_table(found))
    if orders := result.get("shuffles"):
        console.print(order_table(orders))
        console.print(described(orders), markup=False)
    steps = ", ".join(f"{step} {count:,}" for step, count in result["steps"].items())
    console.print(f"read by: {steps}", markup=False)
    if words := overall.get("words"):
        recall, f1 = (f"{100 * words[name]['value']:.2f}{_between(words[name]['interval'])}" for name in ("recall", "f1"))
        said = f"open answers ({words['items']:,} items): {recall} % of the right answer's words are there, F1 {f1}"
        console.print(said, markup=False)
    for line in _notices(result):
        console.print(line, markup=False, style="yellow")


def _between(interval: Sequence[float] | None) -> str:
    return f" ({100 * interval[0]:.2f}–{100 * interval[1]:.2f})" if interval else ""


def add_columns(shown_table: RichTable, scores: Sequence[Json]) -> list[str]:
    """Adds the columns of scores to a table; returns the ends of responses that there are, for `cells`."""
    ends = [end for end in ("unparsed", *ENDS, UNJUDGED) if any(one[end] for one in scores)]
    for name in ("items", "correct", "%", "95% interval", *ends):
        shown_table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    return ends


def in_five(one: Json) -> Json | None:
    """A score's top-5 as a score; None where one diagnosis is asked for."""
    return one | one["top5"] if "top5" in one else None


def cells(one: Json, ends: Sequence[str]) -> list[str]:
    """A score as a row has it, after its items."""
    interval = "" if one["interval"] is None else f"{100 * one['interval'][0]:.2f}–{100 * one['interval'][1]:.2f}"
    return [f"{one['correct']:,} of {one['samples']:,}", f"{100 * one['accuracy']:.2f}", interval, *(f"{one[end]:,}" for end in ends)]


def _curves(at: Mapping[str, Any]) -> RichTable:
    curves = RichTable(title="of k samples", title_justify="left")
    curves.add_column("k", justify="right")
    names = {"pass": "pass@k", "majority": "MV@k", "chance": "pass@k by chance"}
    for name in at:
        curves.add_column(names[name], justify="right")
    for k in at["pass"]:
        values = (values[k] if isinstance(values[k], float) else values[k]["value"] for values in at.values())
        curves.add_row(k, *(f"{100 * value:.2f}" for value in values))
    return curves


def _notices(result: Json) -> list[str]:
    notices = []
    if not result["prompt_is_known"]:
        notices.append(
            f"how the items were asked is not known: replies are read as those to {result['prompt']}; --prompt=NAME says another"
        )
    if deviations := result["data"]["deviations"]:
        notices.append(f"not the owner's whole test set, or another revision ({'; '.join(deviations)}): say so beside this score")
    if partial := result["partial"]:
        notices.append(f"partial: {partial['items']:,} of {partial['of']:,} items")
    if outside := result.get("outside"):
        notices.append(f"{counted(outside, 'response')} to other subjects left out: {result['task']} is a part of its benchmark")
    if left_out := result.get("left_out"):
        some = ", ".join(map(shown, left_out[:LISTED])) + (", …" if len(left_out) > LISTED else "")
        notices.append(f"{counted(len(left_out), 'item')} left out, whose options are images and cannot be taken away: {some}")
    if unparsed := result["unparsed"]:
        some = ", ".join(map(shown, unparsed[:LISTED])) + (", …" if len(unparsed) > LISTED else "")
        notices.append(f"{counted(len(unparsed), 'response')} in which no answer could be read, counted as not correct: {some}")
    if leaked := result.get("leakage"):
        notices.append(describe_leakage(leaked))
    notices.extend(judge_notices(result))
    if said := result.get("difference_from_owner"):
        notices.append(said)
    if (figure := result.get("owners_figure")) is not None:
        notices.append(f"the owner guesses where nothing can be read; his figure for these replies is {100 * figure:.2f}")
    if against := result.get("against"):
        interval = against["interval"] and f" ({100 * against['interval'][0]:+.2f} to {100 * against['interval'][1]:+.2f})"
        p = against.get("p_mcnemar", against["p_bootstrap"])
        notices.append(
            f"against {against['other']}: {100 * against['difference']:+.2f} points{interval or ''}, p = "
            f"{'unknown' if p is None else format(p, '.4f')}" + (" (McNemar, exact)" if "p_mcnemar" in against else " (paired bootstrap)")
        )
    return notices
