"""`model.json`: what a model directory holds. Read without JAX, since vLLM opens the directory too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from mede2_jax.config import Config, UserError
from mede2_jax.json_file import load_checked
from mede2_jax.rounding import Account, Rounding

PARAMS = "params"
INFO = "model.json"
HF_CONFIG = "config.json"


class RoundingInfo(Config):
    """What storing a model did to the update that made it (`mede2_jax.rounding`), as shares of the update."""

    how: Rounding
    lost: float
    lost_to_nearest: float
    """Had everything been rounded to the nearest."""
    noise: float
    """Expected in differences of log-probabilities."""

    @classmethod
    def of(cls, how: Rounding, account: Account) -> RoundingInfo | None:
        """None where nothing was updated, or weights are not finite."""
        shares = {"lost": account.lost, "lost_to_nearest": account.lost_to_nearest, "noise": account.noise}
        return cls(how=how, **shares) if account.square and all(map(math.isfinite, shares.values())) else None


class ModelInfo(Config):
    """`model.json`: what the directory holds and where it came from."""

    family: str
    """The model family, such as qwen2_5_vl."""
    format_version: Literal[1] = 1
    """Version of this directory's layout."""
    digest: str
    """Digest of the parameters' names, dtypes, shapes and values."""
    parents: tuple[str, ...] = ()
    """Digests of what it was made from, such as the model before training, or a merged adapter."""
    dtype: str
    """The parameters' dtype; `mixed` if they differ."""
    rounding: RoundingInfo | None = None
    """Of a model that training or a merged adapter has changed."""


def read_info(directory: Path) -> ModelInfo:
    """Reads `model.json`.

    Raises:
        UserError: It is not a model directory, or one of another format version.
    """
    file = directory / INFO
    if not file.is_file():
        raise UserError(f"{str(directory)!r} is not a model directory (no {INFO}); make one with python -m mede2_jax.convert")
    return load_checked(file, ModelInfo, "if a newer mede2_jax wrote it, upgrade; else convert the model again")


def own_dtype(info: ModelInfo) -> Literal["bfloat16", "float32"]:
    """The dtype to compute in, where nobody says another: the parameters' own, bfloat16 where they differ or are of a third."""
    return "float32" if info.dtype == "float32" else "bfloat16"
