"""Nested dicts and their leaves by path; without Flax, which not every environment that reads a model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], sep: str = "/") -> dict[str, Any]:
    """A nested dict as {"a/b/c": leaf}; what holds nothing leaves nothing."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}{sep}{path}": leaf for path, leaf in flatten(value, sep).items()})
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any], sep: str = "/") -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(sep)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
