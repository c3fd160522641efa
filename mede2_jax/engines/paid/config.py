"""Which API answers, how it is used, and what it may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import pydantic

from mede2_jax.engines.paid.endpoint import EndpointConfig

MODEL_NAME = r"^[A-Za-z0-9]([._/:@-]?[A-Za-z0-9])*$"
"""What APIs call models."""


class APIConfig(EndpointConfig):
    """Which API answers, and what it may cost. Keys come from the environment alone: GEMINI_API_KEY, OPENAI_API_KEY."""

    api: Literal["gemini", "openai"]
    """`openai`: any server of its chat protocol."""
    model: str = pydantic.Field(pattern=MODEL_NAME)
    """As the API calls it: gemini-2.5-pro, gpt-4o."""
    base_url: str | None = None
    """Another server than the API's own, such as http://HOST:PORT/v1 of a vLLM."""
    cache: Path | None = None
    """An SQLite file of all answers so far; none: they are kept for this run only."""
    max_cost: float | None = pydantic.Field(default=None, ge=0.0, allow_inf_nan=False)
    """US dollars that this run may spend."""
    prices: Path | None = None
    """A YAML file of prices; none: the package's own."""
    thinking: int | None = pydantic.Field(default=None, ge=-1)
    """Gemini: tokens it may think (they are part of max_tokens; -1: as many as it likes); none: the model's default."""
    block: bool = True
    """Gemini: its own safety filters decide; they take some medical images for something else."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.api != "gemini" and (self.thinking is not None or not self.block):
            raise ValueError("thinking and block are Gemini's; leave them out with api=openai")
        return self
