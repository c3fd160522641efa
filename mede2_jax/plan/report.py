"""A plan as tables, and as JSON; and what to change when it does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mede2_jax import __version__
from mede2_jax.config import counted
from mede2_jax.parallel.mesh import describe_excess, describe_whole_heads
from mede2_jax.plan.compile import Memory, Plan
from mede2_jax.plan.config import PlanConfig
from mede2_jax.plan.hlo import short
from mede2_jax.plan.roofline import Roofline, by_kind_and_axes, roofline
from mede2_jax.plan.traffic import Traffic
from mede2_jax.sizing.chips import GIB


def show(plan: Plan, config: PlanConfig, console: Console) -> None:
    """Everything a plan says."""
    held = plan.workload
    pieces = f" ({config.rows_per_step} × {config.accumulation})" if config.accumulation > 1 else ""
    console.print(
        f"[bold]{config.stage}[/] on {plan.topology.name}: {plan.parameters:,} parameters, {plan.trained:,} trained; "
        f"{' × '.join(f'{name} {size}' for name, size in plan.mesh.items())}; remat={plan.remat}; compiled in {plan.compile_seconds:.0f} s"
    )
    console.print(
        f"{counted(plan.rows, 'row')}{pieces} of {held.shape.tokens:,} tokens "
        f"({held.held.tokens / (plan.rows * held.shape.tokens):.1%} real, "
        f"{held.image_share:.0%} of these images), {held.shape.patches:,} patches and {held.shape.scored:,} scored tokens a row; "
        f"{held.held.examples:,} {'pairs' if config.stage == 'dpo' else 'examples'} a step"
    )
    console.print(memory_table(plan.memory))
    for line in advice(plan, config):
        console.print(f"[yellow]{line}[/]")
    console.print(speed_table(plan, config, roofline(plan)))
    if plan.collectives:
        console.print(transfer_table(plan, config.largest))
    if plan.traffic is not None and plan.traffic.kernels:
        console.print(kernel_table(plan.traffic))
    if plan.largest:
        console.print(buffer_table(plan))
    for loop in plan.unknown_loops:
        console.print(f"[yellow]a loop with transfers has trips that depend on the data; counted once: {loop}[/]")


def memory_table(memory: Memory) -> Table:
    """One device's memory by what lies there."""
    table = _table("memory of one device", ("GiB", "right"), ("what", "left"))
    table.add_row("frozen parameters", _gib(memory.frozen), "")
    table.add_row("trained parameters", _gib(memory.trained), "float32")
    table.add_row("optimizer state", _gib(memory.optimizer), "two float32 moments a trained number")
    table.add_row("batch", _gib(memory.batch), "")
    known = "gathered parameters, activations, gradients" if memory.exact else "the compiler gave up here: at least this"
    table.add_row("temporaries", "?" if memory.temporaries is None else _gib(memory.temporaries), known)
    table.add_row(
        "total", _gib(memory.total), "" if memory.temporaries is not None else "without temporaries, which the compiler does not tell"
    )
    if memory.capacity:
        table.add_row("capacity", _gib(memory.capacity), "what a program may use")
        verdict = {True: "[green]fits[/]", False: "[red]does not fit[/]", None: "not known"}[memory.fits]
        table.add_row("headroom", _gib(memory.headroom), verdict)
    return table


