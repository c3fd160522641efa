"""A benchmark from config to table."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mede2_jax import __version__
from mede2_jax.benchmark.comparison import compare, comparison_table
from mede2_jax.benchmark.config import BenchmarkConfig
from mede2_jax.benchmark.measure import Figures, measure
from mede2_jax.benchmark.peer import check_peer, run_peers
from mede2_jax.config import UserError
from mede2_jax.families import model_config
from mede2_jax.outputs.file import check_place, write_whole
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.sizing.synthetic import write_records
from mede2_jax.train.inputs import TrainingInputs, open_data, open_model_spec, show_inputs
from mede2_jax.train.model_spec import init_params, random_params
from mede2_jax.train.optimizer import make_optimizer
from mede2_jax.train.state import init_state
from mede2_jax.train.step import Steps
from mede2_jax.tree import flatten
from mede2_jax.weights.model_info import PARAMS, read_info
from mede2_jax.weights.params import ParamReader


def run(config: BenchmarkConfig, model_dir: Path, console: Console) -> Figures:
    """Measures, prints a table, and writes `config.json_`.

    Args:
        config: The benchmark.
        model_dir: A model directory; or one without params/ (config.json, tokenizer and image processor), whose weights are random.
        console: Where to show progress.

    Raises:
        UserError: Something the user gave cannot be used.
    """
    check_place(config.json_, "json")
    if config.peer is not None:
        check_peer(config)
    with tempfile.TemporaryDirectory() as folder:
        config = _with_records(config, model_dir, Path(folder))
        # Before this process touches a device: JAX takes a GPU's memory at once, and for good.
        peers = run_peers(config, model_dir, config.data.path) if config.peer is not None and config.data.path is not None else []
        inputs = _open(config, model_dir)
        show_inputs(inputs, console)
        with jax.default_matmul_precision("highest" if config.compute_dtype == "float32" else "default"):
            optimizer = make_optimizer(config.optimizer, config.learning_rate, total_steps=1_000_000)
            steps = Steps(inputs.spec, inputs.loss, optimizer, inputs.mesh, config.logprob_chunk, config.attention)
            if (model_dir / PARAMS).exists():
                params = init_params(inputs.spec, model_dir, inputs.mesh, config.seed)
            else:
                console.print(f"no {PARAMS}/ in {model_dir}: the weights are random, which takes the same time", markup=False)
                params = random_params(inputs.spec, inputs.mesh, config.seed)
            state = init_state(inputs.spec, params, optimizer, inputs.mesh, config.seed)
            del params
            console.print("compiling and measuring")
            figures = measure(config, inputs, steps, state, reference_pass=config.stage == "dpo")
    console.print(table(config, figures))
    found = _as_json(config, figures)
    for peer, ending in zip(peers, ("", "_defaults"), strict=False):
        comparison = compare(config, figures, peer)
        console.print(comparison_table(config, figures, comparison, peer))
        found |= {f"peer{ending}": peer.model_dump(mode="json"), f"comparison{ending}": dataclasses.asdict(comparison)}
    if config.json_ is not None:
        write_whole(config.json_, json.dumps(found, indent=1) + "\n")
    return figures


def _with_records(config: BenchmarkConfig, model_dir: Path, folder: Path) -> BenchmarkConfig:
    """The config with a data file: its own, or made-up records in `synthetic.keep` or `folder`."""
    if config.data.path is not None:
        return config
    family, _ = model_config(model_dir)
    tokenizer = family.load_processor(model_dir, config.data).chat.tokenizer
    if config.synthetic.keep is not None:
        if config.synthetic.keep.exists():
            raise UserError(f"synthetic.keep={config.synthetic.keep} is there already; choose a folder that is not")
        folder = config.synthetic.keep
        folder.mkdir(parents=True)
    path = write_records(folder, config.stage, config.synthetic, tokenizer)
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path})})


def _open(config: BenchmarkConfig, model_dir: Path) -> TrainingInputs:
    mesh = make_mesh(config.mesh)
    family, sizes = model_config(model_dir)
    if (model_dir / PARAMS).exists():
        digest = read_info(model_dir).digest
        stored = {path: entry.dtype for path, entry in ParamReader(model_dir / PARAMS).infos.items()}
    else:
        digest = "random"
        dtype = np.dtype(config.param_dtype or config.compute_dtype)
        stored = dict.fromkeys(flatten(family.abstract_params(sizes)), dtype)
    spec = open_model_spec(config, family, sizes, stored, mesh)
    return open_data(config, model_dir, family, sizes, mesh, spec, stored=stored, digests=(digest,))


def table(config: BenchmarkConfig, figures: Figures) -> Table:
    """Every figure with its unit, and how it was counted."""
    unit = "pairs" if config.stage == "dpo" else "examples"
    out = Table(
        "figure", title=f"{config.stage} on {figures.devices} × {figures.device_kind}, {config.compute_dtype}", title_justify="left"
    )
    out.add_column("value", justify="right")
    out.add_column("of what")
    rows = [
        (
            "step",
            f"{figures.step_seconds * 1e3:,.1f} ms",
            f"median of {config.steps}; slowest {figures.slowest_step_seconds * 1e3:,.1f} ms",
        ),
        (
            "real tokens/s/device",
            f"{figures.tokens_per_second_per_device:,.0f}",
            f"{figures.real_tokens:.1%} of {figures.rows} rows × {figures.row_tokens} tokens are real",
        ),
        (f"{unit}/s/device", f"{figures.examples_per_second_per_device:,.2f}", f"{figures.held.examples:,.4g} a step"),
        ("model TFLOP/s/device", _three_digits(figures.tflops_per_device), _shares(figures.flops.model, figures.flops.total)),
        ("hardware TFLOP/s/device", _three_digits(figures.hardware_tflops_per_device), f"recomputation counted, remat={config.remat}"),
    ]
    if figures.mfu is not None:
        rows.append(("MFU", f"{figures.mfu:.1%}", f"model FLOP / (step × devices × {figures.peak_tflops:,.4g} TFLOP/s)"))
    if figures.reference_seconds is not None:
        rows.append(("reference pass", f"{figures.reference_seconds * 1e3:,.1f} ms", "over the rows of one step"))
    rows += [
        ("input alone", f"{figures.input_seconds * 1e3:,.1f} ms", "to prepare a step's batch"),
        ("waiting for data", f"{figures.waiting:.1%}", f"of a step in training, {figures.pipeline_step_seconds * 1e3:,.1f} ms"),
    ]
    if figures.images_per_second_per_core is not None:
        rows.append(("images/s/core", f"{figures.images_per_second_per_core:,.1f}", f"{figures.row_patches:,} patches a row at most"))
    if figures.peak_memory_bytes is not None:
        rows.append(("peak memory", f"{figures.peak_memory_bytes / 2**30:,.2f} GiB", "of one device (of the process, on a CPU)"))
    rows.append(("compile", f"{figures.compile_seconds:,.1f} s", f"{figures.compilations} compilation of the step"))
    for row in rows:
        out.add_row(*row)
    return out


def _three_digits(value: float) -> str:
    return f"{value:,.3g}" if value < 100 else f"{value:,.1f}"


def _shares(parts: dict[str, float], total: float) -> str:
    return ", ".join(f"{name} {value / total:.0%}" for name, value in parts.items() if value)


def _as_json(config: BenchmarkConfig, figures: Figures) -> dict[str, Any]:
    derived = (
        "tokens_per_second_per_device",
        "examples_per_second_per_device",
        "tflops_per_device",
        "hardware_tflops_per_device",
        "mfu",
        "waiting",
        "real_tokens",
    )
    return {
        "version": __version__,
        "jax": jax.__version__,
        "config": config.model_dump(mode="json", by_alias=True),
        **dataclasses.asdict(figures),
        **{name: getattr(figures, name) for name in derived},
    }
