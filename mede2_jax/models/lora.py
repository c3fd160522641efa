"""Low-rank adaptation (Hu et al. 2022) as surgery on a model's tree: apply, select, merge, take out, put in.

Each part of a model (vision, projector, language) is `frozen`, `lora` or `full`. Applying replaces a `Linear` at
`…/q_proj` by a `LoRALinear` holding `…/q_proj/base/kernel`, `…/q_proj/lora_a` and `…/q_proj/lora_b`; nothing else knows.
Axes: L layers, I input width, O output width, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float
from pydantic import Field

from mede2_jax import rounding
from mede2_jax.config import Config, UserError
from mede2_jax.models.layers import PRODUCT, Linear
from mede2_jax.models.trained import product
from mede2_jax.parallel.rules import constrain
from mede2_jax.rounding import Rounding, Sums
from mede2_jax.tree import flatten, unflatten

Mode = Literal["frozen", "lora", "full"]
Params = dict[str, Any]
Adapters = dict[str, tuple[Any, Any]]
"""The path of an adapted linear layer, such as `language/layers/attention/q_proj`, to its (A, B)."""

ALL_LINEAR = "all-linear"
NEVER = ("patch_embed",)
"""A convolution in every other implementation, so that PEFT could not hold its adapter."""


class LoRAConfig(Config):
    """Low-rank adapters, for every part whose mode is `lora`."""

    rank: int = Field(default=8, ge=1)
    """Rank r of each update."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input, in training only."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rank-stabilised, Kalajdzievski 2023)."""
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Linear layers to adapt by name, such as q_proj v_proj; all-linear: every one but vocabulary head and patch embedding."""

    @property
    def scale(self) -> float:
        """What A·B is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class DropoutKey(nnx.Variable):
    """Random key of one layer's dropout; given afresh for every step."""


class LoRALinear(nnx.Module):
    """base(x) + (scale · dropout(x)·A)·B, with A [*, I, r] random and B [*, r, O] zero at the start."""

    def __init__(self, base: Linear, config: LoRAConfig, *, rngs: nnx.Rngs):
        *stack, d_in, d_out = base.kernel.shape
        *stack_axes, in_axis, out_axis = base.kernel.axes
        bound = d_in**-0.5  # PEFT's start for A: Kaiming uniform with a = √5
        self.scale, self.dropout = config.scale, config.dropout
        self.base = base
        a = jax.random.uniform(rngs.params(), (*stack, d_in, config.rank), jnp.float32, -bound, bound)
        # As a product needs them: left to itself, the partitioner rather exchanges the wide update between devices than gathers B.
        self.gathered = tuple(None if axis == "embed" else axis for axis in (in_axis, out_axis))
        # Of an adapter only the long side can be split, so it is split over all that there is, whatever its kernel's side is.
        in_axis, out_axis = (axis if axis in (None, "embed") else "adapted" for axis in (in_axis, out_axis))
        self.lora_a = nnx.Param(a, axes=(*stack_axes, in_axis, "rank"))
        self.lora_b = nnx.Param(jnp.zeros((*stack, config.rank, d_out), jnp.float32), axes=(*stack_axes, "rank", out_axis))
        if config.dropout:
            self.dropout_key = DropoutKey(jnp.zeros((*stack, 2), jnp.uint32))

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """The base layer's output and the scaled update, in the dtype of x."""
        kept = x
        if self.dropout:
            keep = jax.random.bernoulli(jax.random.wrap_key_data(self.dropout_key[...]), 1 - self.dropout, x.shape)
            kept = jnp.where(keep, x / (1 - self.dropout), 0).astype(x.dtype)
        lora_a, lora_b = constrain(self.lora_a[...], (self.gathered[0], None)), constrain(self.lora_b[...], (None, self.gathered[1]))
        # Scaled where it is narrow: neither pass touches the wide update for it.
        narrow = checkpoint_name(product(kept, lora_a) * self.scale, PRODUCT)
        return checkpoint_name(self.base.product(x) + product(narrow, lora_b), PRODUCT)


def apply_lora(model: nnx.Module, config: LoRAConfig, parts: Mapping[str, Mode], *, rngs: nnx.Rngs) -> None:
    """Replaces the targeted linear layers of every `lora` part, in place.

    Raises:
        UserError: A target names no linear layer of those parts, or no target one of a part that is to be trained.
    """
    linears = {
        part: [(parent, name) for parent, name in linear_layers(getattr(model, part)) if name not in NEVER]
        for part, mode in parts.items()
        if mode == "lora"
    }
    known = {part: {name for _, name in found} for part, found in linears.items()}
    everywhere = set().union(*known.values())
    if unused := set(config.targets) - everywhere - {ALL_LINEAR}:
        raise UserError(f"lora.targets {sorted(unused)} name no linear layer; choose from {sorted(everywhere)} or {ALL_LINEAR!r}")
    targets = everywhere if ALL_LINEAR in config.targets else set(config.targets)
    for part, found in linears.items():
        if not known[part] & targets:
            raise UserError(
                f"lora.targets {sorted(targets)} name no linear layer of parts.{part}=lora; add some of {sorted(known[part])}, "
                f"or set parts.{part}=frozen"
            )
        for parent, name in found:
            if name in targets:
                setattr(parent, name, LoRALinear(getattr(parent, name), config, rngs=rngs))


def is_trainable(path: str, parts: Mapping[str, Mode]) -> bool:
    """Whether the parameter at `path` ("part/…") is trained under these modes."""
    mode = parts[path.split("/", 1)[0]]
    return mode == "full" or (mode == "lora" and path.rsplit("/", 1)[-1] in ("lora_a", "lora_b"))


