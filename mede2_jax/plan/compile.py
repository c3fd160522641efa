"""The real training step, compiled ahead of time: nothing is allocated, nothing runs."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mede2_jax.config import UserError
from mede2_jax.families import Family, attention_heads
from mede2_jax.models.quantized import SCALE
from mede2_jax.parallel.mesh import check_rows_divide, make_mesh
from mede2_jax.plan.config import PlanConfig
from mede2_jax.plan.hlo import Collective, Program, Value
from mede2_jax.plan.topology import Topology, open_devices
from mede2_jax.plan.traffic import Traffic, traffic
from mede2_jax.plan.workload import Workload, abstract_batch, workload
from mede2_jax.sizing.chips import GIB
from mede2_jax.sizing.flops import Flops, count_flops
from mede2_jax.train.inputs import open_model_spec
from mede2_jax.train.losses import DPOLoss, SFTLoss
from mede2_jax.train.model_spec import ModelSpec
from mede2_jax.train.optimizer import make_optimizer
from mede2_jax.train.state import abstract_state, train_state_shardings
from mede2_jax.train.step import Steps
from mede2_jax.tree import flatten

TOTAL_STEPS = 1_000_000
"""Of the learning rate's schedule: it decides no shape."""

CPU_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""A CPU's machine code is never run; sharding, transfers and buffers are decided before it is made."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    frozen: int
    trained: int
    optimizer: int
    batch: int
    temporaries: int | None
    """Activations, gradients, gathered parameters, and what the compiler needs besides; none: it did not say."""
    capacity: int
    """What a program may use; 0: unknown."""
    exact: bool
    """Whether the compiler laid the whole program out; otherwise it gave up and named what it had needed so far."""

    @property
    def total(self) -> int:
        """At the step's peak."""
        return self.frozen + self.trained + self.optimizer + self.batch + (self.temporaries or 0)

    @property
    def headroom(self) -> int:
        """What is left; negative when it does not fit."""
        return self.capacity - self.total

    @property
    def fits(self) -> bool | None:
        """Whether a step fits; none: not known."""
        if not self.capacity or self.temporaries is None:
            return None
        return self.exact and self.headroom >= 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled step takes."""

    topology: Topology
    mesh: dict[str, int]
    rows: int
    """Of a step, over all devices and micro-batches."""
    remat: str
    workload: Workload
    memory: Memory
    flops: Flops
    collectives: list[Collective]
    largest: list[Value]
    unknown_loops: list[str]
    compile_seconds: float
    parameters: int
    trained: int
    excess: float = 1.0
    """How many times its share of the parameters a device holds."""
    heads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Of each part with attention."""
    traffic: Traffic | None = None
    """Of a device's memory; none: nothing was compiled, or the device's figures are not known."""
    kept: int = 0
    """About what remat=dots_no_batch keeps on a device beyond what remat=full does, in bytes."""


def compile_plan(config: PlanConfig, topology: Topology, family: Family, sizes: Any) -> Plan:
    """Compiles a step and reads off what it takes.

    Args:
        config: The plan.
        topology: The machine.
        family: The model's family.
        sizes: Its model config.

    Raises:
        UserError: The compiler is not here, or mesh, rows and model do not go together.
    """
    mesh = make_mesh(config.mesh, open_devices(topology))
    dtype = jnp.dtype(config.param_dtype or config.compute_dtype)
    stored = dict.fromkeys(flatten(family.abstract_params(sizes)), dtype)
    spec = open_model_spec(config, family, sizes, stored, mesh)
    work = workload(config, sizes)
    check_rows_divide(work.shape.tokens, mesh)
    lower = lowering(config, spec, mesh, work)
    begun = time.perf_counter()
    with jax.default_matmul_precision("highest" if config.compute_dtype == "float32" else "default"):
        compiled, reason = _compiled(lower, CPU_OPTIONS if topology.chip.platform == "cpu" else None)
    seconds = time.perf_counter() - begun
    text = compiled.as_text() if compiled is not None else ""
    if config.hlo is not None and text:
        config.hlo.write_text(text, encoding="utf-8")
    program = Program(text) if text else None
    counts = {path: math.prod(leaf.shape) for path, leaf in spec.abstract.items() if not path.endswith(SCALE)}
    trained = abstract_state(spec, _optimizer(config)).trainable
    return Plan(
        topology=topology,
        mesh=dict(mesh.shape),
        rows=config.rows_per_step * config.accumulation,
        remat=config.remat,
        workload=work,
        memory=_memory(config, spec, mesh, work, topology, compiled, reason),
        flops=count_flops(spec, sizes, work.held, remat=config.remat, tensor=mesh.shape["tensor"]),
        collectives=program.collectives(mesh.shape) if program else [],
        largest=program.largest(config.largest) if program else [],
        unknown_loops=program.unknown_loops if program else [],
        compile_seconds=seconds,
        parameters=sum(counts.values()),
        trained=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained)),
        excess=spec.excess(mesh),
        heads=attention_heads(sizes),
        traffic=_traffic(config, program, topology),
        kept=_kept(config, spec, mesh),
    )


