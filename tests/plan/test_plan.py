"""Steps compiled ahead of time: for the CPU here, for TPUs and GPUs where their compilers are installed."""

import dataclasses
import json
import math
import os
import subprocess
from pathlib import Path

import jax
import pytest
from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.data.rows import BatchShape
from mede2_jax.families import model_config
from mede2_jax.models.lora import LoRAConfig
from mede2_jax.plan import report
from mede2_jax.plan.__main__ import main, one_row_a_device
from mede2_jax.plan.compile import Memory, Plan, compile_plan
from mede2_jax.plan.config import PlanConfig
from mede2_jax.plan.hlo import Collective
from mede2_jax.plan.roofline import roofline
from mede2_jax.plan.sweep import candidates, sweep, sweep_table
from mede2_jax.plan.topology import parse_topology
from mede2_jax.plan.workload import Workload
from mede2_jax.sizing.flops import Contents, Flops

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"data": {"row_tokens": 256}, "synthetic": {"response_tokens": (30, 30), "prompt_tokens": 20, "images": 0}, "logprob_chunk": 32}


def config_of(model, topology, **options):
    return PlanConfig.model_validate({"model": model, "topology": topology, **SMALL, **options})


def plan_of(model, topology, **options):
    machine = parse_topology(topology)
    config = one_row_a_device(config_of(model, topology, **options), machine)
    return compile_plan(config, machine, *model_config(model)), config


@pytest.fixture(scope="module")
def plans(tiny_model):
    """The same model on 2 and on 8 devices, one row each."""
    return {size: plan_of(tiny_model, f"cpu:{size}")[0] for size in (2, 8)}


@pytest.mark.slow
def test_memory_is_split_over_fsdp(plans):
    two, eight = plans[2].memory, plans[8].memory
    assert two.exact and eight.exact and eight.temporaries > 0
    assert eight.frozen < 0.4 * two.frozen  # norms and biases are not split
    assert eight.optimizer == pytest.approx(2 * eight.trained, abs=64)  # two moments, and a counter
    assert two.batch == eight.batch
    assert eight.fits is None  # of a CPU no capacity is claimed


def test_gathers_grow_with_devices_as_n_minus_1_over_n_only(plans):
    received = {size: sum(one.received for one in plan.collectives if one.kind == "all-gather") for size, plan in plans.items()}
    assert plans[8].collectives
    assert {one.axes for one in plans[8].collectives} == {"fsdp"}
    assert received[8] / received[2] <= (7 / 8) / (1 / 2) * 1.01


def test_every_layer_is_gathered_forward_and_backward_and_no_more(plans, tiny_model):
    _, sizes = model_config(tiny_model)
    language, itemsize = sizes.language, 4  # XLA's CPU compiler widens bfloat16 before it gathers
    kernels = language.hidden_size * (
        2 * language.num_heads * language.head_dim + 2 * language.num_kv_heads * language.head_dim + 3 * language.intermediate_size
    )
    width, attended, kept = language.hidden_size, language.num_heads * language.head_dim, language.num_kv_heads * language.head_dim
    sides = 2 * (width + attended) + 2 * (width + kept) + 3 * (width + language.intermediate_size)
    once, adapters = (size * language.num_layers * itemsize * 7 / 8 for size in (kernels, LoRAConfig().rank * sides))
    gathers = [one for one in plans[8].collectives if one.kind == "all-gather" and one.runs % language.num_layers == 0]
    received = sum(one.received for one in gathers)
    assert 2 * (once + adapters) <= received <= 2 * once + 3 * adapters  # which are small


def test_flops_do_not_depend_on_the_machine(plans):
    per_row = {size: plan.flops.total / plan.rows for size, plan in plans.items()}
    assert per_row[2] == per_row[8] > 0
    assert roofline(plans[8]).step is None


@pytest.mark.slow
def test_a_full_plan_is_shown_and_written(tiny_model, tmp_path, capsys):
    out = tmp_path / "plan.json"
    flags = ["--data.row_tokens=512", "--synthetic.response_tokens=60,60", "--synthetic.image_pixels=112,112", "--logprob_chunk=64"]
    main([f"--model={tiny_model}", "--topology=cpu:8", "--stage=sft", "--parts.language=full", f"--json={out}", *flags])
    shown = capsys.readouterr().out
    for words in ("8 rows of 512 tokens", "memory of one device", "all-gather over fsdp", "largest values"):
        assert words in shown
    found = json.loads(out.read_text())
    assert found["plan"]["memory"]["trained"] > found["plan"]["memory"]["frozen"]
    assert found["config"]["topology"] == "cpu:8"
    assert sum(one["bytes"] for one in found["received"]) > 0


