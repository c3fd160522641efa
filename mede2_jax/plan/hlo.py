"""What a compiled program's text says: its collectives with how often each runs, and its largest values.

XLA's own counts take the body of a loop once. Here every computation is weighted by the trips of the loops around it. A transfer
that the compiler spreads over several fusions keeps one channel, so it is counted once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from mede2_jax.config import UserError

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute", "collective-broadcast")
BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0, "opaque": 0}
"""Of the element types whose name does not end in its width."""
PIECE = "async_collective_fusion"
"""Name of the computations in which the TPU compiler goes on with a transfer that began, and counts, elsewhere."""
IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
"""Devices as a shape, `[4,32]`, whose axes may be exchanged, `T(1,0)`."""
VIEWS = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "optimization-barrier", "constant")
"""Operations that make no array of their own; a loop's results live where its body wrote them."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str
    """What stands between the parentheses."""
    is_root: bool

    @functools.cached_property
    def bytes(self) -> int:
        """Of its value, layout padding left out."""
        return type_bytes(self.type)

    @property
    def source(self) -> str:
        """Where in the traced function it comes from."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1].replace("\\'", "'") if found else ""


@dataclasses.dataclass(frozen=True)
class Collective:
    """A transfer between devices."""

    kind: str
    source: str
    operand_bytes: int
    """What a device puts in, each time."""
    runs: int
    group: tuple[int, ...]
    """One group of devices that take part together, by their place in the mesh."""
    axes: str
    """The mesh axes along which that group lies."""

    @property
    def received(self) -> float:
        """Bytes that a device receives in a step, by an algorithm that moves no more than it has to."""
        size = len(self.group)
        share = (size - 1) / size
        factor = {"all-gather": size - 1, "all-reduce": 2 * share, "collective-permute": 1, "collective-broadcast": 1}.get(self.kind, share)
        return self.operand_bytes * factor * self.runs


@dataclasses.dataclass(frozen=True)
class Value:
    """Arrays of one kind that the program makes: the largest of them decide its peak."""

    type: str
    bytes: int
    count: int
    source: str


class Program:
    """A compiled program's text, parsed."""

    def __init__(self, text: str):
        self.computations, self.entry = _parse(text)
        self.unknown_loops: list[str] = []
        """Loops with transfers inside whose trips depend on the data, counted once."""

    def collectives(self, mesh: Mapping[str, int]) -> list[Collective]:
        """Every transfer, by the axes of a mesh (name to size, in order)."""
        found: dict[str, Collective] = {}
        for computation, runs in sorted(self.runs().items(), key=lambda item: item[0].startswith(PIECE)):
            scattered = "all-reduce-scatter" in computation
            table = self.computations[computation]
            for instruction in table.values():
                kind = instruction.opcode.removesuffix("-start")
                if kind not in KINDS:
                    continue
                operands = sum(table[name].bytes for name in instruction.operands if name in table)
                group = first_group(instruction.attributes, math.prod(mesh.values()))
                channel = re.search(r"channel_id=(\d+)", instruction.attributes)
                key = channel[1] if channel else f"{computation}/{instruction.name}"
                if len(group) < 2 or (key in found and (computation.startswith(PIECE) or found[key].runs >= runs)):
                    continue
                kind = "reduce-scatter" if kind == "all-reduce" and scattered else kind
                found[key] = Collective(kind, instruction.source, operands, runs, group, axes_of(group, mesh))
        return sorted(found.values(), key=lambda one: -one.received)

    def largest(self, count: int) -> list[Value]:
        """The largest values in the device's main memory; those of one shape and origin as one."""
        groups: dict[tuple[str, str], list[Instruction]] = {}
        for name in self.bodies():
            for instruction in self.computations[name].values():
                if instruction.opcode not in VIEWS and not instruction.opcode.endswith(("-start", "-done", "-update")):
                    for shape in leaves(instruction.type):
                        if not re.search(r"S\([1-9]\)", shape):
                            groups.setdefault((_without_layout(shape), short(instruction.source)), []).append(instruction)
        values = [Value(shape, type_bytes(shape), len(found), source) for (shape, source), found in groups.items()]
        return sorted(values, key=lambda value: -value.bytes)[:count]

    def runs(self) -> dict[str, int]:
        """How often each computation runs in a step."""
        total: dict[str, int] = {}

        def visit(name: str, times: int) -> None:
            total[name] = total.get(name, 0) + times
            for instruction in self.computations[name].values():
                for called in _called(instruction):
                    if called in self.computations:
                        visit(called, times * (self.trips(instruction) if instruction.opcode == "while" else 1))

        visit(self.entry, 1)
        return total

    def trips(self, loop: Instruction) -> int:
        """Of a loop: as the compiler notes it, or read from its condition `i < constant` and its body's `i + step`."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        counted = self._counted(loop)
        if counted is None and self._has_transfers(attribute(loop, "body")):
            self.unknown_loops.append(loop.source)
        return counted or 1

    def _counted(self, loop: Instruction) -> int | None:
        condition = self.computations.get(attribute(loop, "condition"), {})
        root = next((one for one in condition.values() if one.is_root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        index, limit = (condition.get(name) for name in root.operands)
        if index is None or limit is None or limit.opcode != "constant" or index.opcode != "get-tuple-element":
            return None
        place = re.search(r"index=(\d+)", index.attributes)
        step = self._step(attribute(loop, "body"), int(place[1])) if place else 1
        return -(-int(limit.literal) // step)

    def _step(self, body: str, place: int) -> int:
        """What a loop's body adds to its counter."""
        table = self.computations.get(body, {})
        root = next((one for one in table.values() if one.is_root), None)
        value = table.get(root.operands[place]) if root is not None and root.opcode == "tuple" else None
        while value is not None and value.opcode in ("copy", "bitcast", "fusion"):
            if value.opcode == "fusion":
                table = self.computations.get(attribute(value, "calls"), {})
                value = next((one for one in table.values() if one.is_root), None)
            else:
                value = table.get(value.operands[0])
        if value is None or value.opcode != "add":
            return 1
        constants = [table[name].literal for name in value.operands if name in table and table[name].opcode == "constant"]
        return max(1, int(constants[0])) if constants else 1

    def _has_transfers(self, name: str) -> bool:
        table = self.computations.get(name, {})
        return any(
            one.opcode.removesuffix("-start") in KINDS or any(self._has_transfers(called) for called in _called(one))
            for one in table.values()
        )

    def bodies(self) -> Iterator[str]:
        """The entry and the bodies of loops: what is inside a fusion is never stored."""
        waiting, seen = [self.entry], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.computations:
                continue
            seen.add(name)
            yield name
            for instruction in self.computations[name].values():
                if instruction.opcode in ("while", "conditional", "call"):
                    waiting += _called(instruction)


