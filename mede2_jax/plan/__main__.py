"""`python -m mede2_jax.plan`: does a training step fit on a machine, and what bounds it; compiled, without the machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.families import model_config
from mede2_jax.flags import parse
from mede2_jax.outputs.file import check_place, write_whole
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.plan import report
from mede2_jax.plan.compile import compile_plan
from mede2_jax.plan.config import PlanConfig
from mede2_jax.plan.sweep import sweep, sweep_table
from mede2_jax.plan.topology import Topology, parse_topology, prepare

DESCRIPTION = """Compile a training step for a machine that nobody has to own: memory, operations, transfers, and the fastest it can be.

Takes all options of python -m mede2_jax.train. --model is a folder with config.json; weights and tokenizer are not needed.
--topology is v5e:8x8, v5p:2x4x4, v6e:8x8 (TPU chips), h100:8, h100:64, h200:8 (GPUs) or cpu:8.

  compilers    bash launch/plan_env.sh tpu makes .venv-plan-tpu, bash launch/plan_env.sh gpu makes .venv-plan-gpu
  7B, full     .venv-plan-gpu/bin/python -m mede2_jax.plan --model=DIR --stage=dpo --topology=h100:8 --parts.language=full
  72B, LoRA    .venv-plan-tpu/bin/python -m mede2_jax.plan --model=DIR --stage=dpo --topology=v5p:2x4x4
  try many     … --sweep
  figures      … --json=FILE
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line, compiles and reports."""
    config = parse(PlanConfig, argv, program="python -m mede2_jax.plan", description=DESCRIPTION)
    if config.model is None:
        raise UserError("no model: set --model to a folder with the model's config.json")
    check_place(config.json_, "json")
    check_place(config.hlo, "hlo")
    topology = parse_topology(config.topology)
    family, sizes = model_config(config.model)
    prepare(topology)
    logging.getLogger("jax").setLevel(logging.ERROR)
    console = Console(soft_wrap=True)
    if config.sweep:
        ranked = sweep(config, topology, family, sizes, console)
        console.print(sweep_table(ranked))
        found = [report.as_json(plan, one) for one, plan in ranked]
        text = report.dump(found)
    else:
        config = one_row_a_device(config, topology)
        console.print(f"compiling for {topology.size} × {topology.chip.kind}", markup=False)
        plan = compile_plan(config, topology, family, sizes)
        report.show(plan, config, console)
        text = report.dump(report.as_json(plan, config))
    if config.json_ is not None:
        write_whole(config.json_, text)


def one_row_a_device(config: PlanConfig, topology: Topology) -> PlanConfig:
    """With no `rows_per_step` given, one for each device that takes rows of its own."""
    if "rows_per_step" in config.model_fields_set:
        return config
    mesh: MeshConfig = config.mesh
    return config.model_copy(update={"rows_per_step": max(1, topology.size // (max(1, mesh.tensor) * max(1, mesh.sequence)))})


if __name__ == "__main__":
    run_command(main)
