"""What is evaluated and how, as one frozen config: the sampling options are those of `rollout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from mede2_jax.foreign import shown
from mede2_jax.rollout.api import EitherRun
from mede2_jax.rollout.config import QuestionOptions
from mede2_jax.score.config import JudgeOptions, Sizes
from mede2_jax.scoring.modes import Mode
from mede2_jax.tasks.asking import OURS


class EvaluateConfig(EitherRun):
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
        "api": "engine",
        "budget": "max_cost",
        "max_budget": "max_cost",
        "cache_dir": "cache",
        "baseline": "against",
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
    against: Path | None = None
    """Another evaluation of the same items, its folder: each score is compared with that of the same task and prompt there, and the
    p-values are adjusted for their number."""
    resamples: int = Field(default=10_000, ge=100, le=1_000_000)
    """Of the bootstrap."""
    shuffle_options: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Show the options of choices in another order, which follows from this seed and the item's id; several seeds with commas: each item
    in each of these orders, and how much the order decides. Letters are counted as the options that they stand for. What has no options
    is asked once."""
    dry_run: bool = False
    """Sample nothing and write nothing: show the first prompts of each task, with their images in place, as text and as tokens."""
    judge: JudgeOptions = JudgeOptions()
    processor: QuestionOptions = QuestionOptions()

    @field_validator("task", "prompt", "ids", "shuffle_options")
    @classmethod
    def _are_different(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if double := [name for at, name in enumerate(value) if name in value[:at]]:
            raise ValueError(f"{shown(str(double[0]))} is given twice")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.data) > 1 and len(self.data) != len(self.task):
            raise ValueError(f"data has {len(self.data)} folders for {len(self.task)} tasks; give one for all, or one for each")
        if self.processor.image_root is not None:
            raise ValueError("processor.image_root has no use here; --images says where image files are")
        if self.against is not None and self.out is not None and self.against.absolute() == self.out.absolute():
            raise ValueError(f"against={self.against} is the folder of this evaluation itself; give another's")
        if self.k and max(self.k) > (most := self.n * max(len(self.shuffle_options), 1)):
            orders = f"{most} samples in {len(self.shuffle_options)} orders, " if self.shuffle_options else ""
            raise ValueError(f"k={max(self.k)} is more than {orders}n={self.n}; ask for more samples, or a smaller k")
        return self

    @property
    def folders(self) -> Sequence[Path]:
        """Where each task's files are."""
        return self.data if len(self.data) == len(self.task) else self.data * len(self.task)
