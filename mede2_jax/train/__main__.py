"""`python -m mede2_jax.train`: supervised fine-tuning (stage I) and direct preference optimisation (stage II).

With no model and no config it trains a tiny random model on the sample data, on a CPU, in minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from mede2_jax import tiny
from mede2_jax.command import given, run_command
from mede2_jax.config import UserError
from mede2_jax.families import DEFAULT_FAMILY, FamilyName
from mede2_jax.flags import parse
from mede2_jax.parallel.distributed import DistributedConfig, agreed, is_first, joined
from mede2_jax.parallel.gpu import prepare_gpu
from mede2_jax.parallel.host import prepare_host
from mede2_jax.train.config import EMBEDDED, Stage, TrainConfig, embedded_defaults, embedded_summary
from mede2_jax.train.run import run

DESCRIPTION = f"""Train a vision-language model by SFT on demonstrations (stage I) or by DPO on preference pairs (stage II).

Without --model and --config it trains a tiny random model on the sample data, on a CPU, in minutes, with these values of its own:

  {embedded_summary()}

  stage I    python -m mede2_jax.train --config=configs/sft_qwen2_5_vl_7b_lora.yaml --model=M0 --data.path=demos.jsonl --output=runs/sft
  stage II   python -m mede2_jax.train --config=configs/dpo_qwen2_5_vl_7b_full.yaml --model=runs/sft/model \\
                 --data.path=pairs.jsonl --output=runs/dpo
  go on      the same command with --resume
"""

TINY_MODELS = Path("runs")


def main(argv: Sequence[str]) -> None:
    """Parses the command line and trains."""
    stage: Stage = given(argv, "--stage", get_args(Stage)) or "dpo"
    embedded = EMBEDDED[stage].is_meant(argv)
    base = embedded_defaults(stage, given(argv, "--family", get_args(FamilyName)) or DEFAULT_FAMILY) if embedded else {}
    config = parse(TrainConfig, argv, program="python -m mede2_jax.train", description=DESCRIPTION, base=base)
    if config.model is None and not embedded:
        raise UserError("no model: set --model=MODEL_DIR (make one with python -m mede2_jax.convert --from=HF_DIR --to=MODEL_DIR)")
    prepare_gpu()
    prepare_host()
    with joined(config.distributed):
        console = Console(soft_wrap=True, quiet=not is_first())
        config = config.model_copy(update={"distributed": DistributedConfig()})  # which process this is, is no part of the run
        if embedded and config.data.path not in EMBEDDED[stage].files.values():
            console.print(f"no --model: a tiny random one is trained on {config.data.path}", style="yellow", markup=False)
        run(config, config.model or _tiny_model(config.family or DEFAULT_FAMILY), console)


def _tiny_model(family: FamilyName) -> Path:
    return Path(agreed(lambda: str(tiny.model_directory(TINY_MODELS / f"tiny-{family}", family))))


if __name__ == "__main__":
    run_command(main)