@pytest.mark.slow
def test_the_step_that_is_compiled_is_the_one_that_trains(tiny_model):
    """Its arguments are the state and the batch, to the byte."""
    plan, _ = plan_of(tiny_model, "cpu:1", parts={"language": "full"})
    memory = plan.memory
    parameters = sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(model_config(tiny_model)[0].abstract_params(model_config(tiny_model)[1]))
    )
    assert memory.frozen // 2 + memory.trained // 4 == parameters == plan.parameters
    assert not plan.collectives


@pytest.mark.slow
def test_sweep_ranks_what_it_tried(tiny_model):
    machine = parse_topology("cpu:2")
    config = config_of(tiny_model, "cpu:2", sweep=True, sweep_minutes=0.0001)
    console = Console(record=True, width=200)
    ranked = sweep(config, machine, *model_config(tiny_model), console)
    assert len(ranked) == 1
    tried = len(candidates(config, machine))
    assert f"{tried - 1} of {tried} candidates not tried" in console.export_text()
    narrow = Console(record=True, width=80)
    narrow.print(sweep_table(ranked))
    (row,) = (line for line in narrow.export_text().splitlines() if "1×2×1" in line)
    assert "full" in row and "…" not in row


def test_sweep_candidates_fill_the_machine():
    machine = parse_topology("h100:64")
    config = PlanConfig(topology="h100:64")
    found = candidates(config, machine)
    assert all(one.mesh.data * one.mesh.fsdp * one.mesh.tensor == 64 for one in found)
    assert all(one.rows_per_step % (one.mesh.data * one.mesh.fsdp) == 0 for one in found)
    assert {one.mesh.data for one in found} == {1, 8}  # eight nodes: replicas may be nodes
    assert len({(one.mesh, one.remat, one.rows_per_step) for one in found}) == len(found)


def made_up(topology="h100:8", **memory):
    machine = parse_topology(topology)
    held = Contents(32_000, 10**7, 19_000, 8_000, 32_000, 10**6, 10**7, 32)
    fields = {"frozen": 0, "trained": 0, "optimizer": 0, "batch": 0, "temporaries": 0, "capacity": machine.capacity, "exact": True}
    gather = Collective("all-gather", "", 10**9, 10, tuple(range(8)), "fsdp")
    return Plan(
        topology=machine,
        mesh={"data": 1, "fsdp": 8, "tensor": 1},
        rows=8,
        remat="full",
        workload=Workload(ANY_SHAPE, held, 0.25),
        memory=Memory(**{**fields, **memory}),
        flops=Flops({"language": 8e15}, {"language": 2e15}),
        collectives=[gather],
        largest=[],
        unknown_loops=[],
        compile_seconds=1.0,
        parameters=1,
        trained=1,
    )


ANY_SHAPE = BatchShape(4096, 4608, 2432, 8, 1176)


def test_roofline_by_hand():
    times = roofline(made_up(trained=10**9, optimizer=2 * 10**9))
    assert times.compute == pytest.approx(1e16 / (8 * 989.4e12))
    assert times.transfers == pytest.approx(7e10 / 450e9)
    assert times.memory == pytest.approx((2 * 3e9 + 2 * 7e10) / 3352e9)
    assert times.bound_by == "compute"
    assert times.mfu_bound == pytest.approx(0.8)


def test_what_does_not_fit_is_told_what_to_change():
    full = PlanConfig.model_validate({"topology": "h100:8", "parts": {"language": "full"}, "remat": "dots", "rows_per_step": 16})
    plan = made_up(trained=20 * 10**9, optimizer=30 * 10**9, temporaries=40 * 10**9)
    assert plan.memory.fits is False
    said = "\n".join(report.advice(plan, full))
    for option in ("--remat=full", "--rows_per_step=8 --accumulation=2", "--logprob_chunk=128", "--mesh.tensor=2", "--parts.language=lora"):
        assert option in said
    assert "plan for 16, where" in said and "the state alone" not in said
    assert report.advice(made_up(), full) == []