def speed_table(plan: Plan, config: PlanConfig, times: Roofline) -> Table:
    """Operations by part, and the bounds that follow."""
    table = _table("a step", ("value", "right"), ("of what", "left"))
    flops, again = plan.flops, sum(plan.flops.recomputation.values())
    for part, value in flops.model.items():
        repeated = flops.recomputation.get(part, 0.0)
        said = [f"{repeated / 1e12:,.1f} more recomputed"] if repeated else []
        said += [f"{flops.repeated[part] / 1e12:,.1f} more that several devices do alike"] if flops.repeated.get(part) else []
        table.add_row(part, f"{value / 1e12:,.1f} TFLOP", ", ".join(said))
    table.add_row("model", f"{flops.total / 1e12:,.1f} TFLOP", f"{again / 1e12:,.1f} more recomputed")
    if times.compute is None:
        return table
    chip, devices = plan.topology.chip, plan.topology.size
    table.add_row("compute", _ms(times.compute), f"all that is done / ({devices} × {chip.tflops:,.0f} TFLOP/s)")
    received = sum(one.received for one in plan.collectives)
    table.add_row(
        "transfers",
        _ms(times.transfers),
        f"{received / 1e9:,.1f} GB into each device / its links, {chip.link_bandwidth / 1e9:,.0f} GB/s or less",
    )
    table.add_row(
        "memory",
        _ms(times.memory),
        f"state read, the trained written, what is received both, at {chip.memory_bandwidth / 1e9:,.0f} GB/s; no activations",
    )
    table.add_row("step, at least", _ms(times.step), f"the largest of these: {times.bound_by}")
    if times.mfu_bound is not None:
        table.add_row("MFU, at most", f"{times.mfu_bound:.0%}", "model FLOP / (step × devices × peak)")
        table.add_row("MFU, no overlap", f"{times.mfu_without_overlap:.0%}", "the same of the three times' sum")
        if plan.traffic is not None:
            moved = f"{plan.traffic.other / 1e9:,.1f} GB that kernels other than large products read and write"
            table.add_row("other kernels", _ms(times.other_kernels), f"{moved}, at {chip.memory_bandwidth / 1e9:,.0f} GB/s")
            table.add_row("MFU, in turn", f"{times.mfu_in_turn:.0%}", "the same of compute, transfers and these, one after another")
        for unit, (low, high) in throughput(plan, config, times).items():
            table.add_row(f"{unit}/s", f"{_rate(low)} to {_rate(high)}", "of all devices: no overlap to at most")
    return table


def throughput(plan: Plan, config: PlanConfig, times: Roofline) -> dict[str, tuple[float, float]]:
    """Real tokens, and pairs or examples, a second: with no overlap, and at most."""
    if times.step is None or times.mfu_bound is None or times.mfu_without_overlap is None:
        return {}
    held, overlap = plan.workload.held, times.mfu_without_overlap / times.mfu_bound
    units = {"real tokens": held.tokens, "pairs" if config.stage == "dpo" else "examples": held.examples}
    return {unit: (count / times.step * overlap, count / times.step) for unit, count in units.items()}


def transfer_table(plan: Plan, largest: int) -> Table:
    """Bytes by kind and axis, then the largest transfers."""
    table = _table("transfers of a step", ("GB into a device", "right"), ("runs", "right"), ("of what", "left"))
    for (kind, axes), received in by_kind_and_axes(plan.collectives).items():
        table.add_row(f"{kind} over {axes}", f"{received / 1e9:,.3f}", "", "all")
    table.add_section()
    for one in plan.collectives[:largest]:
        table.add_row(
            f"{one.kind} over {one.axes}",
            f"{one.received / 1e9:,.3f}",
            f"{one.runs:,}",
            f"{one.operand_bytes / 1e6:,.2f} MB in: {short(one.source)}",
        )
    return table


def kernel_table(traffic: Traffic) -> Table:
    """What moves most besides large products."""
    table = _table("memory traffic of a step, large products left out", ("GB", "right"), ("runs", "right"), ("of what", "left"))
    for one in traffic.kernels:
        table.add_row(escape(one.kind), f"{one.bytes / 1e9:,.2f}", f"{one.runs:,}", escape(one.source))
    return table


def buffer_table(plan: Plan) -> Table:
    """The largest values that the program makes."""
    table = _table("largest values", ("GiB", "right"), ("made", "right"), ("of what", "left"))
    for value in plan.largest:
        table.add_row(value.type, _gib(value.bytes), f"{value.count}", value.source)
    return table


