"""How an API is used, as the options of a command: what is not said is the engine's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pydantic

from mede2_jax.config import Config, UserError, describe_validation_error
from mede2_jax.engines.paid.config import APIConfig

PAPER_JUDGE = "gemini-2.5-pro"
"""MedE², section 3.3."""
API_OPTIONS = ("base_url", "concurrency", "patience", "timeout", "first_rest", "longest_rest", "cache", "max_cost", "prices")
"""None of them changes an answer."""
GEMINI_OPTIONS = ("thinking", "block")
_NAMED = re.compile(rf"--(?=(?:{'|'.join(API_OPTIONS)}|max_tokens)\b)")


class Reached(Config):
    """Where an API is, and how many requests it is sent."""

    base_url: str | None = None
    """Where the API is; none: the vendor's own address."""
    concurrency: int | None = pydantic.Field(default=None, ge=1)
    """Requests under way at a time; none: the engine's own number."""
    patience: float | None = pydantic.Field(default=None, ge=0.0)
    """Seconds to go on when the API answers nothing at all; none: the engine's own."""
    timeout: float | None = pydantic.Field(default=None, gt=0.0)
    """Seconds that one attempt may take; none: the engine's own."""

    @pydantic.field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.username or parts.password or parts.query:
                # The manifest keeps the config.
                raise ValueError("must hold no user, password or key, which would end up in files; set the key's environment variable")
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ValueError(f"must be a URL such as https://HOST/v1 (got {value!r})")
        return value


class PaidOptions(Config):
    """What is an API's alone."""

    first_rest: float | None = pydantic.Field(default=None, gt=0.0)
    """Longest rest before a request that failed is sent again, in seconds, doubled from failure to failure; none: the engine's own."""
    longest_rest: float | None = pydantic.Field(default=None, gt=0.0)
    """The most that it is doubled to; none: the engine's own."""
    thinking: int | None = pydantic.Field(default=None, ge=-1)
    """Gemini: tokens it may think, as part of max_tokens (-1: as many as it likes); none: the model's default."""
    block: bool = True
    """Gemini: its own safety filters decide, which take some medical images for something else; off: they block nothing."""
    cache: Path | None = Path("runs/api_cache.sqlite")
    """Every paid answer by its whole request, so that none is paid for twice; none keeps no cache."""
    max_cost: float | None = pydantic.Field(default=None, ge=0.0, allow_inf_nan=False)
    """US dollars that this run may cost; it ends there, and what was answered is kept."""
    prices: Path | None = None
    """YAML with dollars per million tokens by model; none: the file that comes with the package."""

    def check_model(self, api: str, model: str | None, where: str) -> None:
        """Refuses what a user of that API cannot mean.

        Args:
            api: Which, or another name for none of them.
            model: As the API calls it.
            where: What the user types to choose the API, such as `judge=`.

        Raises:
            ValueError: As said.
        """
        if api == "openai" and (self.thinking is not None or not self.block):
            raise ValueError(f"thinking and block are Gemini's; leave them out with {where}openai")
        if api == "openai" and model is None:
            name = f"--{where.rpartition('.')[0]}.model" if "." in where else "--model"
            raise ValueError(f"{where}openai needs a model: {name}=NAME as the API calls it, such as gpt-4o")


class APIOptions(PaidOptions, Reached):
    """How an API is used."""

    def api_config(self, api: Literal["gemini", "openai"], model: str) -> APIConfig:
        """What an engine needs to know.

        Args:
            api: Which.
            model: As the API calls it.

        Raises:
            UserError: It is no name of a model, or an option has no use for that API.
        """
        names = [*API_OPTIONS, *(GEMINI_OPTIONS if api == "gemini" else ())]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        try:
            return APIConfig(api=api, model=model, **given)
        except pydantic.ValidationError as error:
            raise UserError(describe_validation_error(error)) from None


def in_section(section: str, message: str) -> str:
    """An engine's message for the users of a command that has its options in a section: `--max_cost` is `--judge.max_cost` there."""
    return _NAMED.sub(f"--{section}.", message)