def test_a_state_that_does_not_fit_by_itself_is_told_so():
    full = PlanConfig.model_validate({"topology": "h100:8", "parts": {"language": "full"}, "rows_per_step": 16})
    said = report.advice(made_up(trained=100 * 10**9, optimizer=200 * 10**9, temporaries=40 * 10**9), full)
    assert "the state alone takes 279.40 GiB of 72.77" in said[0]
    assert not any("--rows_per_step" in line or "--logprob_chunk" in line for line in said)
    # 2,400 GB / 78.1 GB is 30.7.
    assert "2,235.17 GiB, more than fits 16 of NVIDIA H100 80GB HBM3; plan for 32" in said[-1]


def test_memory_to_spare_is_told_what_it_is_good_for():
    config = PlanConfig.model_validate({"topology": "h100:8", "rows_per_step": 8})

    def said(kept, **memory):
        return report.advice(dataclasses.replace(made_up(**memory), kept=kept), config)

    (line,) = said(20 * 10**9, temporaries=20 * 10**9)  # 58 GB are free
    assert "20% of the arithmetic" in line and "plan with --remat=dots_no_batch, which keeps about 18.63 GiB" in line
    (line,) = said(100 * 10**9, temporaries=20 * 10**9)
    assert "--remat=dots_no_batch --mesh.fsdp=4 --mesh.tensor=2 --rows_per_step=4, which keeps about 46.57 GiB" in line
    assert said(300 * 10**9, temporaries=20 * 10**9) == []
    assert said(10**9, temporaries=None) == []


def test_a_mesh_that_leaves_parameters_whole_is_told_so():
    line = report.advice(dataclasses.replace(made_up(), excess=7.5), PlanConfig(topology="h100:8"))[0]
    assert "fsdp=8 × tensor=1 does not divide the widths" in line and "7.5 times its share" in line


def test_throughput_by_hand():
    plan = made_up(trained=10**9, optimizer=2 * 10**9)
    times = roofline(plan)
    found = report.throughput(plan, PlanConfig(topology="h100:8", stage="dpo"), times)
    assert found["pairs"][1] == pytest.approx(32 / times.compute)
    assert found["real tokens"][0] == pytest.approx(32_000 / (times.compute + times.transfers + times.memory))


def test_memory_that_the_compiler_does_not_tell_is_not_guessed():
    memory = made_up(temporaries=None).memory
    assert memory.fits is None
    refused = made_up(temporaries=10**9, exact=False).memory
    assert refused.fits is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "missing option --topology"),
        (["--topology=h100:8"], "no model: set --model"),
        (["--topology=moon:8", "--model={model}"], "'moon:8' is not one of chip:shape"),
        (["--topology=cpu:8", "--model={model}", "--rows_per_step=3"], "rows_per_step=3 is not a multiple of data × fsdp = 8"),
        (["--topology=cpu:8", "--model={model}", "--mesh.tensor=3"], "does not match 8 device"),
        (
            ["--topology=cpu:8", "--model={model}", "--rows_per_step=8", "--data.row_tokens=64"],
            "raise it, or lower synthetic.response_tokens",
        ),
        (["--topology=cpu:8", "--model={model}", "--rows_per_step=8", "--synthetic.text_share=0.5"], "examples of one kind"),
    ],
)
def test_mistakes_are_one_line(flags, message, tiny_model, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(main, [flag.format(model=tiny_model) for flag in flags])
    assert caught.value.code not in (0, None)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "topology"), [("tpu", "v5e:2x2"), ("gpu", "h100:2")])
def test_a_real_compiler_says_that_a_small_case_fits(kind, topology, tiny_model, tmp_path, plan_env):
    python, out = str(plan_env(kind) / "bin" / "python"), tmp_path / "plan.json"
    flags = ["--data.row_tokens=512", "--synthetic.response_tokens=60,60", "--synthetic.image_pixels=112,112", "--logprob_chunk=64"]
    command = [python, "-m", "mede2_jax.plan", f"--model={tiny_model}", f"--topology={topology}", f"--json={out}", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["plan"]["memory"]["fits"] is True
    assert found["plan"]["memory"]["temporaries"] > 0
    assert 0 < found["roofline"]["mfu_bound"] <= 1
    assert any(one["axes"] == "fsdp" for one in found["received"])


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no config.json"):
        main([f"--model={tmp_path}", "--topology=cpu:8"])