def first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """One group of `replica_groups`, or the devices that a permutation links, in any of the ways XLA writes them.

    Raises:
        UserError: They are written in a way that is not known; a guess would make a figure wrong without a word.
    """
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", attributes):
        return _linked([tuple(map(int, pair.split(","))) for pair in re.findall(r"\d+,\d+", pairs[1])])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(map(int, listed[1].split(",")))
    if iota := re.search(rf"replica_groups=\[(\d+),(\d+)\]<={IOTA}", attributes):
        return tuple(map(int, _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))[0]))
    if named := re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({IOTA}\))?\s*\{{([^}}]*)\}}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        taken = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", named[4])
        ids = _iota(named[2] or str(math.prod(sizes.values())), named[3]).reshape(tuple(sizes.values()))
        kept = dict.fromkeys(sizes, slice(0, 1))
        for name, before, size in taken:  # 'axis':(before)size is a piece of an axis: `size` steps of what lies below it
            stride = sizes[name] // (int(before) * int(size)) if size else 1
            kept[name] = slice(0, stride * int(size), stride) if size else slice(None)
        return tuple(map(int, ids[tuple(kept.values())].ravel()))
    if "replica_groups={}" not in attributes and (unknown := re.search(r"replica_groups=.{,80}", attributes)):
        raise UserError(f"this compiler writes groups of devices in a form that plan does not know: {unknown[0]}")
    return tuple(range(devices))  # replica_groups={}: everyone


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """Devices 0, 1, … in that shape, its axes in that order."""
    shape = [int(size) for size in sizes.split(",")]
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose([int(axis) for axis in order.split(",")]) if order else ids


