"""The compiled functions of the Flax sampler, and the parameters and caches they work on, laid out over a mesh.

Lengths are padded to a few sizes, each twice the one before, so that after each size was met once nothing compiles any more.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mede2_jax.families import Family
from mede2_jax.models.decoding import CACHE_AXES, Cache, CacheShape, Decoding, Progress, decode, empty_cache, prefill
from mede2_jax.parallel import rules
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.model_directory import load_params
from mede2_jax.weights.model_info import PARAMS
from mede2_jax.weights.params import ParamReader

TEXT_FIELDS = ("tokens", "positions", "key_start", "key_end", "image_index")
IMAGE_FIELDS = ("patches", "patch_positions", *(f"patch_{kind}_{end}" for kind in ("window", "image") for end in ("start", "end")))


class Programs:
    """Holds the parameters and the cache of one model; `encode`, `prefill` and `decode` change the cache.

    Args:
        family: The model's family.
        sizes: Its config.
        model: The model directory.
        mesh: Where it lives.
        dtype: Of computation, of the cache, and of the parameters that every step reads.
        shape: Of the cache.
        how: What a decoding call does.
        banned: [V], tokens that may not be sampled.

    Raises:
        UserError: The model directory is damaged or of another shape.
    """

    def __init__(
        self,
        family: Family,
        sizes: Any,
        model: Path,
        mesh: Mesh,
        *,
        dtype: Any,
        shape: CacheShape,
        how: Decoding,
        banned: np.ndarray,
    ) -> None:
        self.mesh, self.shape, self.width = mesh, shape, sizes.language.hidden_size
        self._traces: collections.Counter[str] = collections.Counter()
        self._graph, self.params = open_model(family, sizes, model, mesh, dtype)
        self._compile(how, dtype, jnp.asarray(banned))
        self.cache = self._empty()
        self.no_images = self._place({"images": np.zeros((self.rows, shape.prompt, self.width), dtype)})["images"]

    @property
    def rows(self) -> int:
        """Prompts of one prefill: one for each device (or group of devices) that has slots of its own."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return self._traces.total()

    def encode(self, batch: Mapping[str, np.ndarray]) -> jax.Array:
        """The embeddings of a batch's images, padded to as many as a prompt can hold; may return before they are computed."""
        return self._encode(self.params, self._place({name: batch[name] for name in IMAGE_FIELDS}))

    def prefill(self, batch: Mapping[str, np.ndarray], images: jax.Array, place: np.ndarray) -> None:
        """Puts one prompt a row into slots; see `models.decoding.prefill`."""
        text = self._place({name: batch[name] for name in (*TEXT_FIELDS, "length")} | {"place": place})
        place_ = text.pop("place")
        self.cache = self._prefill(self.params, self.cache, text, images, place_)

    def decode(self, progress: Progress) -> tuple[jax.Array, jax.Array]:
        """Tokens and log-probabilities of one call; may return before they are computed."""
        self.cache, tokens, logprobs = self._decode(self.params, self.cache, progress)
        return tokens, logprobs

    def _compile(self, how: Decoding, dtype: Any, banned: jax.Array) -> None:
        """The one place where shardings meet `jit`."""
        mesh = self.mesh

        def empty_(params: Any) -> Cache:
            return empty_cache(nnx.merge(self._graph, params), self.shape)

        def encode_(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
            images = nnx.merge(self._graph, params).image_embeddings(batch)
            # Real units come first, and a prompt has no more of them than tokens.
            images = images[:, : self.shape.prompt]
            return jnp.pad(images, ((0, 0), (0, self.shape.prompt - images.shape[1]), (0, 0))).astype(dtype)

        def prefill_(params: Any, cache: Cache, batch: Any, images: jax.Array, place: jax.Array) -> Cache:
            return prefill(nnx.merge(self._graph, params), cache, batch, images, place)

        def decode_(params: Any, cache: Cache, progress: Progress) -> tuple[Cache, jax.Array, jax.Array]:
            return decode(nnx.merge(self._graph, params), cache, progress, banned, how)

        with rules.use_mesh(mesh):
            shapes = jax.eval_shape(empty_, self.params)
        layouts = (rules.named_sharding(axes, leaf.shape, mesh) for axes, leaf in zip(CACHE_AXES, jax.tree.leaves(shapes), strict=True))
        cache: Any = jax.tree.unflatten(jax.tree.structure(shapes), layouts)
        replicated = NamedSharding(mesh, PartitionSpec())
        self._rows = rules.named_sharding(("rows",), (self.rows,), mesh)
        self._empty = functools.partial(jax.jit(self._traced(empty_), out_shardings=cache), self.params)
        self._encode = jax.jit(self._traced(encode_), out_shardings=self._rows)
        self._prefill = jax.jit(self._traced(prefill_), out_shardings=cache, donate_argnums=1)
        self._decode = jax.jit(self._traced(decode_), out_shardings=(cache, replicated, replicated), donate_argnums=1)

    def _traced(self, function: Any) -> Any:
        def call(*args: Any) -> Any:
            self._traces[function.__name__] += 1  # runs when JAX traces, which is once a compilation
            with rules.use_mesh(self.mesh):
                return function(*args)

        return call

    def _place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {name: jax.device_put(value, self._rows) for name, value in batch.items()}


def open_model(family: Family, sizes: Any, model: Path, mesh: Mesh, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """The graph of a model that computes in `dtype`, and its parameters, each where it lives.

    Raises:
        UserError: The model directory is damaged or of another shape.
    """
    abstract = nnx.eval_shape(lambda: family.build(sizes, rngs=nnx.Rngs(0), compute_dtype=dtype, remat="none"))
    graph, variables = nnx.split(abstract)
    axes = {"/".join(map(str, path)): variable.axes for path, variable in nnx.to_flat_state(variables)}
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rules.named_sharding(axes[path], leaf.shape, mesh))
        for path, leaf in _in_dtype(nnx.to_pure_dict(variables), ParamReader(model / PARAMS).infos, dtype).items()
    }
    return graph, load_params(model, unflatten(wanted))


def _in_dtype(abstract: Mapping[str, Any], stored: Mapping[str, Any], dtype: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The decoder in `dtype`, everything else as stored.

    Training rounds the decoder's parameters to its compute dtype wherever it uses them; doing it once gives the same numbers, and
    a step then reads each of them once.
    """
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, dtype if path.startswith("language/") or path not in stored else stored[path].dtype)
        for path, leaf in flatten(abstract).items()
    }


def padded_size(count: int, smallest: int, largest: int | None = None) -> int:
    """The first of smallest, 2 · smallest, 4 · smallest, … that holds `count`, or `largest` if that is less."""
    size = smallest
    while size < count:
        size *= 2
    return size if largest is None else min(size, largest)
