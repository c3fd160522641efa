"""Sampling a model that stands behind a paid API: what is said of it, and the job, which knows no processor and no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError
from rich.console import Console

from mede2_jax.config import Config, UserError, describe_validation_error
from mede2_jax.data.questions import open_questions
from mede2_jax.data.records import Question
from mede2_jax.engines.paid.config import MODEL_NAME, APIConfig
from mede2_jax.engines.paid.cost import Totals
from mede2_jax.engines.paid.options import PaidOptions
from mede2_jax.engines.picture import Picture
from mede2_jax.rollout.config import QuestionRun
from mede2_jax.rollout.job import SamplingJob, check_questions, question_inputs, versions

API = Literal["gemini", "openai"]
APIS: tuple[str, ...] = get_args(API)
"""Values of `engine` that are APIs."""
SHARED = ("concurrency", "patience", "timeout")
"""Options that servers of ours have too, with other defaults."""


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


def api_run(values: Mapping[str, Any], given: Set[str]) -> APIRun:
    """The run that options say: of those that servers of ours have too, an API has its own defaults.

    Args:
        values: Of the options.
        given: Names of those that the user gave.
    """
    own = {name: APIConfig.model_fields[name].default for name in SHARED if name not in given}
    return APIRun(**{**values, **own})


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


def open_api_job(config: APIRun, console: Console, numbers: Sequence[int]) -> APIJob:
    """Opens and checks questions; writes nothing, asks nothing.

    Args:
        config: The run.
        console: Where to show progress.
        numbers: Record numbers of the questions to ask.

    Raises:
        UserError: Something the user gave cannot be used.
    """
    assert config.questions is not None
    questions = open_questions(config.questions, config.data.image_root, config.data.max_image_pixels)
    all_ids = tuple(questions.ids())
    images = check_questions(questions, numbers, lambda question, sizes: None, console)
    name = f"{config.engine}/{config.api_model}"
    inputs = {
        # Nobody outside has its weights: the name is all that there is to know it by.
        "model": {"api": config.engine, "name": config.api_model, "digest": name},
        **question_inputs(questions, len(all_ids), images),
        "versions": versions("pillow"),
    }
    return APIJob(config=config, questions=questions, all_ids=all_ids, numbers=tuple(numbers), inputs=inputs)
