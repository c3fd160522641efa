"""By which rule pairs are made, as one frozen config; and the embedded default that needs no files of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from mede2_jax.config import Config, UserError
from mede2_jax.embedded import SAMPLE_ROLLOUTS, Embedded
from mede2_jax.reasoning.rubric import MMRP, Criterion

EMBEDDED = Embedded(
    {"judgments": "runs/judgments.jsonl", "out": "runs/pairs.jsonl"}, {"rollouts": SAMPLE_ROLLOUTS}, ("judgments", "rollouts")
)
"""The sample's responses, as `python -m mede2_jax.judge` judges them."""


class PairConfig(Config):
    """A rule for pairs."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "output": "out",
        "pairs_per_question": "max_pairs",
        "max_pairs_per_question": "max_pairs",
        "val_size": "eval_fraction",
        "threshold": "max_similarity",
        "vote": "agreement",
        "media_dir": "image_root",
    }

    judgments: Path | None = None
    """Judgments: what `python -m mede2_jax.judge` writes."""
    people: Path | None = None
    """Judgments of people, what `python -m mede2_jax.review import` writes: where they have judged a response, they replace the judge."""
    rollouts: Path | None = None
    """The rollouts that were judged."""
    out: Path | None = None
    """File that the pairs go to. Pairs that this command wrote there before are replaced: they can be made again at any time."""
    criteria: tuple[Criterion, ...] = MMRP
    """What a chosen response must meet in full; a rejected one fails at least one of these."""
    agreement: Literal["majority", "unanimous"] = "majority"
    """Of repeated judgments. majority: more than half decide a criterion, a tie takes the response out; unanimous: any difference does."""
    max_pairs: int | None = Field(default=4, ge=1)
    """Pairs of one question; none: all of Y_p × Y_n. Responses are used as evenly as they can be."""
    choose: Literal["random", "length"] = "random"
    """Which pairs, if there are more. random: by the seed; length: those closest in length first."""
    max_length_ratio: float | None = Field(default=2.0, ge=1.0)
    """No pair whose longer response has more than so many times the characters of the other; none: any."""
    max_similarity: float = Field(default=0.9, gt=0.0, le=1.0)
    """Responses that share this much of their wording (Jaccard index of three-word runs) make no pair, and one of them no pair at all where
    both could be chosen, or both rejected."""
    eval_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of questions whose pairs go to a second file, `pairs.eval.jsonl` by `pairs.jsonl`; by a hash of the id, whatever the rule."""
    seed: int = 0
    """Of which pairs are taken, and which questions are held out."""
    image_root: Path | None = None
    """Folder that image paths start from; none: the one that the rollouts' manifest names, or their folder."""

    @field_validator("criteria")
    @classmethod
    def _are_some(cls, value: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError(f"must name each criterion once, and at least one of {', '.join(MMRP)}")
        return value

    @property
    def eval_out(self) -> Path:
        """Where held-out pairs go."""
        assert self.out is not None
        return self.out.with_name(f"{self.out.stem}.eval{self.out.suffix or '.jsonl'}")


def embedded_defaults() -> dict[str, Any]:
    """The embedded default as config values.

    Raises:
        UserError: The sample data is not beside the package, or has not been judged.
    """
    values = EMBEDDED.defaults()
    if not Path(values["judgments"]).exists():
        raise UserError(f"no {values['judgments']} yet: run python -m mede2_jax.judge first, or give --judgments and --rollouts")
    return values
