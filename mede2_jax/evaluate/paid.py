"""What an API's replies to each prompt of each task cost, and who gave them: of first turns too, where there are two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Rollout
from mede2_jax.json_file import check
from mede2_jax.outputs.manifest import Json, Said, manifest_path, read_said
from mede2_jax.rollout.manifest import FailedSamples
from mede2_jax.rollout.summary import PaidTally
from mede2_jax.tasks.asking import asked_as

Asked = tuple[str, str]
"""A task, and one of its prompts."""


def paid(files: Iterable[Path]) -> Mapping[Asked, Json]:
    """What score.json says of an API, by task and prompt.

    Args:
        files: Of replies, with their manifests; those that are not there are passed over.
    """
    tallies: dict[Asked, PaidTally] = defaultdict(PaidTally)
    lost: dict[Asked, float] = defaultdict(float)
    for path in dict.fromkeys(files):
        if not path.exists():
            continue
        file = RecordFile(path)
        for number in range(len(file)):
            rollout = read_own(file[number], Rollout, file.where(number))
            tallies[asked_as(rollout.question_id)[:2]].add(rollout)
        said = read_said(path, Said)
        for one in said.failed if said else ():
            failed = check(one, FailedSamples, str(manifest_path(path)), "the manifest is damaged: use another --out")
            lost[asked_as(failed.question)[:2]] += failed.cost or 0.0
    return {asked: tallies[asked].paid(lost[asked]) for asked in {*tallies, *lost}}
