"""Reference log-probabilities of DPO: numbers, computed once before training and kept with the run.

They come from the model as training starts (the merged model of stage I, never the base under it), by the function and over
the rows that training uses. The file carries the digests of the model and the data they belong to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mede2_jax.config import UserError

UNSET = np.float32(np.nan)


def compute_reference(
    batches: Iterable[Mapping[str, np.ndarray]], logprobs: Callable[[Mapping[str, np.ndarray]], Any], examples: int
) -> Float32[np.ndarray, "E 2"]:
    """Log-probability of the chosen and of the rejected response of every pair; NaN where a pair is in no row.

    Args:
        batches: All rows once; `response_pair` and `response_role` [B, R] say whose each response is.
        logprobs: From a batch to the summed log-probability of each response, [B, R]; may return before it is computed.
        examples: Records in the data, E.

    Raises:
        UserError: A log-probability is not finite.
    """
    table = np.full((examples, 2), UNSET, np.float32)
    running: tuple[Mapping[str, np.ndarray], Any] | None = None
    for batch in batches:
        started = (batch, logprobs(batch))
        if running:  # read while the next batch is computed
            _fill(table, *running)
        running = started
    if running:
        _fill(table, *running)
    return table


def _fill(table: np.ndarray, batch: Mapping[str, np.ndarray], logprobs: Any) -> None:
    sums = np.asarray(logprobs)
    pair, role = batch["response_pair"], batch["response_role"]
    real = pair >= 0
    if not np.isfinite(sums[real]).all():
        raise UserError("the model gives reference log-probabilities that are not finite; is it whole, and was it trained with care?")
    table[pair[real], role[real]] = sums[real]


def save_reference(path: Path, tables: Mapping[str, Float32[np.ndarray, "E 2"]], digest: str) -> None:
    """Writes the tables ("train", "eval") in one atomic step."""
    partial = path.with_suffix(".partial")
    try:
        save_file(dict(tables), partial, metadata={"digest": digest})
    except SafetensorError as error:
        raise UserError(f"cannot write {str(path)!r}: {error}") from None
    partial.replace(path)


def load_reference(path: Path, digest: str) -> dict[str, Float32[np.ndarray, "E 2"]]:
    """The tables of `path`.

    Raises:
        UserError: The file is damaged, or belongs to another model or other data.
    """
    try:
        with safe_open(path, framework="np") as file:
            found = (file.metadata() or {}).get("digest", "none")
            tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read reference log-probabilities {str(path)!r}: {error}; delete the file to compute them again") from None
    if found != digest:
        raise UserError(
            f"{path} holds reference log-probabilities of another model or other data (digest {found}, this run has {digest}); "
            "delete the file to compute them again"
        )
    return tables


def reference_digest(*parts: str) -> str:
    """One digest for all that the numbers depend on: model, data and how they are computed."""
    return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def pairs_digest(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """A digest of an adapter that is put on the model before the reference is computed."""
    content = hashlib.sha256()
    for path in sorted(pairs):
        content.update(path.encode())
        for matrix in pairs[path]:
            content.update(np.ascontiguousarray(matrix).tobytes())
    return "sha256:" + content.hexdigest()