def split_params(params: Params, parts: Mapping[str, Mode]) -> tuple[Params, Params]:
    """(trainable, frozen), two trees that share no leaf and together are `params`."""
    flat = flatten(params)
    trainable = {path: leaf for path, leaf in flat.items() if is_trainable(path, parts)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trainable}
    return unflatten(trainable), unflatten(frozen)


def join_params(*trees: Params) -> Params:
    """The inverse of `split_params`."""
    flat: dict[str, Any] = {}
    for tree in trees:
        flat |= flatten(tree)
    return unflatten(flat)


def with_dropout_keys(params: Params, key: jax.Array) -> Params:
    """Adds a fresh dropout key to every adapter (and, of a stacked one, to every layer)."""
    flat = flatten(params)
    adapted = sorted(path.removesuffix("/lora_a") for path in flat if path.endswith("/lora_a"))
    for index, path in enumerate(adapted):
        stack = flat[f"{path}/lora_a"].shape[:-2]
        flat[f"{path}/dropout_key"] = jax.random.key_data(jax.random.split(jax.random.fold_in(key, index), stack))
    return unflatten(flat)


def merge_lora(
    params: Params,
    scale: float,
    dtypes: Mapping[str, Any] | None = None,
    how: Rounding = "nearest",
    before: Mapping[str, Any] | None = None,
) -> tuple[Params, dict[str, Sums]]:
    """Plain parameters with kernel + scale·A·B and no adapters, and what rounding did to each update.

    Args:
        params: With adapters.
        scale: What A·B is multiplied by.
        dtypes: Of the result, by plain path; none: each kernel's own.
        how: How what was added, in float32, is rounded to these.
        before: What parameters that were trained in full were before, by plain path; they are narrowed by the same rule.

    Returns:
        The parameters, and by plain path the sums of each kernel that was updated, one for each layer of a stacked one.
    """
    flat = flatten(params)
    merged: dict[str, Any] = {}
    sums: dict[str, Sums] = {}
    for path, leaf in flat.items():
        if path.endswith(("/lora_a", "/lora_b")):
            continue
        plain = base_path(path)
        dtype, linear = leaf.dtype if dtypes is None else dtypes[plain], plain.removesuffix("/kernel")
        if plain.endswith("/kernel") and f"{linear}/lora_a" in flat:
            leaf, sums[plain] = _updated(plain, dtype, how, scale, leaf, flat[f"{linear}/lora_a"], flat[f"{linear}/lora_b"])
        elif before is not None and plain in before:
            leaf, sums[plain] = _updated(plain, dtype, how, None, before[plain], leaf)
        merged[plain] = leaf.astype(dtype)
    return unflatten(merged), sums


def _updated(path: str, dtype: Any, how: Rounding, scale: float | None, *arrays: jax.Array) -> tuple[jax.Array, Sums]:
    """A parameter and its A and B, or (`scale` none) what it was and what it has become."""

    def one(layer: tuple[jax.Array, ...]) -> tuple[jax.Array, Sums]:
        salt, base, *change = layer
        if scale is None:
            update = change[0].astype(jnp.float32) - base.astype(jnp.float32)
        else:
            update = scale * jnp.matmul(*change, precision=jax.lax.Precision.HIGHEST)
        return rounding.add(base, update, dtype, how, salt, jnp)

    if arrays[0].ndim != 3:
        return one((jnp.uint32(rounding.salt(path)), *arrays))
    salts = np.array([rounding.salt(path, layer) for layer in range(arrays[0].shape[0])], np.uint32)
    # A layer at a time: the float32 update of a whole stack would be larger than the model's own kernels.
    return jax.lax.map(one, (jnp.asarray(salts), *arrays))


def base_path(path: str) -> str:
    """The path that a base parameter had before LoRA was applied."""
    return path.replace("/base/", "/")


def take_adapters(params: Params) -> Adapters:
    """The adapters of a tree, by the path of their linear layer."""
    flat = flatten(params)
    paths = [path.removesuffix("/lora_a") for path in flat if path.endswith("/lora_a")]
    return {path: (flat[f"{path}/lora_a"], flat[f"{path}/lora_b"]) for path in paths}


def put_adapters(params: Params, adapters: Mapping[str, tuple[Any, Any]]) -> Params:
    """`params` with the adapters' A and B, on the same devices as those they replace.

    Raises:
        UserError: The adapters are not for exactly the adapted layers, or have another rank.
    """
    flat = flatten(params)
    expected = take_adapters(params)
    if differing := sorted(expected.keys() ^ adapters.keys()):
        raise UserError(
            f"the adapter's layers differ from lora.targets and parts, for example at {differing[0]!r} ({len(differing)} layers)"
        )
    for path, pair in adapters.items():
        for name, old, new in zip(("lora_a", "lora_b"), expected[path], pair, strict=True):
            if old.shape != new.shape:
                raise UserError(
                    f"adapter {path}/{name} has shape {new.shape}, the model needs {old.shape}; set lora.rank to the adapter's rank"
                )
            flat[f"{path}/{name}"] = jax.device_put(new.astype(old.dtype), old.sharding)
    return unflatten(flat)


def linear_layers(module: nnx.Module) -> Iterator[tuple[nnx.Module, str]]:
    """Every linear layer below `module`, as (its parent, its name)."""
    for name, child in vars(module).items():
        if isinstance(child, Linear):
            yield module, name
        elif isinstance(child, nnx.Module):
            yield from linear_layers(child)