def _traffic(config: PlanConfig, program: Program | None, topology: Topology) -> Traffic | None:
    chip = topology.chip
    if program is None or chip.tflops is None or not chip.memory_bandwidth:
        return None
    return traffic(program, chip.tflops * 1e12 / chip.memory_bandwidth, config.largest)


def _kept(config: PlanConfig, spec: ModelSpec, mesh: Mesh) -> int:
    """What the language model's linear layers and its attention give, of the rows that a device has at a time."""
    numbers = 0
    for path, leaf in spec.abstract.items():
        if path.startswith("language/layers/") and path.endswith("/kernel"):
            layers, d_in, d_out = leaf.shape
            numbers += layers * (d_out + (d_in if "/o_proj/" in path else 0))
    rows = config.rows_per_step / mesh.size
    return round(numbers * rows * config.data.row_tokens * jnp.dtype(config.compute_dtype).itemsize)


def lowering(config: PlanConfig, spec: ModelSpec, mesh: Mesh, work: Workload) -> Callable[[], Any]:
    """A function that lowers the step of `train/step.py` for the mesh's devices, whatever this machine has."""
    optimizer = _optimizer(config)
    loss = DPOLoss(config.dpo) if config.stage == "dpo" else SFTLoss()
    steps = Steps(spec, loss, optimizer, mesh, config.logprob_chunk, config.attention)
    platform = {"gpu": "cuda"}.get(kind := mesh.devices.flat[0].platform, kind)

    def lower() -> Any:
        # Kernels are made for the device of the mesh in use when they are traced, on meshes of one device too.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            traced = steps.train.trace(abstract_state(spec, optimizer), abstract_batch(config, work.shape))
            return traced.lower(lowering_platforms=(platform,))

    return lower


def _optimizer(config: PlanConfig) -> Any:
    return make_optimizer(config.optimizer, config.learning_rate, total_steps=TOTAL_STEPS)


def _compiled(lower: Callable[[], Any], options: dict[str, Any] | None) -> tuple[Any | None, str]:
    """The program; or None and the compiler's words, when it needs more memory than a device has."""
    lowered = lower()
    try:
        return lowered.compile(options), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise UserError(f"the compiler failed: {str(error).splitlines()[0]}") from error
        return None, str(error)


def _memory(
    config: PlanConfig, spec: ModelSpec, mesh: Mesh, work: Workload, topology: Topology, compiled: Any | None, reason: str
) -> Memory:
    optimizer = _optimizer(config)
    state, shardings = abstract_state(spec, optimizer), train_state_shardings(spec, optimizer, mesh)

    def held(name: str) -> int:
        leaves = zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(shardings, name)), strict=True)
        return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in leaves)

    pieces = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in abstract_batch(config, work.shape).values()) // pieces
    known = {name: held(field) for name, field in (("frozen", "frozen"), ("trained", "trainable"), ("optimizer", "optimizer_state"))}
    arguments = sum(known.values()) + batch
    needed = _asked_for(reason, arguments) if compiled is None else _laid_out(compiled)
    temporaries = None if needed is None else max(0, needed - arguments)
    return Memory(**known, batch=batch, temporaries=temporaries, capacity=topology.capacity, exact=compiled is not None)


def _laid_out(compiled: Any) -> int | None:
    """All bytes of one device that the compiled program occupies: donated inputs are written over by outputs."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + outputs + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes


def _asked_for(reason: str, held: int) -> int | None:
    """What the TPU compiler says it needed: `temporaries (32.79G) exceeds`, or `Used 30.45G of 15.75G hbm`, arguments included."""
    found = re.search(r"(temporaries \(|Used )([\d.]+)([KMGT])", reason)
    if found is None:
        return None
    size = int(float(found[2]) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[found[3]])
    return size if found[1] == "Used " else held + size
