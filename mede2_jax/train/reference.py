"""Reference log-probabilities of DPO: numbers, computed once before training and kept with the run.

They come from the model as training starts (the merged model of stage I, never the base under it), by the function and over
the rows that training uses. The file carries the digests of the model and the data they belong to, and how far it has come:
a pass that is broken off goes on from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mede2_jax.config import UserError
from mede2_jax.foreign import parse_json, shown
from mede2_jax.json_file import check

UNSET = np.float32(np.nan)


@dataclasses.dataclass
class References:
    """Log-probabilities of chosen and rejected by dataset index, for each part of the data ("train", "eval"); NaN: not yet."""

    tables: dict[str, Float32[np.ndarray, "E 2"]]
    done: dict[str, int]
    """Batches of each part's pass that are in the table."""

    @classmethod
    def empty(cls, examples: Mapping[str, int]) -> References:
        """Nothing computed, for parts of that many examples."""
        return cls({name: np.full((count, 2), UNSET, np.float32) for name, count in examples.items()}, dict.fromkeys(examples, 0))


class _Done(pydantic.RootModel[dict[str, Annotated[int, pydantic.Field(ge=0, strict=True)]]]):
    """Of the file's metadata: batches that are done."""


def fill_reference(
    references: References,
    name: str,
    batches: Iterable[Mapping[str, np.ndarray]],
    responses: Callable[[Mapping[str, np.ndarray]], tuple[Any, Any, Any]],
) -> Iterator[int]:
    """Fills one part's table batch by batch, and yields how many are done.

    Args:
        references: Its table and count grow.
        name: Which part.
        batches: The rows that are not done, once each (of several processes: this one's).
        responses: From a batch to `response_pair` and `response_role`, which say whose each response is, and its summed
            log-probability, all [B, R] over the rows of all processes; may return before they are computed.

    Raises:
        UserError: A log-probability is not finite.
    """
    running: tuple[Any, Any, Any] | None = None
    for batch in itertools.chain(batches, [None]):
        started = None if batch is None else responses(batch)
        if running:  # read while the next batch is computed
            _fill(references.tables[name], *running)
            references.done[name] += 1
            yield references.done[name]
        running = started


def _fill(table: np.ndarray, *responses: Any) -> None:
    pair, role, sums = (np.asarray(array) for array in responses)
    real = pair >= 0
    if not np.isfinite(sums[real]).all():
        raise UserError("the model gives reference log-probabilities that are not finite; is it whole, and was it trained with care?")
    table[pair[real], role[real]] = sums[real]


def save_reference(path: Path, references: References, digest: str) -> None:
    """Writes the tables in one atomic step."""
    # Bytes first, then a file of our own: safetensors' files are readable by their owner only.
    content = save(references.tables, metadata={"digest": digest, "done": json.dumps(references.done)})
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def load_reference(path: Path, digest: str) -> References:
    """The tables of `path`, and how far they have come.

    Raises:
        UserError: The file is damaged, or belongs to another model or other data.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        done = check(parse_json(metadata.get("done", "{}")), _Done, "done").root
    except (SafetensorError, OSError, ValueError, TypeError) as error:  # TypeError: of a dtype that NumPy has not
        reason = shown(str(error), 300)
        raise UserError(f"cannot read reference log-probabilities {str(path)!r}: {reason}; delete the file to compute them again") from None
    if (found := metadata.get("digest")) != digest:
        raise UserError(
            f"{path} holds reference log-probabilities of another model or other data (digest {shown(found, 80)}, this run has "
            f"{digest}); delete the file to compute them again"
        )
    return References(tables, {name: done.get(name, 0) for name in tables})


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
