"""`python -m mede2_jax.train`: supervised fine-tuning (stage I) and direct preference optimisation (stage II).

With no model and no config it trains a tiny random model on the sample data, on a CPU, in minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mede2_jax import tiny
from mede2_jax.config import UserError, parse, run_command
from mede2_jax.train.config import TrainConfig, embedded_defaults
from mede2_jax.train.run import run

DESCRIPTION = """Train a vision-language model by SFT on demonstrations (stage I) or by DPO on preference pairs (stage II).

Without --model and --config it trains a tiny random model on the sample data, on a CPU, in minutes.

  stage I    python -m mede2_jax.train --config=configs/sft_qwen2_5_vl_7b_lora.yaml --model=M0 --data.path=demos.jsonl --output=runs/sft
  stage II   python -m mede2_jax.train --config=configs/dpo_qwen2_5_vl_7b_full.yaml --model=runs/sft/model --data.path=pairs.jsonl
  go on      the same command with --resume
"""

TINY_MODEL = Path("runs/tiny-model")


def main(argv: Sequence[str]) -> None:
    """Parses the command line and trains."""
    embedded = not any(argument.split("=")[0] in ("--config", "--model") for argument in argv)
    base = embedded_defaults("sft" if _stage(argv) == "sft" else "dpo") if embedded else {}
    config = parse(TrainConfig, argv, program="python -m mede2_jax.train", description=DESCRIPTION, base=base)
    if config.model is None and not embedded:
        raise UserError("no model: set --model=MODEL_DIR (make one with python -m mede2_jax.convert --from=HF_DIR --to=MODEL_DIR)")
    model_dir = config.model or tiny.model_directory(TINY_MODEL)
    run(config, model_dir, Console(soft_wrap=True))


def _stage(argv: Sequence[str]) -> str | None:
    """The stage on the command line, which decides the embedded defaults before all else is parsed."""
    for index, argument in enumerate(argv):
        if argument.startswith("--stage="):
            return argument.removeprefix("--stage=")
        if argument == "--stage" and index + 1 < len(argv):
            return argv[index + 1]
    return None


if __name__ == "__main__":
    run_command(main)
