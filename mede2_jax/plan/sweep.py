"""Many plans for one machine: meshes, remat policies and row sizes, and which of those that fit is the fastest."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mede2_jax.config import UserError
from mede2_jax.families import Family
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.plan.compile import Plan, compile_plan
from mede2_jax.plan.config import PlanConfig
from mede2_jax.plan.roofline import roofline
from mede2_jax.plan.topology import Topology
from mede2_jax.sizing.chips import GIB

TENSOR = (1, 2, 4, 8)
REMAT = ("full", "dots_no_batch", "none")
ROWS = (1, 2, 4)
"""Rows a device in one micro-batch."""


def candidates(config: PlanConfig, topology: Topology) -> list[PlanConfig]:
    """What to try, the most promising first: all of it splits parameters, or replicates them over nodes (or half of the devices)."""
    found = []
    replicas = [1] + ([topology.size // (topology.chip.node_devices or topology.size // 2 or 1)] if topology.size > 1 else [])
    for tensor, data, remat, rows in itertools.product(TENSOR, dict.fromkeys(replicas), REMAT, ROWS):
        if topology.size % (data * tensor):
            continue
        fsdp = topology.size // (data * tensor)
        mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
        found.append(config.model_copy(update={"mesh": mesh, "remat": remat, "rows_per_step": rows * data * fsdp}))
    return found


def sweep(config: PlanConfig, topology: Topology, family: Family, sizes: Any, console: Console) -> list[tuple[PlanConfig, Plan]]:
    """Compiles candidates until the time is up; those that fit first, the fastest first.

    Raises:
        UserError: The compiler is not here, or nothing could be compiled.
    """
    tried = candidates(config, topology)
    done: list[tuple[PlanConfig, Plan]] = []
    refused: list[str] = []
    for one in _bounded(tried, config.sweep_minutes * 60, console):
        try:
            done.append((one, compile_plan(one, topology, family, sizes)))
        except UserError as error:
            refused.append(str(error))
    if not done:
        raise UserError(f"nothing of {len(tried)} candidates could be compiled: {refused[0] if refused else 'no time'}")
    if len(done) + len(refused) < len(tried):
        left = len(tried) - len(done) - len(refused)
        console.print(f"[yellow]sweep_minutes={config.sweep_minutes:g} is over with {left} of {len(tried)} candidates not tried[/]")
    for reason in dict.fromkeys(refused):
        console.print(f"[yellow]not possible: {reason}[/]")
    return sorted(done, key=lambda pair: (not pair[1].memory.fits, seconds_per_token(pair[1]), pair[1].memory.total))


def seconds_per_token(plan: Plan) -> float:
    """The roofline's step without overlap, by its real tokens: overlap hides some of it, but not the same share everywhere."""
    times = roofline(plan)
    known = [one for one in (times.compute, times.transfers, times.memory) if one is not None]
    return sum(known) / plan.workload.held.tokens if known else 0.0


def sweep_table(ranked: list[tuple[PlanConfig, Plan]]) -> Table:
    """One line a candidate."""
    table = Table(title="the fastest first, with no overlap of arithmetic and transfers", title_justify="left")
    for name in ("mesh", "remat"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "GiB", "free", "step ≥ ms", "MFU", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for config, plan in ranked:
        times, memory = roofline(plan), plan.memory
        fits = {True: "green", False: "red", None: "yellow"}[memory.fits]
        step = "?" if times.step is None else f"{times.step * 1e3:,.0f}"
        known = times.mfu_bound is not None and times.mfu_without_overlap is not None
        share = f"{times.mfu_without_overlap:.0%}-{times.mfu_bound:.0%}" if known else "?"
        speed = f"{1 / seconds:,.0f}" if (seconds := seconds_per_token(plan)) else "?"
        cells = [
            f"{plan.rows:,}",
            f"{memory.total / GIB:,.1f}",
            f"[{fits}]{memory.headroom / GIB:,.1f}[/]" if memory.capacity else "?",
            step,
            share,
            speed,
        ]
        table.add_row("×".join(map(str, plan.mesh.values())), config.remat, *cells)
    table.caption = "mesh: data × fsdp × tensor; rows: of a step; free: GiB, negative where it does not fit"
    return table


def _bounded(tried: list[PlanConfig], seconds: float, console: Console) -> Iterator[PlanConfig]:
    """The candidates, until no time is left to begin another."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    begun = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling", total=len(tried))
        for one in tried:
            if time.monotonic() - begun > seconds:
                return
            mesh = f"{one.mesh.data} × {one.mesh.fsdp} × {one.mesh.tensor}"
            described = f"compiling {mesh}, remat={one.remat}, {one.rows_per_step} rows"
            bar.update(task, description=described)
            if not console.is_terminal:
                console.print(described, highlight=False)
            yield one
            bar.advance(task)