def axes_of(group: tuple[int, ...], mesh: Mapping[str, int]) -> str:
    """The mesh axes along which a group's devices differ, such as `data+fsdp`."""
    places = np.array(np.unravel_index(np.array(group), tuple(mesh.values())))
    return "+".join(name for name, places_on in zip(mesh, places, strict=True) if len(set(places_on)) > 1)


def type_bytes(text: str) -> int:
    """Of all arrays in a type."""
    bits = 0
    for dtype, sizes in re.findall(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]", text):
        found = re.match(r"(?:bf|f|s|u|c)(\d+)", dtype)
        each = BITS.get(dtype, int(found[1]) if found else 8)
        bits += each * math.prod(int(size) for size in sizes.split(",") if size)
    return bits // 8


def _linked(pairs: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The devices that can be reached from the first."""
    after = {source: target for source, target in pairs if source != target}
    if not after:
        return (pairs[0][0],)
    first = min(after)
    found = [first]
    while (following := after.get(found[-1])) is not None and following not in found:
        found.append(following)
    return tuple(sorted(found))


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", dict[str, Instruction]()
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$", line):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            current[instruction.name] = instruction
    return computations, entry


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    split = _until(text, " ")
    rest = text[split + 1 :]
    opcode, _, after = rest.partition("(")
    end = _until(after, ")")
    operands = tuple(re.findall(r"%([\w.\-]+)", after[:end]))
    return Instruction(name, text[:split], opcode, operands, after[end + 1 :], after[:end], is_root)


def _until(text: str, mark: str) -> int:
    """Where `mark` stands outside of parentheses, brackets and braces."""
    depth = 0
    for place, character in enumerate(text):
        if character == mark and depth == 0:
            return place
        depth += (character in "([{") - (character in ")]}")
    return len(text)


def _called(instruction: Instruction) -> list[str]:
    several = re.search(r"(?:branch_computations|called_computations)=\{([^}]*)\}", instruction.attributes)
    one = re.findall(r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%([\w.\-]+)", instruction.attributes)
    return one + (re.findall(r"%([\w.\-]+)", several[1]) if several else [])


def attribute(instruction: Instruction, name: str) -> str:
    """The computation that an attribute names; empty: none."""
    found = re.search(rf"\b{name}=%([\w.\-]+)", instruction.attributes)
    return found[1] if found else ""


def leaves(text: str) -> list[str]:
    """The arrays of a type, each with its layout."""
    return re.findall(r"[a-z]+\d*[a-z0-9]*\[[\d,]*\](?:\{[^}]*\})?", text)


def _without_layout(text: str) -> str:
    return text.partition("{")[0]


def short(source: str) -> str:
    """The telling end of an origin: the function's own name and JAX's wrappers say nothing."""
    noise = {
        "jit(train_step)",
        "jvp()",
        "transpose(jvp())",
        "while",
        "body",
        "closed_call",
        "checkpoint",
        "shard_map",
        "jit(dynamic_index_in_dim)",
    }
    passes = "backward " if "transpose(" in source else ""
    again = "recomputed " if "rematted_computation" in source else ""
    parts = [part for part in source.split("/") if part not in noise | {"rematted_computation", "eval_jaxpr"}]
    return passes + again + "/".join(parts[-2:])
