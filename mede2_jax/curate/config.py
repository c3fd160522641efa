"""Which questions are curated and by which steps, as one frozen config; and the embedded default that needs no files of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from mede2_jax.config import Config, UserError
from mede2_jax.embedded import Embedded
from mede2_jax.reasoning.remarks import QuestionType

EMBEDDED = Embedded({"questions": "runs/bank.jsonl", "out": "runs/curated.jsonl"}, {}, ("questions",))
"""The sample's bank, as `python -m mede2_jax.bank` makes it."""
StepName = Literal["duplicates", "leakage", "difficulty", "type", "solvability", "refinement"]

Missing = Literal["refuse", "accept"]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class DuplicateOptions(Config):
    """What counts as the same question."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"threshold": "similarity", "jaccard": "similarity"}

    similarity: float = Field(default=0.8, gt=0.0, le=1.0)
    """Jaccard index of the texts' runs of three words from which they are alike; MinHash finds them."""
    image_distance: float = Field(default=0.2, ge=0.0, lt=0.5)
    """Most bits of two images' perceptual hashes that differ, as a share of 256: hashes of whole images and of crops by 2.5 and 5%."""


class LeakageOptions(Config):
    """The benchmarks that no question may stand in."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"tasks": "task", "benchmarks": "task", "threshold": "similarity"}

    task: tuple[str, ...] = ()
    """Their names, as python -m mede2_jax.evaluate has them, or YAML files; several with commas between."""
    data: tuple[Path, ...] = ()
    """Their files: one folder for all, or one for each."""
    images: tuple[Path, ...] = ()
    """Folders that their image files are looked for in; none: beside their files."""
    similarity: float = Field(default=0.8, gt=0.0, le=1.0)
    """As of duplicates."""
    image_distance: float = Field(default=0.2, ge=0.0, lt=0.5)
    """As of duplicates."""

    @model_validator(mode="after")
    def _matching(self) -> Self:
        if self.task and len(self.data) not in (1, len(self.task)):
            raise ValueError(f"leakage.data has {len(self.data)} folders for {len(self.task)} tasks; give one for all, or one for each")
        return self

    @property
    def pairs(self) -> Sequence[tuple[str, Path]]:
        """Each benchmark with its files."""
        return list(zip(self.task, self.data * len(self.task) if len(self.data) == 1 else self.data, strict=True))


class DifficultyOptions(Config):
    """Which questions are too easy, by baselines' own attempts."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"baselines": "rollouts"}

    rollouts: tuple[Path, ...] = ()
    """Of baselines, one file each, what `python -m mede2_jax.rollout` writes; the paper has two."""
    pass_rate: tuple[Rate, Rate] | None = None
    """Keep questions of which this share of all responses is right, as 0.1,0.9; none: those that no baseline solves, where it solves what
    more than half of its responses get right."""
    missing: Missing = "refuse"
    """A question without a response: refuse: an error that says how to sample it; accept: it is left out, with that reason. For what an API
    refuses for good."""

    @field_validator("pass_rate")
    @classmethod
    def _grows(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("must be two shares, the lower one first, such as 0.1,0.9")
        return value


class SolvabilityOptions(Config):
    """Which questions can be solved at all, by experts' attempts."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"experts": "rollouts"}

    rollouts: tuple[Path, ...] = ()
    """Of experts, one file each: a question stays that each of them gets right at least once. The paper has two, with four attempts."""
    missing: Missing = "refuse"
    """As of difficulty."""


class TypeOptions(Config):
    """Which questions with images take no reasoning, by what a model says about them."""

    rollouts: tuple[Path, ...] = ()
    """What `python -m mede2_jax.rollout --ask=type` writes; of several replies most count."""
    drop: tuple[QuestionType, ...] = ("pattern_recognition",)
    """What is left out: pattern_recognition, as in the paper, knowledge_recall, or both with a comma between."""
    missing: Missing = "refuse"
    """As of difficulty."""


class RefinementOptions(Config):
    """How questions read without what their images show."""

    rollouts: tuple[Path, ...] = ()
    """What `python -m mede2_jax.rollout --ask=refinement` writes; of several replies the first that changes nothing else is taken."""
    missing: Missing = "refuse"
    """As of difficulty; but what is accepted stays, as it was."""


class CurateConfig(Config):
    """A bank, and what is made of it."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "bank": "questions",
        "input": "questions",
        "output": "out",
        "val_size": "eval_fraction",
        "media_dir": "image_root",
    }

    questions: Path | None = None
    """The bank: what `python -m mede2_jax.bank` writes, or any file of questions."""
    out: Path | None = None
    """File for the questions that stay. Beside it: those held out (.eval.jsonl), those left out with their reasons (.dropped.jsonl), those
    that were edited (.refined.jsonl) and a figure (.funnel.png). What this command wrote there before is replaced."""
    steps: tuple[StepName, ...] = get_args(StepName)
    """What is done, in this order; with commas between. Steps that are given no benchmark, or no rollouts, are left out, and it is said."""
    duplicates: DuplicateOptions = DuplicateOptions()
    leakage: LeakageOptions = LeakageOptions()
    difficulty: DifficultyOptions = DifficultyOptions()
    type: TypeOptions = TypeOptions()
    solvability: SolvabilityOptions = SolvabilityOptions()
    refinement: RefinementOptions = RefinementOptions()
    eval_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the questions that is held out: whole groups that share a case, a picture or a text."""
    seed: int = 0
    """Of which these are."""
    image_root: Path | None = None
    """Folder that image paths start from; none: the one that the manifest of the questions names, or their folder."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """An image with more is an error."""

    @field_validator("steps")
    @classmethod
    def _are_different(cls, value: tuple[StepName, ...]) -> tuple[StepName, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must name each step once")
        return value

    @property
    def idle(self) -> dict[StepName, str]:
        """Steps that are given nothing to go by, with the option that they want."""
        needs: dict[StepName, tuple[Sequence[object], str]] = {
            "leakage": (self.leakage.task, "--leakage.task"),
            **{step: (rollouts, f"--{step}.rollouts") for step, rollouts in self.replies.items()},
        }
        return {step: option for step, (given, option) in needs.items() if step in self.steps and not given}

    @property
    def replies(self) -> dict[StepName, tuple[Path, ...]]:
        """The files that steps go by."""
        return {
            "difficulty": self.difficulty.rollouts,
            "type": self.type.rollouts,
            "solvability": self.solvability.rollouts,
            "refinement": self.refinement.rollouts,
        }

    def beside(self, what: str, suffix: str = ".jsonl") -> Path:
        """Another file of this run: `curated.WHAT.jsonl` by `curated.jsonl`."""
        assert self.out is not None
        return self.out.with_name(f"{self.out.stem}.{what}{suffix}")


def embedded_defaults() -> dict[str, Any]:
    """The embedded default as config values.

    Raises:
        UserError: There is no bank of the sample's yet.
    """
    values = EMBEDDED.defaults()
    if not Path(values["questions"]).exists():
        raise UserError(f"no {values['questions']} yet: run python -m mede2_jax.bank first, or give --questions and --out")
    return values
