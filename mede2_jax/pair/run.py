"""From judged rollouts to files of pairs, question by question; the files appear whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import UserError
from mede2_jax.data.records import PreferencePair
from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.manifest import Said, file_digest, manifest_path, read_said
from mede2_jax.outputs.publish import check_replaceable, partial_path, publish, settle, undone_on_failure
from mede2_jax.pair.choose import choose_pairs, is_held_out
from mede2_jax.pair.config import PairConfig
from mede2_jax.pair.job import Asked, PairingJob, open_job
from mede2_jax.pair.report import Report, tables

COMMAND = "python -m mede2_jax.pair"


def run(config: PairConfig, console: Console) -> None:
    """Makes pairs.

    Args:
        config: The rule.
        console: Where to show what came out.

    Raises:
        UserError: Something the user gave cannot be used, or no pair can be made; files that were there are as they were.
    """
    assert config.out is not None
    places = [config.out, config.eval_out]
    outs = places if config.eval_fraction else places[:1]
    for out in places:
        check_replaceable(out, COMMAND, "pairs")
    job = open_job(config, console)
    if unfinished := _unfinished(config):
        console.print(unfinished, style="yellow", soft_wrap=True, markup=False)
    if job.by_people:
        console.print(f"{job.by_people:,} responses are as people judged them, the others as the judge did", soft_wrap=True, markup=False)
    report = Report.of(job)
    with contextlib.ExitStack() as stack:
        # A name that no other run uses while it is locked; what a killed run left in it goes.
        files = [stack.enter_context(OutputFile(partial_path(out), "pairs")) for out in outs]
        for out in places:
            settle(out, COMMAND)
        stack.enter_context(undone_on_failure(places, COMMAND))
        for file in files:
            file.restart()
        for id, asked in job.questions.items():
            held_out = is_held_out(id, config)
            files[held_out].append(_pairs(job, report, id, asked, held_out=held_out))
        if report.pairs == report.held_out:
            held = f"all {report.pairs:,} pairs are held out; use a smaller eval_fraction" if report.pairs else report.why_none()
            raise UserError(f"no pair to train on can be made of {config.rollouts}: {held}")
        outs = outs[:1] if not report.held_out else outs
        manifest = _manifest(job, report)
        manifests = [{**manifest, "split": split} for split in ("train", "eval")[: len(outs)]]
        publish([file.path for file in files[: len(outs)]], outs, places[len(outs) :], manifests)
    for table in tables(report):
        console.print(table)
    for out in outs:
        console.print(f"{'pairs:':10} {out}", soft_wrap=True, markup=False)
    if config.eval_fraction and not report.held_out:
        console.print("no question with pairs is held out: a larger eval_fraction or another seed holds out some", style="yellow")


def _unfinished(config: PairConfig) -> str:
    """What the manifest of the judgments says is missing from them."""
    assert config.judgments is not None
    said = read_said(config.judgments, Said)
    if said is None:
        return ""
    if not said.finished:
        return f"judging has not come to its end: the command that wrote {config.judgments} goes on"
    return f"{len(said.failed):,} judgments failed, see {manifest_path(config.judgments)}" if said.failed else ""


def _pairs(job: PairingJob, report: Report, id: str, asked: Asked, *, held_out: bool) -> Iterator[PreferencePair]:
    """The pairs of a question, counted."""
    candidates = asked.candidates
    positive = sum(not candidate.fails for candidate in candidates)
    if not 0 < positive < len(candidates):
        report.add_without(positive, len(candidates) - positive)
        return
    rollouts = [job.rollout(candidate.record) for candidate in candidates]
    choice = choose_pairs(id, candidates, [rollout.response for rollout in rollouts], job.config)
    report.add(choice, candidates, [rollout.response for rollout in rollouts], held_out=held_out)
    for chosen, rejected in choice.pairs:
        sides = {"chosen": rollouts[chosen], "rejected": rollouts[rejected]}
        judgments = {side: job.judged[rollout.id].ids for side, rollout in sides.items()}
        named: dict[str, Any] = {
            side: {"rollout": rollout.id, "model": rollout.model, "judgments": judgments[side]} for side, rollout in sides.items()
        }
        yield PreferencePair(
            id=f"{id}#{candidates[chosen].sample}-{candidates[rejected].sample}",
            images=rollouts[chosen].images,
            parents=(id, *(rollout.id for rollout in sides.values()), *judgments["chosen"], *judgments["rejected"]),
            source=rollouts[chosen].source,
            licence=rollouts[chosen].licence,
            metadata={"question": id, **named, "rejected_fails": list(candidates[rejected].fails)},
            prompt=rollouts[chosen].prompt,
            chosen=rollouts[chosen].response,
            rejected=rollouts[rejected].response,
        )


def _manifest(job: PairingJob, report: Report) -> dict[str, Any]:
    config = job.config
    assert config.judgments is not None and config.rollouts is not None
    people = {} if config.people is None else {"people": config.people}
    inputs = {"judgments": config.judgments, **people, "rollouts": config.rollouts}
    return {
        "command": COMMAND,
        "config": config.model_dump(mode="json"),
        **{name: {"path": str(path.absolute()), "digest": file_digest(path)} for name, path in inputs.items()},
        "images": {"root": str(job.files.root.absolute())},
        "versions": {"mede2_jax": __version__},
        **report.content(),
        **({"by_people": job.by_people} if people else {}),
    }
