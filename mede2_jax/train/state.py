"""The training state, which a step takes and gives back: made, laid out over a mesh, or only described."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mede2_jax.models.lora import Params, join_params, split_params
from mede2_jax.train.model_spec import ModelSpec
from mede2_jax.tree import unflatten


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes, and the frozen parameters it reads."""

    frozen: Params
    trainable: Params
    optimizer_state: Any
    step: Any
    """Optimizer steps done."""
    rng: Any
    """Key data; dropout folds the step into it."""


def init_state(spec: ModelSpec, params: Params, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> TrainState:
    """The state before the first step."""
    trainable, frozen = split_params(params, spec.parts)
    state_shardings = train_state_shardings(spec, optimizer, mesh)
    optimizer_state = jax.jit(optimizer.init, out_shardings=state_shardings.optimizer_state)(trainable)
    replicated = NamedSharding(mesh, PartitionSpec())
    step = jax.device_put(jnp.zeros((), jnp.int32), replicated)
    rng = jax.device_put(jax.random.key_data(jax.random.key(seed)), replicated)
    return TrainState(frozen=frozen, trainable=trainable, optimizer_state=optimizer_state, step=step, rng=rng)


def train_state_shardings(spec: ModelSpec, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Where each leaf of the state lives; moments live beside their parameters."""
    trainable, frozen = split_params(spec.held(spec.shardings(mesh)), spec.parts)
    abstract_trainable, _ = split_params(unflatten(dict(spec.abstract)), spec.parts)
    replicated = NamedSharding(mesh, PartitionSpec())
    optimizer_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, abstract_trainable),
        trainable,
        transform_non_params=lambda _: replicated,
    )
    return TrainState(frozen=frozen, trainable=trainable, optimizer_state=optimizer_state, step=replicated, rng=replicated)


def abstract_state(spec: ModelSpec, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of a state that nobody makes: to compile a step, or to count what it takes."""
    trainable, frozen = split_params(spec.held(unflatten(dict(spec.abstract))), spec.parts)
    rng = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(frozen=frozen, trainable=trainable, optimizer_state=jax.eval_shape(optimizer.init, trainable), step=step, rng=rng)


def all_params(state: TrainState) -> Params:
    """Frozen and trainable parameters as one tree."""
    return join_params(state.frozen, state.trainable)
