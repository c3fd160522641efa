"""Everything a judging run is made of, as one frozen config; and the embedded default that needs no files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mede2_jax.data.records import JudgedBy
from mede2_jax.embedded import SAMPLE_ROLLOUTS, Embedded
from mede2_jax.engines.chat import Sampling
from mede2_jax.engines.paid.options import API_OPTIONS, GEMINI_OPTIONS, PAPER_JUDGE, APIOptions
from mede2_jax.reasoning import offline_judge
from mede2_jax.reasoning.prompts import JUDGES, Prompt

EMBEDDED = Embedded({"judge": "offline", "out": "runs/judgments.jsonl"}, {"rollouts": SAMPLE_ROLLOUTS}, ("rollouts", "judge", "model"))
"""The sample's responses, judged by rules, in seconds."""


class _Judging(Sampling):
    """Fields that come first in `--help`."""

    rollouts: Path | None = None
    """Rollouts to judge: what `python -m mede2_jax.rollout` writes."""
    out: Path | None = None
    """File that the judgments go to, one line each. What it already holds is kept, and what is missing is added."""
    judge: Literal["offline", "gemini", "openai"] = "gemini"
    """gemini: Google's API; openai: any that speaks OpenAI's protocol (a vLLM server too); offline: rules over a case's hidden facts."""
    model: str | None = None
    """The API's model; none: gemini-2.5-pro, the paper's judge, for gemini. openai needs one."""
    prompt: Literal["paper", "reasons"] = "paper"
    """paper: Appendix A word for word, Yes or No; reasons: ours, the same with a short reason before each."""
    repeat: int = Field(default=1, ge=1)
    """Judgments of each response; may grow from one run to the next. With more than one, self-agreement is reported."""
    attempts: int = Field(default=3, ge=1)
    """How often a judge is asked whose replies cannot be read, before the judgment counts as failed."""
    unknown_answers: Literal["judge", "leave_out"] = "leave_out"
    """Responses to questions without a known answer: judge them, correctness included, or leave them out."""
    free_texts: Literal["rules", "judge"] = "rules"
    """An answer to a question without options that is another text than the right one: rules: it is wrong; judge: it may mean the same, so
    the response is judged, and the judge's correctness decides."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first responses that are to be judged; may change from one run to the next."""
    seed: int = 0
    """Each judgment's seed follows from this one, the response's id and the repeat."""
    image_root: Path | None = None
    """Folder that image paths start from; none: the one that the rollouts' manifest names, or their folder."""
    max_image_pixels: int = Field(default=50_000_000, gt=0)
    """An image file with more pixels is an error."""

    max_tokens: int = Field(default=8192, ge=1)
    """Longest reply in tokens; of a model that thinks, its thoughts count."""


class JudgeConfig(APIOptions, _Judging):
    """A judging run."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "engine": "judge",
        "judge_model": "model",
        "k": "repeat",
        "n": "repeat",
        "budget": "max_cost",
        "max_budget": "max_cost",
        "cache_dir": "cache",
        "input": "rollouts",
        "output": "out",
        "retries": "attempts",
        "media_dir": "image_root",
        "max_new_tokens": "max_tokens",
    }

    @model_validator(mode="after")
    def _consistent(self) -> JudgeConfig:
        if self.judge == "offline":
            if self.free_texts == "judge":
                raise ValueError("judge=offline cannot tell whether two texts mean the same; use free_texts=rules, or another judge")
            if self.repeat > 1:
                raise ValueError(f"judge=offline says the same every time, so repeat={self.repeat} tells nothing; use repeat=1")
            fields = {name: type(self).model_fields[name].default for name in ("model", *API_OPTIONS, *GEMINI_OPTIONS)}
            if given := [name for name, default in fields.items() if getattr(self, name) != default]:
                raise ValueError(f"judge=offline asks no API and has no use for {', '.join(given)}; leave it out, or choose another judge")
        self.check_model(self.judge, self.model, "judge=")
        return self

    @property
    def judged_by(self) -> JudgedBy:
        """Who judges, as each judgment says."""
        if self.judge == "offline":
            return JudgedBy(engine="offline", model=offline_judge.NAME)
        return JudgedBy(engine=self.judge, model=self.model or PAPER_JUDGE, prompt=self.judge_prompt.title)

    @property
    def judge_prompt(self) -> Prompt:
        """What an API is asked."""
        return JUDGES[self.prompt]

    @property
    def sampling(self) -> Sampling:
        """What an engine needs to know."""
        return Sampling(**{name: getattr(self, name) for name in Sampling.model_fields})
