"""Do sampler and trainer agree? The log-probabilities an engine reports, beside those that training computes for the same tokens.

An engine that disagrees samples from another model than the one that is trained: other weights, another prompt, other pixels,
or arithmetic that is too coarse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32
from rich.console import Console
from rich.table import Table

from mede2_jax.data.processor import Processor
from mede2_jax.data.rows import DEMONSTRATION, BatchShape, EncodedExample, Row, assemble_row, causal_segment, prompt_tokens
from mede2_jax.engines.chat import ChatReply, Completion
from mede2_jax.engines.flax.programs import open_model
from mede2_jax.families import model_config
from mede2_jax.models.logprobs import token_logprobs
from mede2_jax.parallel import rules
from mede2_jax.parallel.host import prepare_host
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig

PERCENTILES = (50, 90, 99, 99.9)
ROUND_TOKENS = 256


@dataclass(frozen=True)
class LogprobCheck:
    """The engine's log-probabilities and ours, of every sampled token."""

    engine: Float32[np.ndarray, " N"]
    ours: Float32[np.ndarray, " N"]
    responses: int

    @property
    def difference(self) -> Float32[np.ndarray, " N"]:
        """|engine − ours| of each token, in nats."""
        return np.abs(self.engine - self.ours)


def compare(replies: Sequence[ChatReply], processor: Processor, logprobs: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> LogprobCheck:
    """Scores sampled responses as training would.

    Args:
        replies: With log-probabilities.
        processor: The model's.
        logprobs: `token_logprobs` of the model: from a batch [1, …] to [1, S]. All batches have one shape.

    Raises:
        ValueError: A reply has no log-probabilities, or there is none.
    """
    examples = [(reply, completion) for reply in replies for completion in reply.completions if completion.token_ids]
    if not examples:
        raise ValueError("no response to compare")
    encoded = [_encode(reply, completion, processor) for reply, completion in examples]
    shape = _shape([example for example, _ in encoded], processor)
    engine, ours = [], []
    for (_, completion), (example, images) in zip(examples, encoded, strict=True):
        if completion.logprobs is None:
            raise ValueError("the engine gave no log-probabilities")
        row: Row = assemble_row([(0, example, images)], shape, processor.pad_token_id)
        scores = logprobs({name: value[None] for name, value in row.items()})
        engine.append(np.asarray(completion.logprobs, np.float32))
        ours.append(np.asarray(scores)[0, : len(completion.token_ids)])
    return LogprobCheck(np.concatenate(engine), np.concatenate(ours), len(examples))


def training_logprobs(model: Path, dtype: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """`token_logprobs` of a model directory, as `compare` wants it; the parameters are split over all devices.

    Args:
        model: The model directory.
        dtype: Of computation.

    Raises:
        UserError: The model directory is damaged or of another shape.
    """
    family, sizes = model_config(model)
    prepare_host()
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    graph, params = open_model(family, sizes, model, mesh, jnp.dtype(dtype))

    @jax.jit
    def score(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        with rules.use_mesh(mesh):
            return token_logprobs(nnx.merge(graph, params), batch, train_vocabulary=False)

    return lambda batch: np.asarray(score(params, batch))


def show(found: LogprobCheck, console: Console) -> None:
    """A table of the differences, and how they are distributed by powers of ten."""
    difference = found.difference
    table = Table(title="log-probabilities: engine against training", show_header=False)
    table.add_row("responses, tokens", f"{found.responses:,}, {len(difference):,}")
    table.add_row("largest difference", f"{difference.max():.3g} nats")
    table.add_row("mean difference", f"{difference.mean():.3g} nats")
    for percentile in PERCENTILES:
        table.add_row(f"{percentile:g}% of tokens within", f"{np.percentile(difference, percentile):.3g}")
    bias = float((found.engine - found.ours).mean())
    table.add_row("mean of engine − training", f"{bias:+.3g}")
    console.print(table)
    decades = np.floor(np.log10(np.maximum(difference, 1e-9))).astype(int)
    for decade in range(decades.min(), decades.max() + 1):
        share = float((decades == decade).mean())
        console.print(f"  1e{decade:+03d} to 1e{decade + 1:+03d} {share:6.1%} {'█' * round(share * 40)}")


def _encode(reply: ChatReply, completion: Completion, processor: Processor) -> tuple[EncodedExample, list]:
    images = [processor.encode_image(image) for image in reply.request.decoded]
    grids = tuple(processor.grid(image.height, image.width) for image in reply.request.decoded)
    prompt = prompt_tokens(reply.request.messages, processor, grids)
    tokens = np.concatenate([prompt, np.asarray(completion.token_ids, np.int32)])
    segment = causal_segment(tokens, np.arange(len(prompt), len(tokens)), 0, processor, grids)
    return EncodedExample((segment,), grids, (DEMONSTRATION,)), images


def _shape(examples: Sequence[EncodedExample], processor: Processor) -> BatchShape:
    """One shape for all, so that scoring compiles once."""

    def most(counts: Sequence[int], multiple: int) -> int:
        return -(-max(counts) // multiple) * multiple

    return BatchShape(
        tokens=most([example.token_count for example in examples], ROUND_TOKENS),
        patches=most([example.patch_count for example in examples], processor.patch_multiple),
        scored=most([example.scored_count for example in examples], ROUND_TOKENS),
        responses=1,
        patch_dim=processor.patch_dim,
        position_axes=processor.position_axes,
    )
