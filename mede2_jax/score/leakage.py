"""What is known of a benchmark's items in the training data of the model that was scored, and the score without these items."""

from __future__ import annotations

from pathlib import Path

from mede2_jax.config import counted
from mede2_jax.origins.history import Historian
from mede2_jax.origins.leakage import certificates
from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.summary import Json, Table, score


def leakage(some: Table, digest: str, responses: Path, config: ScoreConfig) -> Json | None:
    """What checks of the training data against this benchmark have found; None: nobody is known to have checked.

    Args:
        some: All that is scored.
        digest: Of the benchmark's files.
        responses: Rollouts of ours, whose manifest leads to the model, its runs and their data.
        config: Of the score.

    Raises:
        UserError: A certificate cannot be read.
    """
    history = Historian(verify=False).records("rollouts", responses)
    about = [one for one in certificates(history) if one.certificate.benchmark == some.task.name or one.certificate.digest == digest]
    if not about:
        return None
    matched = {match.id for one in about for match in one.certificate.matches}
    clean = [at for at, item in enumerate(some.items) if item.id not in matched]
    return {
        "checked": [
            {
                "data": str(one.source.path),
                "benchmark": one.certificate.benchmark,
                "same_files": one.certificate.digest == digest,
                "thresholds": one.certificate.thresholds,
                "matches": [match.model_dump(mode="json") for match in one.certificate.matches],
            }
            for one in about
        ],
        "touched": [item.id for item in some.items if item.id in matched],
        "without_touched": score(some.part(clean), config) if clean else None,
    }


def describe_leakage(leaked: Json) -> str:
    """One line for the table."""
    touched, without = leaked["touched"], leaked["without_touched"]
    said = f"training data were checked against this benchmark ({counted(len(leaked['checked']), 'check')}): "
    if not touched:
        said += "none of its items was found in them"
    else:
        said += f"{counted(len(touched), 'item')} found in them"
        said += f"; without these {100 * without['accuracy']:.2f} on {without['items']:,}" if without else "; no other is left"
    if not all(check["same_files"] for check in leaked["checked"]):
        said += " (checked with another copy of its files)"
    return said
