"""One strict table between Hugging Face tensor names and Flax parameter paths, read in both directions.

A rule is written once, in the hub's names; a layout renames prefixes and is inverted here. Nothing is skipped: every
tensor of a checkpoint and every layer of every parameter must be matched exactly once, with the right shape, unless a
rule without a path lists it as ignorable.

Shapes: a stacked parameter has its L layers in axis 0; one Hugging Face tensor is one layer of it. A fused tensor (q, k and
v in one) is several parameters, one after another along its first axis.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.tree import flatten

Shape = tuple[int, ...]


class Op(Protocol):
    """An invertible change of form between a Hugging Face tensor and (one layer of) a Flax parameter."""

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        """Hugging Face form to Flax form."""

    def to_hf(self, tensor: np.ndarray) -> np.ndarray:
        """Flax form to Hugging Face form."""

    def hf_shape(self, shape: Shape) -> Shape:
        """The Hugging Face shape of a Flax shape (without the layer axis)."""


@dataclass(frozen=True)
class Identity:
    """The same on both sides: biases, norms, embeddings."""

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the tensor."""
        return tensor

    def to_hf(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the tensor."""
        return tensor

    def hf_shape(self, shape: Shape) -> Shape:
        """Returns the shape."""
        return shape


@dataclass(frozen=True)
class Transpose:
    """torch's Linear weight [out, in] and a kernel [in, out]."""

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        """[out, in] to [in, out]."""
        return tensor.T

    def to_hf(self, tensor: np.ndarray) -> np.ndarray:
        """[in, out] to [out, in]."""
        return tensor.T

    def hf_shape(self, shape: Shape) -> Shape:
        """[in, out] to [out, in]."""
        return shape[::-1]


@dataclass(frozen=True)
class FlattenPatches:
    """torch's Conv2d or Conv3d weight [C, *window] whose stride is its window, and the kernel [prod(window), C] of the same product."""

    window: Shape
    """Input channels, (frames,) height, width of one patch."""

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        """[C, *window] to [prod(window), C]."""
        return tensor.reshape(tensor.shape[0], -1).T

    def to_hf(self, tensor: np.ndarray) -> np.ndarray:
        """[prod(window), C] to [C, *window]."""
        return tensor.T.reshape(tensor.shape[1], *self.window)

    def hf_shape(self, shape: Shape) -> Shape:
        """[prod(window), C] to [C, *window]; another first axis gives a shape that matches nothing."""
        return (shape[1], *self.window) if shape[0] == math.prod(self.window) else (shape[1], shape[0])


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    hf: str
    """The tensor's name in the hub layout; `{layer}` stands for the layer's index."""
    path: str | None
    """The parameter's path, as `language/norm/scale`. None: the tensor may be there and is not stored."""
    op: Op = Identity()
    same_as: str | None = None
    """For a tensor that is not stored: the one (hub name) it must equal, as a tied head equals the embedding."""
    part: tuple[int, int] = (0, 1)
    """(i, n): the tensor is n parameters of one shape fused along its first axis, and this is number i."""

    @property
    def stacked(self) -> bool:
        """Whether layers are stacked in axis 0 of the parameter."""
        return "{layer}" in self.hf


@dataclass(frozen=True)
class Layout:
    """A naming of the same tensors: prefixes of hub names (first match wins) and what they become."""

    name: str
    renames: tuple[tuple[str, str], ...] = ()

    def rename(self, hub_name: str) -> str:
        """A hub name in this layout."""
        for old, new in self.renames:
            if hub_name.startswith(old):
                return new + hub_name.removeprefix(old)
        return hub_name


@dataclass(frozen=True)
class Table:
    """All rules of a model, and the layouts its checkpoints come in."""

    rules: tuple[Rule, ...]
    layouts: tuple[Layout, ...]
    """The hub's first; the last is that of the modules in memory, which adapters are named by."""

    def layout(self, name: str) -> Layout:
        """The layout of that name.

        Raises:
            UserError: There is none.
        """
        for layout in self.layouts:
            if layout.name == name:
                return layout
        raise UserError(f"unknown layout {name!r}; this family has {', '.join(layout.name for layout in self.layouts)}")


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint and its place among the parameters."""

    hf: str
    path: str
    layer: int | None
    op: Op
    hf_shape: Shape
    """Of the whole tensor, fused or not."""
    rows: tuple[int, int] | None = None
    """Which rows of a fused tensor they are; None: all, it is not fused."""


@dataclass(frozen=True)
class Resolved:
    """Every tensor's place, and what was recognised as not stored: (name, the tensor it must equal or None)."""

    entries: tuple[Entry, ...]
    ignored: tuple[tuple[str, str | None], ...]
    layout: Layout


def expected(table: Table, abstract: Mapping[str, Any], layout: Layout) -> list[Entry]:
    """Every tensor a checkpoint of these parameters has, in the table's order (all layers of a rule together).

    Args:
        table: The table.
        abstract: Nested dict of anything with `.shape`.
        layout: How to name the tensors.

    Raises:
        UserError: A parameter that no rule or more than one reaches, or a rule for a parameter that does not exist; a tensor
            that two rules claim, or of whose fused parts one is missing.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(abstract).items()}
    _check_rules(table.rules, shapes)
    entries: list[Entry] = []
    for rule in table.rules:
        if rule.path is None:
            continue
        shape = shapes[rule.path]
        layers = range(shape[0]) if rule.stacked else [None]
        hf_shape, rows = _fused(rule.op.hf_shape(shape[1:] if rule.stacked else shape), rule.part)
        entries += [Entry(layout.rename(rule.hf.format(layer=layer)), rule.path, layer, rule.op, hf_shape, rows) for layer in layers]
    return entries


def _check_rules(rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> None:
    paths = [rule.path for rule in rules if rule.path is not None]
    wrong = sorted(set(shapes) ^ set(paths) | {path for path in paths if paths.count(path) > 1})
    if wrong:
        raise UserError(f"the weight table and the model disagree about {_listed(wrong)}: each parameter needs exactly one rule")
    parts: dict[str, list[tuple[int, int]]] = {}
    for rule in rules:
        if rule.path is not None:
            parts.setdefault(rule.hf, []).append(rule.part)
    torn = [hf for hf, found in parts.items() if sorted(found) != [(index, len(found)) for index in range(len(found))]]
    if torn:
        raise UserError(f"the weight table does not use {_listed(torn)} exactly once: its parts must be the whole tensor")


def _fused(shape: Shape, part: tuple[int, int]) -> tuple[Shape, tuple[int, int] | None]:
    """The whole tensor's shape, and the rows that are this part."""
    index, count = part
    return (shape, None) if count == 1 else ((count * shape[0], *shape[1:]), (index * shape[0], (index + 1) * shape[0]))


def resolve(table: Table, abstract: Mapping[str, Any], hf_shapes: Mapping[str, Shape], source: str = "the checkpoint") -> Resolved:
    """Matches a checkpoint's tensors with the parameters, on names and shapes alone.

    Args:
        table: The table.
        abstract: Nested dict of anything with `.shape`.
        hf_shapes: The checkpoint's tensors.
        source: What to call the checkpoint in errors.

    Raises:
        UserError: Tensors that are missing, extra or of the wrong shape, all in one line.
    """
    layout = detect_layout(table, abstract, hf_shapes)
    entries = expected(table, abstract, layout)
    wanted = {entry.hf: entry for entry in entries}
    ignored, extra = [], []
    for name in hf_shapes:
        if name in wanted:
            continue
        rule = _ignoring_rule(table.rules, name, layout)
        if rule is None:
            extra.append(name)
        else:
            ignored.append((name, rule.same_as and layout.rename(rule.same_as)))
    missing = [name for name in wanted if name not in hf_shapes]
    misshapen = [entry for entry in wanted.values() if entry.hf in hf_shapes and tuple(hf_shapes[entry.hf]) != entry.hf_shape]
    problems = list(_problems(missing, extra, misshapen, hf_shapes))
    if problems:
        raise UserError(f"{source} does not fit the config: {'; '.join(problems)}; use the config.json that belongs to these weights")
    return Resolved(tuple(entries), tuple(ignored), layout)


def detect_layout(table: Table, abstract: Mapping[str, Any], names: Collection[str]) -> Layout:
    """The layout in which most of the names are known (the first of several)."""
    return max(table.layouts, key=lambda layout: sum(entry.hf in names for entry in expected(table, abstract, layout)))


def _ignoring_rule(rules: Sequence[Rule], name: str, layout: Layout) -> Rule | None:
    for rule in rules:
        if rule.path is None:
            pattern = re.escape(layout.rename(rule.hf)).replace(re.escape("{layer}"), r"\d+")
            if re.fullmatch(pattern, name):
                return rule
    return None


def _problems(missing: list[str], extra: list[str], misshapen: list[Entry], hf_shapes: Mapping[str, Shape]) -> Iterator[str]:
    if missing:
        near = difflib.get_close_matches(missing[0], extra, n=1, cutoff=0.8)
        yield f"{len(missing)} missing: {_listed(missing)}" + (f" (the nearest name there is {near[0]!r})" if near else "")
    if extra:
        yield f"{len(extra)} unexpected: {_listed(extra)}"
    if misshapen:
        shown = [_misshapen(entry, tuple(hf_shapes[entry.hf])) for entry in misshapen[:3]]
        yield f"{len(misshapen)} of the wrong shape: {', '.join(shown)}" + (", …" if len(misshapen) > 3 else "")


def _misshapen(entry: Entry, seen: Shape) -> str:
    hint = ", transposed" if seen == entry.hf_shape[::-1] else ""
    return f"{entry.hf} is {list(seen)}{hint}, the config needs {list(entry.hf_shape)}"


def _listed(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
