"""Stacked parameters held apart: one array a layer, so that no kernel has to copy its layer out of a stack.

A product of cuBLAS takes whole arrays. Of a stack [L, I, O] XLA first copies the layer's slice, forward and backward, and that moves a
weight twice more each time than the product reads it. On disk, in checkpoints and in the model's modules parameters stay stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


@jax.tree_util.register_pytree_node_class
class Apart:
    """A stack of L layers as L leaves of a tree: arrays, or what stands for them (shapes, shardings)."""

    def __init__(self, layers: Sequence[Any]):
        self.layers = tuple(layers)

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """For JAX."""
        return self.layers, None

    @classmethod
    def tree_unflatten(cls, _: None, layers: Sequence[Any]) -> Apart:
        """For JAX."""
        return cls(layers)


def is_apart(leaf: Any) -> bool:
    """Whether a leaf is a stack held apart: for `jax.tree.map`'s `is_leaf`."""
    return isinstance(leaf, Apart)


def take_apart(stack: Any, count: int) -> Apart:
    """A stack as its layers, each where the stack was. An array is used up, so that it is not held twice.

    Args:
        stack: An array [L, …], its `ShapeDtypeStruct`, or its `NamedSharding`, which does not split the layers.
        count: L.
    """
    if isinstance(stack, NamedSharding):
        return Apart([NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:]))] * count)
    if isinstance(stack, jax.ShapeDtypeStruct):
        return Apart([jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype)] * count)
    places = take_apart(stack.sharding, count) if isinstance(stack.sharding, NamedSharding) else None
    layers = Apart(jax.jit(list, out_shardings=None if places is None else list(places.layers))(stack))
    jax.block_until_ready(layers.layers)
    stack.delete()
    return layers


def put_together(leaf: Any) -> Any:
    """A stack again; its layers are used up. Any other leaf as it is."""
    if not isinstance(leaf, Apart):
        return leaf
    first = leaf.layers[0].sharding
    place = NamedSharding(first.mesh, PartitionSpec(None, *first.spec)) if isinstance(first, NamedSharding) else None
    stack = jax.jit(lambda layers: jnp.stack(layers), out_shardings=place)(leaf.layers)
    jax.block_until_ready(stack)
    for layer in leaf.layers:
        layer.delete()
    return stack


def layer_of(tree: Any, index: int) -> Any:
    """One layer of a tree whose leaves are stacks, some of them held apart."""
    return jax.tree.map(lambda leaf: leaf.layers[index] if isinstance(leaf, Apart) else leaf[index], tree, is_leaf=is_apart)
