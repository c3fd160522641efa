"""Everything a sampling run is made of, as one frozen config; and the embedded default that needs no files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mede2_jax.data.about import Ask
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.embedded import SAMPLE_QUESTIONS, Embedded
from mede2_jax.engines.chat import Sampling
from mede2_jax.engines.flax.config import FlaxConfig
from mede2_jax.engines.vllm.pool import ServerConfig
from mede2_jax.engines.vllm.server import VLLMConfig, is_installed
from mede2_jax.engines.wire.http import base_urls
from mede2_jax.families import DEFAULT_FAMILY, FamilyName

EMBEDDED = Embedded({"max_tokens": 64, "out": "runs/rollouts.jsonl"}, {"questions": SAMPLE_QUESTIONS}, ("model", "questions", "api_model"))
"""A tiny random model on the sample questions, on a CPU, in minutes."""


ADAPTER_NEEDS = "vllm.adapter is for a vLLM server that this run starts, without check_logprobs; merge it (convert --adapter)"


class QuestionOptions(ProcessorOptions):
    """How questions are prepared; all that shapes the prompt must be as in training."""

    image_root: Path | None = None
    """Folder that image paths start from; none: the one that the manifest of the questions names, or their folder."""
    max_image_pixels: int = Field(default=50_000_000, gt=0)
    """An image file with more pixels is an error."""


Engine = Literal["auto", "vllm", "flax", "gemini", "openai"]


class SamplingRun(Sampling, ServerConfig):
    """What every run that samples a model is given, whatever it asks."""

    model: Path | None = None
    """Model directory to sample, such as runs/sft/model."""
    n: int = Field(default=8, ge=1)
    """Responses to each question; may grow from one run to the next."""
    shard: str | None = None
    """i/n, i from 0: only every n-th question, beginning with the i-th, so that n machines share them. Each has its own `out`."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first questions (of the shard); may change from one run to the next."""
    seed: int = 0
    """Each question's samples have seeds that follow from this one and the question's id."""
    logprobs: bool = False
    """Keep the token ids of each response and their log-probabilities."""
    engine: Engine = "auto"
    """vllm: servers; flax: in this process; auto: vllm where there is base_url or vLLM's environment, else flax. gemini: Google's API;
    openai: any API that speaks OpenAI's protocol."""
    base_url: tuple[str, ...] = ()
    """Servers to use, http://HOST:PORT/v1, several with commas between; none: vllm starts one of its own."""
    vllm: VLLMConfig = VLLMConfig()
    flax: FlaxConfig = FlaxConfig()

    @field_validator("shard")
    @classmethod
    def _is_shard(cls, value: str | None) -> str | None:
        if value is not None:
            match = re.fullmatch(r"(\d+)/(\d+)", value)
            if not match or not int(match[1]) < int(match[2]):
                raise ValueError(f"must be i/n with i from 0 to n - 1, such as 0/4 (got {value!r})")
        return value

    @field_validator("base_url")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(base_urls(value, path="" if info.data.get("engine") == "gemini" else "/v1"))

    @model_validator(mode="after")
    def _can_sample(self) -> Self:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"temperature=0 makes all {self.n} responses to a question the same; use n=1, or another temperature")
        if self.engine == "flax" and self.base_url:
            raise ValueError("engine=flax samples in this process and has no use for base_url; drop one of them")
        if self.vllm.adapter is not None and (self.engine == "flax" or self.base_url):
            raise ValueError(ADAPTER_NEEDS)
        return self

    @property
    def part(self) -> tuple[int, int]:
        """Which shard of how many."""
        index, count = (self.shard or "0/1").split("/")
        return int(index), int(count)

    @property
    def sampling(self) -> Sampling:
        """What an engine needs to know."""
        return Sampling(**{name: getattr(self, name) for name in Sampling.model_fields})

    @property
    def servers(self) -> ServerConfig:
        """How servers are used."""
        return ServerConfig(**{name: getattr(self, name) for name in ServerConfig.model_fields})


class QuestionRun(SamplingRun):
    """A sampling run over a file of questions."""

    questions: Path | None = None
    """Questions: JSONL, or JSON with one list (`data/README.md` has the format)."""
    out: Path | None = None
    """File that the responses go to, one line each. What it already holds is kept, and what is missing is added."""
    ask: Ask = "answer"
    """answer: the questions themselves. About questions with images, for python -m mede2_jax.curate: type, whether one takes reasoning;
    refinement, how it reads without what its images show. About responses, for python -m mede2_jax.distill, with --questions=ROLLOUTS:
    expansion, the reasoning that one sums up; rating, whether one is good enough to teach by."""
    data: QuestionOptions = QuestionOptions()


class RolloutOptions(QuestionRun):
    """What the command that samples is given besides."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "max_new_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "num_generations": "n",
        "num_return_sequences": "n",
        "num_samples": "n",
        "output": "out",
        "data": "questions",
        "path": "questions",
        "max_samples": "limit",
        "image_max_pixels": "data.max_pixels",
        "image_min_pixels": "data.min_pixels",
        "media_dir": "data.image_root",
    }

    family: FamilyName | None = None
    """Of the tiny random model that is made when no model is given; none: qwen2_5_vl."""
    check_logprobs: bool = False
    """Instead of writing rollouts: sample a few questions (8, or `limit`) and compare the engine's log-probabilities with training's."""
    max_difference: float | None = Field(default=None, gt=0)
    """With check_logprobs: fail when a token's log-probabilities differ by more than this, in nats."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.family is not None and self.model is not None:
            raise ValueError(f"family={self.family} is of the tiny model made when no model is given; leave it out, the model has its own")
        if self.max_difference is not None and not self.check_logprobs:
            raise ValueError("max_difference is for check_logprobs; add --check_logprobs, or leave it out")
        if self.vllm.adapter is not None and self.check_logprobs:
            raise ValueError(ADAPTER_NEEDS)
        return self


class RolloutConfig(RolloutOptions):
    """A sampling run of a model of ours."""

    engine: Literal["auto", "vllm", "flax"] = "auto"
    """vllm: servers; flax: in this process; auto: vllm where there is base_url or vLLM's environment, else flax."""


def engine_kind(config: RolloutConfig) -> Literal["vllm", "flax"]:
    """The engine that `config.engine` means here."""
    if config.engine != "auto":
        return config.engine
    return "vllm" if config.base_url or is_installed(config.vllm) else "flax"


def embedded_defaults(family: FamilyName = DEFAULT_FAMILY) -> dict[str, Any]:
    """The embedded default as config values, with an output for each family.

    Raises:
        UserError: The sample data is not beside the package.
    """
    values = EMBEDDED.defaults()
    out = Path(values["out"])
    return {**values, "out": str(out if family == DEFAULT_FAMILY else out.with_stem(f"{out.stem}-{family}"))}