def advice(plan: Plan, config: PlanConfig) -> list[str]:
    """What to change when a step does not fit, the options that cost least first; or what its free memory is good for."""
    memory, found = plan.memory, plan.traffic
    again = [] if found is None or not found.rematerialised else [_rematerialised(found)]
    if memory.fits is not False:
        return again + _use_of_headroom(plan, config)
    state, lines = memory.frozen + memory.trained + memory.optimizer, list[str]()
    if (line := describe_excess(plan.excess, plan.mesh)) is not None:
        return [line]  # all else follows from it
    if (replicas := plan.mesh["data"]) > 1:
        lines.append(
            f"--mesh.data=1 --mesh.fsdp=-1: each replica's devices hold {_gib(state)} GiB of state; over all devices it is "
            f"{_gib(state // replicas)} GiB"
        )
    if state > memory.capacity:
        lines.append(f"the state alone takes {_gib(state)} GiB of {_gib(memory.capacity)}: smaller rows and recomputation do not help")
    elif (memory.temporaries or 0) > 0.1 * memory.capacity:
        if config.remat != "full":
            lines.append("--remat=full: keeps a layer's input only, and computes the rest again in the backward pass")
        per_device = config.rows_per_step / (plan.mesh["data"] * plan.mesh["fsdp"])
        if per_device > 1:
            rows, accumulation = int(config.rows_per_step / per_device), int(config.accumulation * per_device)
            lines.append(f"--rows_per_step={rows} --accumulation={accumulation}: one row a device at a time")
        if config.logprob_chunk > 64:
            lines.append(f"--logprob_chunk={config.logprob_chunk // 2}: fewer tokens whose logits exist at a time")
        lines.append(f"--mesh.tensor={plan.mesh['tensor'] * 2}: splits heads, feed-forward, vocabulary and what is gathered of them")
        lines.append(f"--data.row_tokens={config.data.row_tokens // 2}: activations halve")
    if state > 0.5 * memory.capacity:
        if config.parts.language == "full":
            lines.append("--parts.language=lora: no optimizer state but the adapters'; frozen parameters in 2 bytes")
        least = 1 << math.ceil(math.log2(max(1.0, state * plan.topology.size / memory.capacity)))
        if least > plan.topology.size:
            lines.append(
                f"more devices: the state of all together is {_gib(state * plan.topology.size)} GiB, more than fits {least // 2:,} of "
                f"{plan.topology.chip.kind}; plan for {least:,}, where temporaries are smaller too"
            )
        else:
            lines.append(f"more devices: plan for {2 * plan.topology.size:,}, where state and temporaries are smaller")
    return lines


def _rematerialised(found: Traffic) -> str:
    return (
        f"XLA computes {found.rematerialised:,} instructions of a step again by itself (.remat), which move "
        f"{found.rematerialised_bytes / 1e9:,.1f} GB: it takes memory to be short; take fewer rows, or a remat that keeps less"
    )


def _use_of_headroom(plan: Plan, config: PlanConfig) -> list[str]:
    told = describe_excess(plan.excess, plan.mesh), describe_whole_heads(plan.heads, plan.mesh)
    lines = [line for line in told if line is not None]
    again, model = sum(plan.flops.recomputation.values()), plan.flops.total
    if not plan.memory.fits or config.remat != "full" or not plan.kept or not again:
        return lines
    split = next((size for size in (1, 2, 4) if plan.kept / size < 0.9 * plan.memory.headroom), None)
    if split is None or plan.mesh["fsdp"] % split:
        return lines
    options = "--remat=dots_no_batch"
    if split > 1:
        fsdp, tensor = plan.mesh["fsdp"] // split, plan.mesh["tensor"] * split
        options += f" --mesh.fsdp={fsdp} --mesh.tensor={tensor} --rows_per_step={max(1, config.rows_per_step // split)}"
    share = again / (again + model)
    lines.append(
        f"memory to spare, and {share:.0%} of the arithmetic is recomputation: plan with {options}, "
        f"which keeps about {_gib(round(plan.kept / split))} GiB more and leaves next to none"
    )
    return lines


def as_json(plan: Plan, config: PlanConfig) -> dict[str, Any]:
    """All figures, with what they were made with."""
    times = roofline(plan)
    memory = {**dataclasses.asdict(plan.memory), "total": plan.memory.total, "headroom": plan.memory.headroom, "fits": plan.memory.fits}
    transfers = [{**dataclasses.asdict(one), "received": one.received, "group": len(one.group)} for one in plan.collectives]
    return {
        "version": __version__,
        "jax": jax.__version__,
        "config": config.model_dump(mode="json", by_alias=True),
        "plan": {**dataclasses.asdict(plan), "memory": memory, "collectives": transfers},
        "received": [{"kind": kind, "axes": axes, "bytes": value} for (kind, axes), value in by_kind_and_axes(plan.collectives).items()],
        "roofline": {**dataclasses.asdict(times), "step": times.step, "bound_by": times.bound_by},
        "throughput": {unit: {"no_overlap": low, "at_most": high} for unit, (low, high) in throughput(plan, config, times).items()},
        "advice": advice(plan, config),
    }


def dump(value: Any) -> str:
    """JSON text."""
    return json.dumps(value, indent=1) + "\n"


def _table(title: str, *columns: tuple[str, Any]) -> Table:
    table = Table("", title=title, title_justify="left")
    for name, justify in columns:
        table.add_column(name, justify=justify)
    return table


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ms(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1e3:,.0f} ms"
