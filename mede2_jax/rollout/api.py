"""Sampling a model that stands behind a paid API: what is said of it, and the job, which knows no processor and no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator
from rich.console import Console

from mede2_jax.config import Config, UserError, describe_validation_error
from mede2_jax.data.records import Question
from mede2_jax.engines.paid.config import MODEL_NAME, APIConfig
from mede2_jax.engines.paid.cost import Totals
from mede2_jax.engines.paid.options import PaidOptions
from mede2_jax.engines.picture import Picture
from mede2_jax.rollout.config import QuestionOptions, QuestionRun, RolloutConfig, SamplingRun
from mede2_jax.rollout.job import SamplingJob, check_questions, open_asked, question_inputs, shard_numbers, versions

API = Literal["gemini", "openai"]
APIS: tuple[str, ...] = get_args(API)
"""Values of `engine` that are APIs."""
SHARED = ("concurrency", "patience", "timeout")
"""Options that servers of ours have too, with other defaults."""
_NAMES = {"gemini": "gemini-2.5-pro", "openai": "gpt-4o"}


class _Named(Config):
    api_model: str | None = Field(default=None, pattern=MODEL_NAME)
    """engine=gemini or openai: the model as the API calls it, such as gemini-2.5-pro or gpt-4o."""


class ModelOptions(PaidOptions, _Named):
    """An API's model, and how it is asked; the names are those of `python -m mede2_jax.judge`."""

    @property
    def api_options(self) -> dict[str, Any]:
        """What is said of it, in the words of `APIConfig`."""
        values = {name: getattr(self, name) for name in PaidOptions.model_fields}
        return {name: value for name, value in values.items() if value is not None}


class APIRun(ModelOptions, QuestionRun):
    """A sampling run of an API's model."""

    engine: API
    api_model: str = Field(pattern=MODEL_NAME)

    @property
    def api(self) -> APIConfig:
        """Which API, how it is used, and what it may cost.

        Raises:
            UserError: It takes no such values.
        """
        shared = {name: getattr(self, name) for name in SHARED}
        url = self.base_url[0] if self.base_url else None
        try:
            return APIConfig(api=self.engine, model=self.api_model, base_url=url, **shared, **self.api_options)
        except ValidationError as error:
            raise UserError(describe_validation_error(error)) from None


class EitherRun(ModelOptions, SamplingRun):
    """What a run is given that samples a model of ours, or asks an API's."""

    MODELS_ALONE: ClassVar[tuple[str, ...]] = ("model", "logprobs", "served_model", "vllm", "flax")
    """Options that an API has no use for."""
    PROCESSOR: ClassVar[str] = "processor"
    """Name of the section that says how questions are prepared, which an API does itself."""

    @model_validator(mode="after")
    def _one_who_answers(self) -> Self:
        if not self.asks_an_api:
            if given := self._changed(*ModelOptions.model_fields):
                raise ValueError(f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for engine=gemini or engine=openai; give one")
            return self
        if given := self._changed(*self.MODELS_ALONE):
            raise ValueError(f"engine={self.engine} asks an API and has no use for {', '.join(given)}; its model is --api_model=NAME")
        processor: QuestionOptions = getattr(self, self.PROCESSOR)
        free = {"max_image_pixels", "image_root"}
        if others := processor.model_copy(update={"max_image_pixels": 1}).model_dump(exclude_defaults=True, exclude=free):
            names = ", ".join(f"{self.PROCESSOR}.{name}" for name in others)
            raise ValueError(f"engine={self.engine} has no processor of ours; leave out {names}")
        if self.api_model is None:
            raise ValueError(f"engine={self.engine} needs a model: --api_model=NAME as the API calls it, such as {_NAMES[self.engine]}")
        if len(self.base_url) > 1:
            raise ValueError(f"engine={self.engine} asks one API, and base_url names {len(self.base_url)}; give one")
        self.check_model(self.engine, self.api_model, "engine=")
        return self

    @property
    def asks_an_api(self) -> bool:
        """Whether no model of ours is sampled."""
        return self.engine in APIS

    def as_rollouts(self, questions: Path | None, out: Path | None) -> RolloutConfig:
        """The sampling run of a model."""
        return RolloutConfig(**self._shared(SamplingRun), questions=questions, out=out, data=getattr(self, self.PROCESSOR))

    def as_api_rollouts(self, questions: Path | None, out: Path | None) -> APIRun:
        """The sampling run of an API: of options that servers of ours have too, it has its own defaults."""
        own = {name: APIConfig.model_fields[name].default for name in SHARED if name not in self.model_fields_set}
        values = {**self._shared(SamplingRun), **self._shared(ModelOptions), **own}
        return APIRun(**values, questions=questions, out=out, data=getattr(self, self.PROCESSOR))

    def _shared(self, some: type[Config]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in some.model_fields}

    def _changed(self, *names: str) -> list[str]:
        """The options of these that are not as they are by default."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]


@dataclasses.dataclass(frozen=True, kw_only=True)
class APIJob(SamplingJob):
    """An API's model is asked."""

    config: APIRun
    totals: Totals = dataclasses.field(default_factory=Totals)
    """What all engines of this run have done: they share its budget."""

    @property
    def engine(self) -> str:
        """See `SamplingJob.engine`."""
        return self.config.engine

    @property
    def described(self) -> str:
        """See `SamplingJob.described`."""
        return f"model {self.config.api_model}"

    def images(self, number: int, question: Question) -> tuple[Picture, ...]:
        """See `SamplingJob.images`: files, which travel as they are."""
        files = self.questions.files(number, question)
        named = zip(files, question.images, strict=True)
        return tuple(Picture.read(file, name, self.config.data.max_image_pixels) for file, name in named)


def open_api_job(config: APIRun, console: Console, numbers: Sequence[int] | None = None) -> APIJob:
    """Opens and checks questions; writes nothing, asks nothing.

    Args:
        config: The run.
        console: Where to show progress.
        numbers: Record numbers of the questions to ask; None: those of the config's shard and limit.

    Raises:
        UserError: Something the user gave cannot be used.
    """
    assert config.questions is not None
    questions = open_asked(config, console)
    all_ids = tuple(questions.ids())
    numbers = shard_numbers(config, questions) if numbers is None else tuple(numbers)
    images = check_questions(questions, numbers, lambda question, sizes: None, console)
    name = f"{config.engine}/{config.api_model}"
    inputs = {
        # Nobody outside has its weights: the name is all that there is to know it by.
        "model": {"api": config.engine, "name": config.api_model, "digest": name},
        **question_inputs(questions, len(all_ids), images, config.ask),
        "versions": versions("pillow"),
    }
    return APIJob(config=config, questions=questions, all_ids=all_ids, numbers=numbers, inputs=inputs)
