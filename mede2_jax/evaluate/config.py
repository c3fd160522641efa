"""What is evaluated and how, as one frozen config: the sampling options are those of `rollout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from mede2_jax.foreign import shown
from mede2_jax.rollout.config import QuestionOptions, RolloutConfig, SamplingRun
from mede2_jax.score.config import JudgeOptions, Sizes
from mede2_jax.scoring.modes import Mode
from mede2_jax.tasks.asking import OURS


class EvaluateConfig(SamplingRun):
    """A model, and the benchmarks that it is asked."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "tasks": "task",
        "benchmark": "task",
        "benchmarks": "task",
        "prompts": "prompt",
        "prompt_name": "prompt",
        "max_new_tokens": "max_tokens",
        "num_samples": "n",
        "num_return_sequences": "n",
        "max_samples": "limit",
        "output": "out",
        "output_path": "out",
        "image_root": "images",
        "questions": "data",
    }

    task: tuple[str, ...] = ()
    """The benchmarks, by their names in --help, several with commas between."""
    data: tuple[Path, ...] = ()
    """Their files as the owners have them: one folder (or file) for all, or one for each task, in their order."""
    images: tuple[Path, ...] = ()
    """Folders that image files are looked for in; none: beside the benchmark's files."""
    prompt: tuple[str, ...] = (OURS,)
    """mede2: the paper's system turn, and the question with its choices; mede2_open: without them. Else one of the owner's ways by its
    name, or official for each of them. Several with commas between: each is asked, and scored, apart."""
    out: Path | None = None
    """Folder for questions, images, replies and scores. What it already holds is kept, and what is missing is added."""
    n: int = Field(default=1, ge=1)
    """Responses to each question; may grow from one run to the next."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """Divides the logits; 0 is greedy."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first items of each task (of the shard); may change from one run to the next. The score says that it is partial."""
    ids: tuple[str, ...] = ()
    """Only these items; may change from one run to the next."""
    mode: Mode = "mede2"
    """official: the owner's rule alone. mede2: the `<answer>`, else a plain answer, else the owner's rule on what follows `</think>`."""
    k: Sizes = ()
    """Of pass@k and MV@k; none: 1, 2, 4, … up to the samples of an item."""
    resamples: int = Field(default=10_000, ge=100, le=1_000_000)
    """Of the bootstrap."""
    dry_run: bool = False
    """Sample nothing and write nothing: show the first prompts of each task, with their images in place, as text and as tokens."""
    judge: JudgeOptions = JudgeOptions()
    processor: QuestionOptions = QuestionOptions()

    @field_validator("task", "prompt", "ids")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if double := [name for at, name in enumerate(value) if name in value[:at]]:
            raise ValueError(f"{shown(double[0])} is given twice")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.data) > 1 and len(self.data) != len(self.task):
            raise ValueError(f"data has {len(self.data)} folders for {len(self.task)} tasks; give one for all, or one for each")
        if self.processor.image_root is not None:
            raise ValueError("processor.image_root has no use here; --images says where image files are")
        if self.k and max(self.k) > self.n:
            raise ValueError(f"k={max(self.k)} is more than n={self.n}; ask for more samples, or a smaller k")
        return self

    @property
    def folders(self) -> Sequence[Path]:
        """Where each task's files are."""
        return self.data if len(self.data) == len(self.task) else self.data * len(self.task)

    def rollouts(self, questions: Path, out: Path) -> RolloutConfig:
        """The sampling run."""
        shared = {name: getattr(self, name) for name in SamplingRun.model_fields}
        return RolloutConfig(**shared, questions=questions, out=out, data=self.processor)
