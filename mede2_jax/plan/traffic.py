"""Bytes that a compiled program moves between a device's memory and its cores, kernel by kernel.

A kernel reads each operand once and writes its result once, whatever it keeps in registers and caches. What a fusion takes a slice of is
read as far as the slice goes, and what it updates in place is written as far as the update goes. Kernels run one after another on a GPU, so
what those move that do not compute much adds to the time of the products.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from mede2_jax.plan.hlo import VIEWS, Instruction, Program, attribute, leaves, short, type_bytes

Computation = Mapping[str, Instruction]

SLICES = ("dynamic-slice", "slice", "gather")
MADE = ("iota", "broadcast", "partition-id", "replica-id", "after-all", "rng-get-and-update-state")
"""What reads nothing worth counting."""
PRODUCT = re.compile(r"cublas|gemm|matmul", re.IGNORECASE)
"""In the names of libraries' functions."""
REMATERIALISED = re.compile(r"\.remat\d*(\.|$)")
"""How XLA names what it computes again to save memory, of its own accord."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What runs of one kind and origin move in a step."""

    kind: str
    source: str
    runs: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes of one device in a step."""

    products: float
    """By products whose arithmetic takes longer than their bytes."""
    other: float
    """By everything else, narrow products among it."""
    kernels: list[Kernel]
    """Of the others, those that move most."""
    rematerialised: int
    """Instructions that XLA computes again by itself, each as often as it runs."""
    rematerialised_bytes: float
    """What these move."""


def traffic(program: Program, ridge: float, largest: int) -> Traffic:
    """Adds up a step.

    Args:
        program: The compiled step.
        ridge: FLOP a byte from which on a device's arithmetic takes longer than its memory.
        largest: How many kernels are named.
    """
    products = other = again_bytes = 0.0
    again, groups = 0, defaultdict[tuple[str, str], list[float]](lambda: [0, 0.0])
    for table, instruction, runs in _kernels(program):
        moved = kernel_bytes(program, table, instruction) * runs
        if REMATERIALISED.search(instruction.name):
            again, again_bytes = again + runs, again_bytes + moved
        if product_flops(program, table, instruction) * runs > ridge * moved:
            products += moved
            continue
        other += moved
        group = groups[_kind(instruction), short(instruction.source)]
        group[0] += runs
        group[1] += moved
    ranked = sorted(groups.items(), key=lambda item: -item[1][1])[:largest]
    kernels = [Kernel(kind, source, int(runs), moved) for (kind, source), (runs, moved) in ranked]
    return Traffic(products, other, kernels, again, again_bytes)


def kernel_bytes(program: Program, table: Computation, instruction: Instruction) -> int:
    """What one run of an instruction outside of fusions reads and writes; `table` is the computation that it stands in."""
    opcode = instruction.opcode.removesuffix("-start")
    operands = [table[name] for name in instruction.operands if name in table]
    if opcode == "fusion":
        return _fusion_bytes(program, instruction, operands)
    if opcode in SLICES:
        return 2 * instruction.bytes
    if opcode == "dynamic-update-slice":
        return 2 * operands[1].bytes
    read = 0 if opcode in MADE else sum(stored(one.type) for one in operands)
    if instruction.opcode.endswith("-start"):  # its type lists the operands too
        return read + max(0, stored(instruction.type) - read)
    return read + stored(instruction.type)


def product_flops(program: Program, table: Computation, instruction: Instruction) -> float:
    """Of a matrix product, alone or in a fusion; 0: it is none. From sizes alone, so as if it had no batch axes."""
    if instruction.opcode == "fusion":
        inside = program.computations.get(attribute(instruction, "calls"), {})
        return sum(product_flops(program, inside, one) for one in inside.values() if one.opcode in ("dot", "convolution"))
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    if instruction.opcode not in ("dot", "convolution") and not (target and PRODUCT.search(target[1])):
        return 0.0
    sides = [_elements(table[name].type) for name in instruction.operands[:2] if name in table]
    return 2 * math.sqrt(math.prod([*sides, _elements(instruction.type)])) if len(sides) == 2 else 0.0


def stored(text: str) -> int:
    """Bytes of a type's arrays in main memory; a library's workspace is none of them."""
    arrays = leaves(text)
    if len(arrays) > 1 and arrays[-1].startswith("s8["):
        arrays = arrays[:-1]
    return sum(type_bytes(leaf) for leaf in arrays if not re.search(r"S\([1-9]\)", leaf))


def _kernels(program: Program) -> Iterator[tuple[Computation, Instruction, int]]:
    """Everything that runs by itself, and how often."""
    runs = program.runs()
    for name in program.bodies():
        table = program.computations[name]
        for instruction in table.values():
            if instruction.opcode not in VIEWS and not instruction.opcode.endswith(("-done", "-update")):
                yield table, instruction, runs[name]


def _fusion_bytes(program: Program, fusion: Instruction, operands: list[Instruction]) -> int:
    inside = program.computations.get(attribute(fusion, "calls"), {})
    parameters = {one.literal: one for one in inside.values() if one.opcode == "parameter"}
    read = sum(_read(inside, parameters[str(place)], one) for place, one in enumerate(operands) if str(place) in parameters)
    root = next((one for one in inside.values() if one.is_root), None)
    return read + (stored(fusion.type) if root is None else _written(inside, root))


def _read(inside: Computation, parameter: Instruction, operand: Instruction) -> int:
    """Of one operand: the slices that are taken of it, where nothing else is."""
    read = 0
    for use, place in _uses(inside, parameter.name):
        if use.opcode in SLICES and place == 0:
            read += use.bytes
        elif use.opcode != "dynamic-update-slice" or place != 0:
            return stored(operand.type)
    return min(read, stored(operand.type))


def _uses(inside: Computation, name: str) -> Iterator[tuple[Instruction, int]]:
    """By what a value is used, through views of it, and as which operand."""
    for one in inside.values():
        for place, operand in enumerate(one.operands):
            if operand == name and one.opcode == "bitcast" and not one.is_root:
                yield from _uses(inside, one.name)
            elif operand == name:
                yield one, place


def _written(inside: Computation, root: Instruction) -> int:
    """Of a fusion's result: in place as far as it is updated."""
    if root.opcode == "tuple":
        return sum(_written(inside, inside[name]) for name in root.operands if name in inside)
    if root.opcode == "bitcast" and root.operands and root.operands[0] in inside:
        return _written(inside, inside[root.operands[0]])
    if root.opcode == "dynamic-update-slice" and root.operands[1] in inside:
        return inside[root.operands[1]].bytes
    return stored(root.type)


def _kind(instruction: Instruction) -> str:
    """A kernel's name without its number, which says what XLA made it of."""
    return re.sub(r"(\.\d+|\.remat\d*|\.clone)+$", "", instruction.name)


def _elements(text: str) -> int:
    """Of a type's first array."""
    found = re.search(r"\[([\d,]*)\]", text)
    return math.prod(int(size) for size in found[1].split(",") if size) if found else 0
