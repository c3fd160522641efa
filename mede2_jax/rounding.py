"""How an update gets into the dtype that a model is stored in; for NumPy and JAX arrays alike.

A weight W of a bfloat16 model lies on bfloat16's grid. An update much smaller than the grid's step, as of a few hundred steps at a
learning rate of 1e-6, rounds back to W: not an error of random sign, but the loss of the update. Rounding at random, up with the
probability that is the distance from below (stochastic rounding, Gupta et al. 2015), keeps W + update on average. Its noise is of the
size of the error with which W was rounded once, and has no direction. The "random" bits are a hash of the tensor's name and of the
place in it, so that the result is the same on every mesh, and each time.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Rounding = Literal["auto", "nearest", "stochastic"]
MOST_LOST = 0.05
"""Share of an update that rounding to the nearest may lose before `auto` rounds at random."""
MOST_NOISE = 0.01
"""Of an update, by `Account.noise`: a model with so few weights that random rounding adds more is better stored in float32."""
ADAM_ALIGNMENT = 0.8
"""Cosine between a gradient of normally distributed elements and its signs, √(2/π): Adam's first steps."""

_DROPPED_BITS = {"bfloat16": 16, "float16": 13}
"""Low bits of a float32 that the dtype has no room for (float16's below its smallest normal number apart: those go to the nearest)."""


class Sums(NamedTuple):
    """What tells how much of an update Δ a rounding keeps: sums over the elements of a tensor, or of each of several."""

    square: Any
    """⟨Δ, Δ⟩."""
    nearest: Any
    """⟨nearest(W + Δ) − W, Δ⟩."""
    kept: Any
    """The same of what was written."""
    error: Any
    """‖written − (W + Δ)‖²."""


def salt(path: str, layer: int | None = None) -> int:
    """What makes the bits of a tensor differ from another's: 32 bits of its name and its layer."""
    return (zlib.crc32(path.encode()) + 0x9E3779B9 * (0 if layer is None else layer + 1)) % 2**32


def add(base: Any, update: Any, dtype: Any, how: Rounding, salt: Any, xp: Any, first_row: int = 0) -> tuple[Any, Sums]:
    """W + Δ in a dtype, and what that does to Δ.

    Args:
        base: W [R, *], whole rows of a tensor; added in float32.
        update: Δ [R, *], float32.
        dtype: Of the result: bfloat16, float16 or float32.
        how: To the nearest, at random (`stochastic`), or (`auto`) at random where the nearest would lose over `MOST_LOST` of Δ.
        salt: See `salt`; a number, or a traced uint32.
        xp: `numpy` or `jax.numpy`.
        first_row: Where the rows begin in their tensor.
    """
    before = base.astype(np.float32)
    wanted = before + update
    nearest = wanted.astype(dtype)
    square, along = xp.sum(update * update), xp.sum((nearest.astype(np.float32) - before) * update)
    if how == "nearest" or np.dtype(dtype).name not in _DROPPED_BITS:
        written, kept = nearest, along
    else:
        at_random = stochastic(wanted, dtype, salt, xp, first_row)
        use = True if how == "stochastic" else xp.abs(square - along) > MOST_LOST * square
        written = xp.where(use, at_random, nearest)
        kept = xp.sum((written.astype(np.float32) - before) * update)
    return written, Sums(square, along, kept, xp.sum((written.astype(np.float32) - wanted) ** 2))


def stochastic(values: Any, dtype: Any, salt: Any, xp: Any, first_row: int = 0) -> Any:
    """Float32 `values` [R, *] in a narrower dtype, up or down with the probability that keeps them on average (see `add`)."""
    mask = np.uint32(2 ** _DROPPED_BITS[np.dtype(dtype).name] - 1)
    width = math.prod(values.shape[1:])
    rows = xp.arange(values.shape[0], dtype=np.uint32)[:, None] + np.uint32(first_row)
    place = (rows * np.uint32(width % 2**32) + xp.arange(width, dtype=np.uint32)[None, :]).reshape(values.shape)
    bits = values.view(np.uint32) + (_hash(place ^ _hash(xp.asarray(salt, dtype=np.uint32).reshape((1,) * values.ndim))) & mask)
    # Infinity and what is no number stay as they are: a carry would make them something else.
    return xp.where(xp.isfinite(values), (bits & ~mask).view(np.float32), values).astype(dtype)


def _hash(x: Any) -> Any:
    """lowbias32 (C. Wellons): every bit of the result depends on every bit of x."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


@dataclass
class Account:
    """What rounding did to the update of a whole model."""

    square: float = 0.0
    nearest: float = 0.0
    kept: float = 0.0
    error: float = 0.0
    signal: float = 0.0

    def add(self, sums: Sums, elements: int, rank: int | None, width: int) -> None:
        """Takes in a tensor, or several of one shape.

        Args:
            sums: Numbers, or arrays with one for each tensor.
            elements: Of one tensor.
            rank: Of its update; None where it was trained in full.
            width: Of its input.
        """
        squares = np.asarray(sums.square, np.float64)
        self.square += float(squares.sum())
        self.nearest += float(np.sum(sums.nearest, dtype=np.float64))
        self.kept += float(np.sum(sums.kept, dtype=np.float64))
        self.error += float(np.sum(sums.error, dtype=np.float64))
        alignment = ADAM_ALIGNMENT * (1.0 if rank is None else math.sqrt(min(1.0, rank / width)))
        self.signal += alignment * math.sqrt(elements) * float(np.sqrt(squares).sum())

    @property
    def lost(self) -> float:
        """Share of the update that what was written has lost, along the update."""
        return 1 - self.kept / self.square if self.square else 0.0

    @property
    def lost_to_nearest(self) -> float:
        """The same, had everything been rounded to the nearest."""
        return 1 - self.nearest / self.square if self.square else 0.0

    @property
    def noise(self) -> float:
        """What rounding is expected to change at random in any difference of log-probabilities, as a share of what the update changes.

        With G the difference's gradient by the weights, the update changes it by ⟨G, Δ⟩ = |G| |Δ| cos(G, Δ), and an error E that has
        no direction by about |G| ‖E‖ / √N. The cosine is taken to be that of Adam's first steps on B of an update A·B: √(r/I) of the
        gradient lies in A's rows, and its signs follow it by √(2/π).
        """
        return math.sqrt(self.error) / self.signal if self.signal else 0.0

    def describe(self, dtype: str) -> str:
        """One line for whoever reads the end of a run."""
        if not self.square:
            return f"stored as {dtype}: there is no update to round"
        how = "" if self.lost == self.lost_to_nearest else f", where rounding to the nearest would have lost {self.lost_to_nearest:.1%}"
        return f"stored as {dtype}: rounding loses {abs(self.lost):.1%} of the update{how}, and adds noise of about {self.noise:.1%} of it"


class Rounder:
    """`add` for what comes in blocks of rows, with the account of all of them."""

    def __init__(self, how: Rounding) -> None:
        self.how: Rounding = how
        self.account = Account()

    def add(
        self, base: np.ndarray, update: np.ndarray, dtype: np.dtype, path: str, layer: int | None, first_row: int, rank: int | None
    ) -> np.ndarray:
        """Rows of W + Δ in a dtype; see `add` and `Account.add`."""
        written, sums = add(base, update, dtype, self.how, salt(path, layer), np, first_row)
        self.account.add(sums, base.size, rank, len(base))
        result: np.ndarray = written
        return result
