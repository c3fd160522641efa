"""`python -m mede2_jax.benchmark`: how fast a training step is here, and what bounds it.

With no model and no config it measures a tiny random model on the sample data, on a CPU, in a minute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from mede2_jax import tiny
from mede2_jax.benchmark.config import BenchmarkConfig
from mede2_jax.benchmark.run import run
from mede2_jax.command import given, run_command
from mede2_jax.config import UserError
from mede2_jax.families import DEFAULT_FAMILY, FamilyName
from mede2_jax.flags import parse
from mede2_jax.parallel.distributed import find_place
from mede2_jax.parallel.gpu import prepare_gpu
from mede2_jax.parallel.host import prepare_host
from mede2_jax.train.config import EMBEDDED, Stage, embedded_defaults

DESCRIPTION = """Measure a training step: time, real tokens and pairs a second, TFLOP/s, MFU, memory, and whether the data keep up.

Takes all options of python -m mede2_jax.train. Without --data.path it trains on made-up records (--synthetic.…).
Without --model and --config it measures a tiny random model on the sample data, on a CPU.

  7B, LoRA     python -m mede2_jax.benchmark --config=configs/sft_qwen2_5_vl_7b_lora.yaml --model=MODEL_DIR
  no weights   … --model=DIR   a folder with config.json, tokenizer and image processor: random weights take the same time
  a trace      … --profile=DIR
  figures      … --json=FILE
"""

TINY_MODELS = Path("runs")


def main(argv: Sequence[str]) -> None:
    """Parses the command line and measures."""
    stage: Stage = given(argv, "--stage", get_args(Stage)) or "dpo"
    embedded = EMBEDDED[stage].is_meant(argv)
    base = embedded_defaults(stage, given(argv, "--family", get_args(FamilyName)) or DEFAULT_FAMILY) if embedded else {}
    config = parse(BenchmarkConfig, argv, program="python -m mede2_jax.benchmark", description=DESCRIPTION, base=base)
    if config.model is None and not embedded:
        raise UserError("no model: set --model to a model directory, or to a folder with config.json, tokenizer and image processor")
    if find_place(config.distributed, os.environ) is not None:
        raise UserError("the benchmark measures the devices of one process; start it once, outside of srun and without distributed.…")
    prepare_gpu()
    prepare_host()
    family = config.family or DEFAULT_FAMILY
    run(config, config.model or tiny.model_directory(TINY_MODELS / f"tiny-{family}", family), Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
