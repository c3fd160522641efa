"""What is scored and how, as one frozen config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mede2_jax.config import Config
from mede2_jax.engines.paid.options import GEMINI_OPTIONS, PAPER_JUDGE, APIOptions
from mede2_jax.scoring.modes import Mode

Sizes = tuple[Annotated[int, Field(ge=1)], ...]
"""Of k in pass@k and MV@k."""


class ColumnsConfig(Config):
    """How others call the columns of their responses."""

    id: str | None = None
    """Of the item's id; none: found by the usual names."""
    response: str | None = None
    """Of the response; a list in it is several samples. None: found by the usual names."""
    sample: str = "sample"
    """Of the sample's number, where several rows answer one item."""
    finish: str = "finish_reason"
    """Of why a response ended: `length` is one that was cut."""


class _Judge(Config):
    """Fields that come first in `--help`."""

    api: Literal["gemini", "openai"] | None = None
    """gemini: Google's API; openai: any that speaks OpenAI's protocol (a vLLM server too). None: the rule alone."""
    model: str | None = None
    """The API's model; none: gemini-2.5-pro for gemini. openai needs one."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    """None: 0 for our prompt; 1, the APIs' own, for an owner's that names none."""
    max_tokens: int = Field(default=8192, ge=1)
    """Longest reply in tokens; of a model that thinks, its thoughts count."""
    attempts: int = Field(default=3, ge=1)
    """How often a judge is asked whose replies cannot be read, before the judgment counts as failed. The next run asks for it again."""
    seed: int = 0
    """Each judgment's seed follows from this one and what is judged; so does which answers `check` draws."""
    check: int | None = Field(default=None, ge=1)
    """So many open answers, drawn by seed, are judged even where the rule finds them right: on these, rule and judge are compared."""
    all: bool = False
    """All are."""


class JudgeOptions(APIOptions, _Judge):
    """Who decides whether an open answer means what the right one says, where the rule does not find them equal."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.api is None:
            fields = type(self).model_fields
            if given := [name for name in fields if getattr(self, name) != fields[name].default]:
                raise ValueError(f"no judge is asked, so {', '.join(given)} has no use; give judge.api=gemini or judge.api=openai")
            return self
        if self.all and self.check is not None:
            raise ValueError("judge.all checks every answer, so judge.check has no use; leave one out")
        self.check_model(self.api, self.model, "judge.api=")
        self.api_config(self.api, self.asked_model)  # its errors are the user's now, and not when answers have been read
        return self

    @property
    def asked_model(self) -> str:
        """The model that is asked."""
        return self.model or PAPER_JUDGE

    def deciding(self) -> dict[str, Any]:
        """The options that what a judge says depends on."""
        names = ("max_tokens", "seed", *(GEMINI_OPTIONS if self.api == "gemini" else ()))
        return {name: getattr(self, name) for name in names}


class ScoreConfig(Config):
    """Responses to a task, and the rule that reads them."""

    FORMER_NAMES: ClassVar[dict[str, str]] = {
        "tasks": "task",
        "benchmark": "task",
        "predictions": "responses",
        "output": "out",
        "baseline": "against",
        "judge_model": "judge.model",
        "judge_all": "judge.all",
        "max_cost": "judge.max_cost",
    }

    task: str | None = None
    """The benchmark, by its name in --help; or a YAML file that describes one."""
    data: Path | None = None
    """Its files as the owner has them: the folder, or one file. None: the items that the responses' own file carries."""
    responses: Path | None = None
    """Responses: what python -m mede2_jax.rollout wrote, the owner's output file, or any JSONL, JSON, CSV or parquet of ids and texts."""
    out: Path | None = None
    """Folder for score.json and verdicts.jsonl; what this command wrote there before is replaced, but for what a judge said."""
    mode: Mode = "mede2"
    """official: the owner's rule alone. mede2: the `<answer>`, else a plain answer, else the owner's rule on what follows `</think>`."""
    prompt: str | None = None
    """How the questions were asked, which decides how the replies are read: one of the owner's ways, mede2, or mede2_open (without
    choices). None: the only one in a file that python -m mede2_jax.evaluate wrote, else his first."""
    partial: bool = False
    """Score a file that lacks items or samples; the result says so."""
    against: Path | None = None
    """Another score of the same items, its folder: is the difference more than chance?"""
    k: Sizes = ()
    """Of pass@k and MV@k; none: 1, 2, 4, … up to the samples of an item."""
    seed: int = 0
    """Of the bootstrap."""
    resamples: int = Field(default=10_000, ge=100, le=1_000_000)
    """Of the bootstrap."""
    judge: JudgeOptions = JudgeOptions()
    columns: ColumnsConfig = ColumnsConfig()
