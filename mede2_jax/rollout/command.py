"""What `python -m mede2_jax.rollout` is given: a sampling run of a model of ours, or of an API's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mede2_jax.rollout.api import APIRun, EitherRun
from mede2_jax.rollout.config import RolloutConfig, RolloutOptions


class RolloutCommand(EitherRun, RolloutOptions):
    """Questions, and who answers them."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        **RolloutOptions.FORMER_NAMES,
        "api": "engine",
        "budget": "max_cost",
        "max_budget": "max_cost",
        "cache_dir": "cache",
    }
    MODELS_ALONE: ClassVar[tuple[str, ...]] = (*EitherRun.MODELS_ALONE, "family", "check_logprobs", "max_difference")
    PROCESSOR: ClassVar[str] = "data"

    @property
    def of_model(self) -> RolloutConfig:
        """The run of a model of ours."""
        return RolloutConfig(**self._shared(RolloutConfig))

    @property
    def of_api(self) -> APIRun:
        """The run of an API's model."""
        return self.as_api_rollouts(self.questions, self.out).model_copy(update={"ask": self.ask})
