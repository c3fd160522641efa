"""The model as training sees it: which parameters there are, which are trained, where each lives, and how they are made.

Two graphs (with and without dropout) stand over one parameter tree.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from mede2_jax.families import Family
from mede2_jax.models.logprobs import Model
from mede2_jax.models.lora import LoRAConfig, Mode, Params, apply_lora, base_path, is_trainable, with_dropout_keys
from mede2_jax.parallel.rules import Axes, named_sharding
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.model_directory import load_params


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model whose parts are frozen, adapted or trained in full."""

    train_graph: Any
    eval_graph: Any
    axes: Mapping[str, Axes]
    """Logical axes by flat path."""
    abstract: Mapping[str, jax.ShapeDtypeStruct]
    """Shape and dtype by flat path."""
    parts: Mapping[str, Mode]
    lora: LoRAConfig
    has_adapters: bool

    def model(self, params: Params, dropout_key: jax.Array | None = None) -> Model:
        """The model with these parameters; with a key, adapters drop out."""
        if dropout_key is None or not (self.has_adapters and self.lora.dropout):
            return nnx.merge(self.eval_graph, params)
        return nnx.merge(self.train_graph, with_dropout_keys(params, dropout_key))

    @property
    def plain(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The parameters without adapters, by the path they have in a model directory."""
        return {base_path(path): leaf for path, leaf in self.abstract.items() if not path.endswith(("/lora_a", "/lora_b"))}

    @property
    def trains_vocabulary(self) -> bool:
        """Whether the vocabulary projection is among the trained parameters."""
        return self.parts["language"] == "full"

    def shardings(self, mesh: Mesh) -> Params:
        """Where each parameter lives."""
        flat = {path: named_sharding(self.axes[path], leaf.shape, mesh) for path, leaf in self.abstract.items()}
        return unflatten(flat)

    def excess(self, mesh: Mesh) -> float:
        """How many times its share of the parameters' bytes a device holds: 1 where fsdp and tensor divide every width."""
        held = whole = 0
        for path, leaf in self.abstract.items():
            shard = named_sharding(self.axes[path], leaf.shape, mesh).shard_shape(leaf.shape)
            held += math.prod(shard) * leaf.dtype.itemsize
            whole += math.prod(leaf.shape) * leaf.dtype.itemsize
        return held * mesh.shape["fsdp"] * mesh.shape["tensor"] / whole


def make_model_spec(
    family: Family,
    model_config: Any,
    *,
    parts: Mapping[str, Mode],
    lora: LoRAConfig,
    compute_dtype: Any,
    param_dtype: Any,
    remat: Any,
) -> ModelSpec:
    """The graphs, shapes and logical axes of a model, without allocating a parameter.

    Args:
        family: The model's family.
        model_config: Its sizes.
        parts: What is trained.
        lora: How the parts in mode `lora` are adapted.
        compute_dtype: Of activations.
        param_dtype: Of frozen parameters: one dtype, or one for each path of a model directory.
        remat: What the backward pass recomputes.

    Raises:
        UserError: A LoRA target names no layer.
    """

    def build(dropout: float) -> nnx.Module:
        model = family.build(model_config, rngs=nnx.Rngs(0), compute_dtype=compute_dtype, remat=remat)
        apply_lora(model, lora.model_copy(update={"dropout": dropout}), parts, rngs=nnx.Rngs(0))
        return model

    abstract_model = nnx.eval_shape(lambda: build(0.0))
    eval_graph, variables = nnx.split(abstract_model)
    leaves = flatten(nnx.to_pure_dict(variables))
    marked = {"/".join(map(str, path)): variable.axes for path, variable in nnx.to_flat_state(variables)}
    narrow = param_dtype if isinstance(param_dtype, Mapping) else collections.defaultdict(lambda: param_dtype)
    # Trained parameters are float32 masters; the optimizer's small steps would be lost in bfloat16.
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32 if is_trainable(path, parts) else narrow[base_path(path)])
        for path, leaf in leaves.items()
    }
    return ModelSpec(
        train_graph=nnx.graphdef(nnx.eval_shape(lambda: build(lora.dropout))) if lora.dropout else eval_graph,
        eval_graph=eval_graph,
        axes=marked,
        abstract=abstract,
        parts=dict(parts),
        lora=lora,
        has_adapters=any(path.endswith("/lora_a") for path in leaves),
    )


def init_params(spec: ModelSpec, model_dir: Path, mesh: Mesh, seed: int) -> Params:
    """Base parameters from a model directory, adapters from their initial distribution, each where it lives.

    Raises:
        UserError: The model directory is damaged or of another shape.
    """
    shardings = flatten(spec.shardings(mesh))
    base = {path: leaf for path, leaf in spec.abstract.items() if not path.endswith(("/lora_a", "/lora_b"))}
    wanted = {base_path(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path]) for path, leaf in base.items()}
    loaded = flatten(load_params(model_dir, unflatten(wanted)))
    params = {path: loaded.pop(base_path(path)) for path in base}
    return unflatten(params | _init_adapters(spec, shardings, seed))


def random_params(spec: ModelSpec, mesh: Mesh, seed: int) -> Params:
    """Parameters of the right shapes and of usual sizes, made where they live: for measuring, where no weights are at hand."""
    shardings = flatten(spec.shardings(mesh))
    params: dict[str, jax.Array] = {}
    for index, (path, leaf) in enumerate(spec.abstract.items()):
        if path.endswith("/scale"):
            params[path] = jax.jit(jnp.ones, static_argnums=(0, 1), out_shardings=shardings[path])(leaf.shape, leaf.dtype)
        elif not path.endswith(("/lora_a", "/lora_b")):
            key = jax.random.fold_in(jax.random.key(seed, impl="rbg"), index)
            params[path] = jax.jit(_normal, static_argnums=(1, 2), out_shardings=shardings[path])(key, leaf.shape, leaf.dtype)
    return unflatten(params | _init_adapters(spec, shardings, seed))


def _normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.normal(key, shape, dtype) * jnp.asarray(0.02, dtype)


def _init_adapters(spec: ModelSpec, shardings: Mapping[str, NamedSharding], seed: int) -> dict[str, jax.Array]:
    """A is uniform in ±1/√I (PEFT's Kaiming start), B zero; each leaf has its own key, whatever the mesh."""
    paths = sorted(path for path in spec.abstract if path.endswith(("/lora_a", "/lora_b")))
    out: dict[str, jax.Array] = {}
    for index, path in enumerate(paths):
        leaf = spec.abstract[path]
        bound = leaf.shape[-2] ** -0.5 if path.endswith("/lora_a") else 0.0
        make = jax.jit(_uniform, static_argnums=(1, 2, 3), out_shardings=shardings[path])
        out[path] = make(jax.random.fold_in(jax.random.key(seed), index), leaf.shape, leaf.dtype, bound)
    return out


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any, bound: float) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound) if bound else jnp.zeros(shape, dtype)
