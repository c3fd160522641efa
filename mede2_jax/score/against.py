"""A score beside another of the same items: is the difference more than chance, and how small a one could be seen."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.data.record_file import RecordFile
from mede2_jax.foreign import shown
from mede2_jax.json_file import load_json
from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.summary import Table
from mede2_jax.scoring.modes import Mode
from mede2_jax.statistics.comparison import detectable_difference, discordant, fewest_one_way, mcnemar, paired_bootstrap, paired_items

SCORE, VERDICTS = "score.json", "verdicts.jsonl"
EVALUATION = "evaluation.json"
"""In a folder of python -m mede2_jax.evaluate, which has a folder of a score for each task and prompt: TASK/PROMPT."""


def compare(ours: Table, other: Path, config: ScoreConfig) -> dict[str, Any]:
    """What score.json says of a comparison; differences are this score − the other.

    Raises:
        UserError: The other is no score of the same task and mode, or has other items.
    """
    check_kind(other, ours.task.name, config.mode)
    theirs = right_by_item(other)
    mine = {item.id: [one.outcome == "correct" for one in some] for item, some in zip(ours.items, ours.samples, strict=True)}
    ids = paired_items(mine, theirs, ("this score", str(other)))
    first, second = (np.array([np.mean(verdicts[name]) for name in ids]) for verdicts in (mine, theirs))
    (difference,) = paired_bootstrap(first[:, None], second[:, None], seed=config.seed, clusters=ours.clusters, resamples=config.resamples)
    result: dict[str, Any] = {
        "other": str(other),
        "accuracy": float(second.mean()),
        "difference": difference.value,
        "interval": None if difference.interval is None else [difference.interval.low, difference.interval.high],
        "p_bootstrap": difference.p,
    }
    if all(len(verdicts[name]) == 1 for verdicts in (mine, theirs) for name in ids):
        only_this, only_other = discordant(first == 1, second == 1)
        rate = (only_this + only_other) / len(ids)
        result |= {
            "only_this": only_this,
            "only_other": only_other,
            "p_mcnemar": mcnemar(only_this, only_other),
            "detectable_difference": detectable_difference(len(ids), rate) if rate else None,
            "fewest_one_way": fewest_one_way(len(ids)),
        }
    return result


def check_kind(other: Path, task: str, mode: Mode) -> None:
    """Refuses a score of another task or mode.

    Raises:
        UserError: As said; or there is no score in that folder.
    """
    said = load_json(other / SCORE, "give the folder that python -m mede2_jax.score wrote with --out")
    for name, this in (("task", task), ("mode", mode)):
        if said.get(name) != this:
            raise UserError(f"{other / SCORE} is of {name} {shown(said.get(name))}, this score of {this}; compare scores of one kind")


def right_by_item(folder: Path) -> dict[str, list[bool]]:
    """Whether each sample of each item is right, by the verdicts of a score.

    Raises:
        UserError: They cannot be read.
    """
    verdicts: dict[str, list[bool]] = defaultdict(list)
    file = RecordFile(folder / VERDICTS)
    for number in range(len(file)):
        record = file[number]
        if not isinstance(record.get("id"), str) or not isinstance(record.get("correct"), bool):
            raise UserError(f"{file.where(number)}: no verdict ({shown(json.dumps(record))}); score that model again")
        verdicts[record["id"]].append(record["correct"])
    return dict(verdicts)
