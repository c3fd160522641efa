"""Verdicts with a judge's findings in them, and how often rule and judge say the same."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from mede2_jax.config import counted
from mede2_jax.outputs.file import OutputFile
from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.judge_job import JudgeJob, Name, can_be_judged, judging_of, open_job
from mede2_jax.score.judge_run import JUDGED, JudgedAnswers, Purse, judge_answers
from mede2_jax.score.summary import clusters_of
from mede2_jax.score.verdicts import Sample
from mede2_jax.scoring.judging import JUDGE_FAILED, Finding
from mede2_jax.scoring.judging import JUDGED as BY_JUDGE
from mede2_jax.scoring.reading import NOTHING, Reading, Verdict
from mede2_jax.statistics.agreement import agreement
from mede2_jax.statistics.intervals import share_intervals, wilson
from mede2_jax.tasks.catalogue import Items

Json = dict[str, Any]


def with_judge(
    config: ScoreConfig, items: Items, samples: Sequence[Sample], prompt: str, purse: Purse, console: Console
) -> tuple[list[Sample], Json | None]:
    """The verdicts, with those of a judge in the place of the rule's where the rule does not find an answer right.

    Args:
        config: Of the score; `check_judge` has passed.
        items: As they were asked.
        samples: What the rule says of every response.
        prompt: How they were asked.
        purse: What the judge may cost.
        console: Where to show progress.

    Returns:
        The verdicts, and what score.json says of the judge: who, how many, what failed, what it cost, and agreement with the rule. None
        where there is none.

    Raises:
        UserError: As `judge_answers`.
    """
    if config.judge.api is None:
        return list(samples), None
    judging = judging_of(items.task, config.mode, prompt)
    if judging is None:
        return list(samples), {"not_asked": "in mode official the owner's rule alone decides"}
    job = open_job(config.judge, judging, items.by_id, samples, config.mode)
    answers = JudgedAnswers({}, {})
    if job.cases:
        assert config.out is not None
        with OutputFile(config.out / JUDGED, "judged answers") as file:
            answers = judge_answers(job, file, purse, console)
    five = judging is items.task.owners_judge
    decided = [_decided(one, job, answers, five) for one in samples]
    if not job.cases:
        return decided, {"not_asked": _why_not_asked(items, job, samples)}
    return decided, _said(config, items, job, answers, samples)


def open_and_wrong(items: Items, samples: Sequence[Sample]) -> int:
    """How many open answers a rule alone takes for wrong that a judge would be asked about: some may say the same in other words."""
    known = items.by_id
    return sum(one.outcome == "wrong" and known[one.id].is_open and can_be_judged(one, "mede2") for one in samples)


def _why_not_asked(items: Items, job: JudgeJob, samples: Sequence[Sample]) -> str:
    known = items.by_id
    opened = [one for one in samples if known[one.id].is_open]
    rest = [one for one in opened if not (job.has_rule and one.outcome == "correct")]
    if not opened:
        return "there is no open answer"
    if not rest:
        return "the rule finds every open answer right"
    right = f"the rule finds {len(opened) - len(rest):,} of {counted(len(opened), 'open answer')} right, and " if job.has_rule else ""
    others = f"of the other {len(rest):,}" if right else f"of {counted(len(rest), 'open answer')}"
    return f"{right}none {others} can be judged: they were cut, refused or failed, or hold nothing that can be read"


def _decided(sample: Sample, job: JudgeJob, answers: JudgedAnswers, five: bool) -> Sample:
    """A sample with what its judge says; `five`: whether five diagnoses are scored."""
    case = job.of.get((sample.id, sample.sample))
    found = None if case is None else answers.judgments.get(case)
    if case is None and not job.has_rule:  # there is nothing to judge, and no rule that could find it right
        return dataclasses.replace(sample, reading=Reading(None, NOTHING), outcome="unparsed", top5=False if five else None)
    if case is None or _rule_decides(job, sample):
        # A judge that was asked all the same is compared with the rule, and changes nothing.
        rule = None if found is None else Verdict(sample.reading, sample.outcome)
        return dataclasses.replace(sample, by_rule=rule, top5=sample.outcome == "correct" if five else None)
    finding = Finding(False, False) if found is None else Finding(found.correct, found.top5)
    return dataclasses.replace(
        sample,
        reading=Reading(sample.reading.answer, JUDGE_FAILED if found is None else BY_JUDGE),
        outcome="correct" if finding.correct else "wrong",
        by_rule=Verdict(sample.reading, sample.outcome) if job.has_rule else None,
        top5=bool(finding.top5) if five else None,
    )


def _rule_decides(job: JudgeJob, sample: Sample) -> bool:
    """Whether the rule has found the answer right, and there is a rule before the judge."""
    return sample.outcome == "correct" and job.has_rule


def _said(config: ScoreConfig, items: Items, job: JudgeJob, answers: JudgedAnswers, samples: Sequence[Sample]) -> Json:
    deciding = [one for one in samples if (one.id, one.sample) in job.of and not _rule_decides(job, one)]
    cases = [job.of[one.id, one.sample] for one in deciding]
    lost = [(one, answers.failures[case]) for one, case in zip(deciding, cases, strict=True) if case in answers.failures]
    return {
        **job.identity(),
        "file": JUDGED,
        "responses": len(deciding),
        "correct": sum(answers.judgments[case].correct for case in cases if case in answers.judgments),
        "failed": len(lost),
        "failures": {one.name: failure.reason for one, failure in lost},
        "judgments": len(answers.judgments),
        **answers.used(job.cases),
        "agreement": _agreement(config, items, job, answers, samples),
    }


def _agreement(config: ScoreConfig, items: Items, job: JudgeJob, answers: JudgedAnswers, samples: Sequence[Sample]) -> Json | None:
    """How often rule and judge say the same of the answers that were drawn; None: none was."""
    pairs: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for one in samples:
        name: Name = (one.id, one.sample)
        if name in job.drawn and (found := answers.judgments.get(job.of[name])) is not None:
            pairs[one.id].append((one.outcome == "correct", found.correct))
    together = [pair for some in pairs.values() for pair in some]
    if not together:
        return None
    same = np.array([np.mean([rule == judge for rule, judge in some]) for some in pairs.values()])
    clusters = clusters_of(items.task, [items.by_id[name] for name in pairs])
    kappa = agreement(together)
    interval, method = _interval(same, len(together), clusters, config)
    return {
        "responses": len(together),
        "failed": len(job.drawn) - len(together),
        "both_right": together.count((True, True)),
        "rule_only": together.count((True, False)),
        "judge_only": together.count((False, True)),
        "both_wrong": together.count((False, False)),
        "agreement": float(same.mean()),
        "interval": interval,
        "interval_method": method,
        "kappa": None if kappa is None else kappa.kappa,
    }


def _interval(same: np.ndarray, responses: int, clusters: list[str] | None, config: ScoreConfig) -> tuple[list[float] | None, str]:
    """Of the share of answers of which both say the same; [I] its value of each item."""
    if responses == len(same) and clusters is None:
        found = wilson(round(float(same.sum())), len(same))
        return [found.low, found.high], "Wilson"
    ((interval, method),) = share_intervals(same[:, None], seed=config.seed, clusters=clusters, resamples=config.resamples)
    return None if interval is None else [interval.low, interval.high], method
