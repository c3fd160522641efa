"""The model as training sees it: which parameters there are, which are trained, where each lives, and how they are made.

Two graphs (with and without dropout) stand over one parameter tree.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mede2_jax.families import Family
from mede2_jax.models.apart import take_apart
from mede2_jax.models.logprobs import Model
from mede2_jax.models.lora import LoRAConfig, Mode, Params, apply_lora, base_path, is_trainable, with_dropout_keys
from mede2_jax.models.quantized import SCALE, FrozenDtype, quantize, quantize_linears
from mede2_jax.parallel.rules import Axes, named_sharding
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.model_directory import load_some_params, open_params

ADDED = ("/lora_a", "/lora_b", SCALE)
"""How paths end that no model directory has."""


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
    apart: bool = False
    """Whether stacks of frozen parameters are held apart on the devices, an array a layer."""
    quantized: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Kernels that are held in 8 bits, by flat path, and their dtype before."""
    frozen_dtype: FrozenDtype | None = None
    """Of these."""

    def model(self, params: Params, dropout_key: jax.Array | None = None) -> Model:
        """The model with these parameters; with a key, adapters drop out."""
        if dropout_key is None or not (self.has_adapters and self.lora.dropout):
            return nnx.merge(self.eval_graph, params)
        return nnx.merge(self.train_graph, with_dropout_keys(params, dropout_key))

    @property
    def plain(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The parameters without adapters and not in 8 bits, by the path they have in a model directory."""
        held = {path: leaf for path, leaf in self.abstract.items() if not path.endswith(ADDED)}
        wide = {path: jax.ShapeDtypeStruct(held[path].shape, dtype) for path, dtype in self.quantized.items()}
        return {base_path(path): leaf for path, leaf in (held | wide).items()}

    @property
    def trains_vocabulary(self) -> bool:
        """Whether the vocabulary projection is among the trained parameters."""
        return self.parts["language"] == "full"

    def held(self, params: Params) -> Params:
        """Parameters, or what stands for them (shapes, shardings), as training holds them: frozen stacks apart, where that is asked for."""
        if not self.apart:
            return params
        flat = flatten(params)
        for path in [path for path in flat if self.axes[path][0] == "layers" and not is_trainable(path, self.parts)]:
            flat[path] = take_apart(flat.pop(path), self.abstract[path].shape[0])
        return unflatten(flat)

    def shardings(self, mesh: Mesh) -> Params:
        """Where each parameter lives, stacked ones as stacks."""
        flat = {path: named_sharding(self.axes[path], leaf.shape, mesh) for path, leaf in self.abstract.items()}
        return unflatten(flat)

    def excess(self, mesh: Mesh) -> float:
        """How many times its share of the model's bytes a device holds: 1 where fsdp and tensor divide every width."""
        held = whole = 0
        for path, leaf in self.abstract.items():
            if path.endswith(ADDED):
                continue  # a tensor axis leaves some of them whole, on purpose
            shard = named_sharding(self.axes[path], leaf.shape, mesh).shard_shape(leaf.shape)
            held += math.prod(shard) * leaf.dtype.itemsize
            whole += math.prod(leaf.shape) * leaf.dtype.itemsize
        return held * mesh.shape["fsdp"] * mesh.shape.get("sequence", 1) * mesh.shape["tensor"] / whole


def make_model_spec(
    family: Family,
    model_config: Any,
    *,
    parts: Mapping[str, Mode],
    lora: LoRAConfig,
    compute_dtype: Any,
    param_dtype: Any,
    remat: Any,
    apart: bool = False,
    frozen_dtype: FrozenDtype | None = None,
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
        apart: Whether stacks of frozen parameters are held apart.
        frozen_dtype: Of the language model's kernels, which are not trained themselves; none: `param_dtype`.

    Raises:
        UserError: A LoRA target names no layer.
    """

    def build(dropout: float) -> nnx.Module:
        model = family.build(model_config, rngs=nnx.Rngs(0), compute_dtype=compute_dtype, remat=remat)
        apply_lora(model, lora.model_copy(update={"dropout": dropout}), parts, rngs=nnx.Rngs(0))
        if frozen_dtype is not None:
            quantize_linears(model.language, frozen_dtype)
        return model

    abstract_model = nnx.eval_shape(lambda: build(0.0))
    eval_graph, variables = nnx.split(abstract_model)
    leaves = flatten(nnx.to_pure_dict(variables))
    marked = {"/".join(map(str, path)): variable.axes for path, variable in nnx.to_flat_state(variables)}
    narrow = param_dtype if isinstance(param_dtype, Mapping) else collections.defaultdict(lambda: param_dtype)
    quantized = {(path := scale.removesuffix(SCALE) + "/kernel"): narrow[base_path(path)] for scale in leaves if scale.endswith(SCALE)}

    def dtype(path: str) -> Any:
        if path in quantized:
            return leaves[path].dtype
        # Trained parameters are float32 masters; the optimizer's small steps would be lost in bfloat16.
        return jnp.float32 if is_trainable(path, parts) or path.endswith(SCALE) else narrow[base_path(path)]

    abstract = {path: jax.ShapeDtypeStruct(leaf.shape, dtype(path)) for path, leaf in leaves.items()}
    return ModelSpec(
        train_graph=nnx.graphdef(nnx.eval_shape(lambda: build(lora.dropout))) if lora.dropout else eval_graph,
        eval_graph=eval_graph,
        axes=marked,
        abstract=abstract,
        parts=dict(parts),
        lora=lora,
        has_adapters=any(path.endswith("/lora_a") for path in leaves),
        apart=apart,
        quantized=quantized,
        frozen_dtype=frozen_dtype,
    )


def init_params(spec: ModelSpec, model_dir: Path, mesh: Mesh, seed: int, told: Callable[[float], None] = lambda off: None) -> Params:
    """Base parameters from a model directory, adapters from their initial distribution, each where it lives.

    Args:
        spec: The model.
        model_dir: The model directory.
        mesh: Where.
        seed: Of the adapters.
        told: Called, where kernels are held in 8 bits, with how far these are from the weights (root mean square, as a share of them).

    Raises:
        UserError: The model directory is damaged or of another shape.
    """
    shardings = flatten(spec.shardings(mesh))
    plain = spec.plain
    reader = open_params(model_dir, unflatten(dict(plain)))

    def load(paths: Iterable[str]) -> dict[str, jax.Array]:
        wanted = {base_path(path): plain[base_path(path)].update(sharding=shardings[path]) for path in paths}
        loaded = flatten(load_some_params(model_dir, unflatten(wanted), reader))
        return {path: loaded.pop(base_path(path)) for path in paths}

    params = load([path for path in spec.abstract if not path.endswith(ADDED) and path not in spec.quantized])
    # One stack at a time: the model as it is stored may be larger than the devices' memory.
    narrow = _quantized(spec, shardings, lambda path: load([path])[path], told)
    return spec.held(unflatten(params | narrow | _init_adapters(spec, shardings, seed)))


def _quantized(
    spec: ModelSpec, shardings: Mapping[str, NamedSharding], load: Callable[[str], jax.Array], told: Callable[[float], None]
) -> dict[str, jax.Array]:
    """Every kernel that is held in 8 bits, and its scales."""
    params: dict[str, jax.Array] = {}
    sums = np.zeros(2)
    for path in spec.quantized:
        scale = path.removesuffix("/kernel") + SCALE
        places = (shardings[path], shardings[scale], NamedSharding(shardings[path].mesh, PartitionSpec()))
        kernel = load(path)
        params[path], params[scale], off = jax.jit(quantize, static_argnums=1, out_shardings=places)(kernel, spec.frozen_dtype)
        sums += np.asarray(off, np.float64).reshape(-1, 2).sum(0)
        kernel.delete()
    if spec.quantized:
        told(float(np.sqrt(sums[0] / sums[1])))
    return params


def random_params(spec: ModelSpec, mesh: Mesh, seed: int) -> Params:
    """Parameters of the right shapes and of usual sizes, made where they live: for measuring, where no weights are at hand."""
    shardings = flatten(spec.shardings(mesh))
    places = {path: index for index, path in enumerate(spec.abstract)}

    def draw(path: str, dtype: Any) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed, impl="rbg"), places[path])
        return jax.jit(_normal, static_argnums=(1, 2), out_shardings=shardings[path])(key, spec.abstract[path].shape, dtype)

    params: dict[str, jax.Array] = {}
    for path, leaf in spec.abstract.items():
        if path.endswith("/scale"):
            params[path] = jax.jit(jnp.ones, static_argnums=(0, 1), out_shardings=shardings[path])(leaf.shape, leaf.dtype)
        elif not path.endswith(ADDED) and path not in spec.quantized:
            params[path] = draw(path, leaf.dtype)
    narrow = _quantized(spec, shardings, lambda path: draw(path, spec.quantized[path]), lambda off: None)
    return spec.held(unflatten(params | narrow | _init_adapters(spec, shardings, seed)))


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
