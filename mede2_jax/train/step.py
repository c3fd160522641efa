"""One pure step for every stage; a stage is a loss and a batch.

Axes: A micro-batches, B rows, S scored tokens, R responses.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mede2_jax.models.attention import Backend, use_backend
from mede2_jax.models.logprobs import response_sums, token_logprobs, token_scores
from mede2_jax.models.lora import Params, join_params
from mede2_jax.parallel import rules
from mede2_jax.train.losses import Loss, Metrics, Sums, Totals
from mede2_jax.train.model_spec import ModelSpec
from mede2_jax.train.state import TrainState, train_state_shardings

Batch = Mapping[str, jax.Array]


def train_step(
    state: TrainState, batch: Batch, *, spec: ModelSpec, loss: Loss, optimizer: optax.GradientTransformation, chunk: int
) -> tuple[TrainState, Metrics]:
    """Gradients summed over A micro-batches, then one optimizer step.

    Args:
        state: The state; donated by the compiled form.
        batch: Fields with leading axes [A, B].
        spec: The model.
        loss: The stage.
        optimizer: The update rule.
        chunk: Scored tokens a row whose logits exist at a time.
    """
    totals = loss.totals(batch)
    step_key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

    def micro_loss(trainable: Params, micro: Batch, index: jax.Array) -> tuple[jax.Array, Sums]:
        model = spec.model(join_params(state.frozen, trainable), jax.random.fold_in(step_key, index))
        return loss(token_scores(model, micro, train_vocabulary=spec.trains_vocabulary, chunk=chunk), micro, totals)

    gradient = jax.grad(micro_loss, has_aux=True)

    def accumulate(summed: Any, xs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, summed, gradient(state.trainable, *xs)), None

    pieces = batch["tokens"].shape[0]
    if pieces == 1:
        gradients, sums = gradient(state.trainable, jax.tree.map(lambda x: x[0], batch), jnp.int32(0))
    else:
        first = jax.eval_shape(gradient, state.trainable, jax.tree.map(lambda x: x[0], batch), jnp.int32(0))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
        (gradients, sums), _ = jax.lax.scan(accumulate, zeros, (dict(batch), jnp.arange(pieces)))
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    metrics = {**loss.report(sums, totals), "grad_norm": optax.tree.norm(gradients)}
    return dataclasses.replace(state, trainable=trainable, optimizer_state=optimizer_state, step=state.step + 1), metrics


def eval_step(params: Params, batch: Batch, *, spec: ModelSpec, loss: Loss, chunk: int) -> tuple[Sums, Totals]:
    """Sums and totals of one batch [B, …] without dropout; both add up over batches."""
    totals = loss.totals(batch)
    scores = token_scores(spec.model(params), batch, train_vocabulary=False, chunk=chunk)
    return loss(scores, batch, totals)[1], totals


def response_logprobs(params: Params, batch: Batch, *, spec: ModelSpec, chunk: int) -> jax.Array:
    """Summed log-probability of each response, [B, R]: the reference of DPO, by the function training uses."""
    logprobs = token_logprobs(spec.model(params), batch, train_vocabulary=False, chunk=chunk)
    return response_sums(logprobs, batch["scored_response"], batch["response_weight"].shape[-1])


def batch_contents(batch: Batch) -> dict[str, jax.Array]:
    """How many real tokens and how many examples a step [A, B, …] has; an example lies in one row."""
    pairs = jnp.sort(batch["response_pair"], axis=-1)
    first = jnp.diff(pairs, axis=-1, prepend=-1) > 0  # padding, −1, comes first
    return {"tokens": (batch["key_end"] > batch["key_start"]).sum(), "examples": first.sum()}


class Steps:
    """The compiled functions of a run; the one place where shardings meet `jit`."""

    def __init__(
        self, spec: ModelSpec, loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh, chunk: int, attention: Backend = "auto"
    ):
        state = train_state_shardings(spec, optimizer, mesh)
        params = spec.held(spec.shardings(mesh))
        rows = NamedSharding(mesh, rules.partition_spec(("rows",), (mesh.size,), mesh))
        micro_rows = NamedSharding(mesh, PartitionSpec(None, *rows.spec))
        replicated = NamedSharding(mesh, PartitionSpec())
        self.loss, self.rows, self.micro_rows = loss, rows, micro_rows
        pieces = mesh.shape["data"] * mesh.shape["fsdp"]
        self._rows_of_all = pieces, len(self.columns(pieces))
        self._traces: collections.Counter[str] = collections.Counter()

        def traced(function: Any, **fixed: Any) -> Any:
            def call(*args: Any) -> Any:
                self._traces[function.__name__] += 1  # runs when JAX traces, which is once a compilation
                with rules.use_mesh(mesh), use_backend(attention):
                    return function(*args, spec=spec, chunk=chunk, **fixed)

            call.__name__ = function.__name__
            return call

        self.train = jax.jit(
            traced(train_step, loss=loss, optimizer=optimizer),
            in_shardings=(state, micro_rows),
            out_shardings=(state, replicated),
            donate_argnums=0,
        )
        self.eval = jax.jit(traced(eval_step, loss=loss), in_shardings=(params, rows), out_shardings=replicated)
        self.reference = jax.jit(traced(response_logprobs), in_shardings=(params, rows), out_shardings=replicated)
        self.contents = jax.jit(batch_contents, in_shardings=micro_rows, out_shardings=replicated)

    @property
    def compilations(self) -> int:
        """How often the training step was compiled; 1 for a whole run, or something changes shape."""
        return self._traces["train_step"]

    def columns(self, rows: int) -> list[int]:
        """Which of a micro-batch's rows lie on this process's devices; where `tensor` spans processes, they have the same ones."""
        parts = self.rows.addressable_devices_indices_map((rows,)).values()
        return sorted({row for part in parts if part for row in range(*part[0].indices(rows))})

    def place(self, batch: Mapping[str, Any], *, micro: bool) -> dict[str, jax.Array]:
        """This process's rows, [A, B, …] or (without `micro`) [B, …], as global arrays."""
        sharding, axis = (self.micro_rows, 1) if micro else (self.rows, 0)
        pieces, own = self._rows_of_all

        def shape(local: tuple[int, ...]) -> tuple[int, ...]:
            return (*local[:axis], local[axis] * pieces // own, *local[axis + 1 :])

        return {name: jax.make_array_from_process_local_data(sharding, value, shape(value.shape)) for name, value in batch.items()}
