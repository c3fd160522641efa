"""What people say of candidates that they have reviewed: it takes out what they find wanting, whatever its ratings."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from mede2_jax.config import UserError
from mede2_jax.data.judged import ImageFiles, demonstration_digest, difference, of_both
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Review
from mede2_jax.distill.choose import Rated
from mede2_jax.distill.config import DistillConfig
from mede2_jax.foreign import shown


def reviewed(rated: Sequence[Rated], config: DistillConfig, files: ImageFiles) -> list[Rated]:
    """The candidates, those with a fault that people deny a criterion. Whom nobody has reviewed stays as the ratings have it.

    Raises:
        UserError: A file is damaged, or people have reviewed another text, or other images, of that id.
    """
    said = _read(config)
    return [_reviewed(one, said.get(one.candidate.rollout.id, ()), config, files) for one in rated]


def _read(config: DistillConfig) -> dict[str, list[tuple[str, Review]]]:
    found, ids = defaultdict[str, list[tuple[str, Review]]](list), dict[str, str]()
    for path in config.reviews:
        file = RecordFile(path)
        for number in range(len(file)):
            review = read_own(file[number], Review, where := file.where(number))
            if (first := ids.setdefault(review.id, where)) != where:
                raise UserError(f"{where}: field 'id': {shown(review.id)} is also that of {first}; take one out")
            found[review.demonstration].append((where, review))
    return found


def _reviewed(one: Rated, said: Sequence[tuple[str, Review]], config: DistillConfig, files: ImageFiles) -> Rated:
    if not said:
        return one
    rollout = one.candidate.rollout
    of = of_both(demonstration_digest(rollout.prompt, rollout.images, rollout.response), files.digest(rollout.images))
    for where, review in said:
        if other := difference(review.of, of):
            what = "another text" if other == "response" else "other images"
            raise UserError(f"{where}: people reviewed {what} than {shown(rollout.id)} has now; have it reviewed again")
    denied = [merit for merit in config.criteria if 2 * sum(review.verdicts[merit] for _, review in said) <= len(said)]
    if one.fault or not denied:
        return one
    return dataclasses.replace(one, fault=f"people deny it {denied[0].replace('_', ' ')}", by="people")
