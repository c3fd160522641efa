"""`python -m mede2_jax.rollout`: samples responses to questions, n a question, one line each.

With no model, no questions and no config it samples a tiny random model on the sample questions, on a CPU, in minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from mede2_jax.command import given, run_command
from mede2_jax.config import UserError
from mede2_jax.families import DEFAULT_FAMILY, FamilyName
from mede2_jax.flags import parse
from mede2_jax.rollout.command import RolloutCommand
from mede2_jax.rollout.config import EMBEDDED, embedded_defaults
from mede2_jax.rollout.run import run, run_api

DESCRIPTION = f"""Sample responses of a model to questions: what preference pairs are made of.

Without --model, --questions and --config it samples a tiny random model on the sample questions, on a CPU, with these values of its own:

  {EMBEDDED.summary()}

  one machine    python -m mede2_jax.rollout --model=runs/sft/model --questions=questions.jsonl --out=rollouts.jsonl --n=8
  own servers    … --base_url=http://node1:8000/v1,http://node2:8000/v1
  more machines  … --shard=0/4 --out=rollouts-0.jsonl   (and 1/4, 2/4, 3/4; launch/slurm/rollout.sh)
  an API         … --engine=gemini --api_model=gemini-2.5-pro --max_cost=50 (GEMINI_API_KEY), or openai: experts, teachers, baselines
  about them     … --ask=type or refinement: what a model says about questions with images, for python -m mede2_jax.curate
  about replies  … --ask=expansion or rating --questions=ROLLOUTS: what it says about responses, for python -m mede2_jax.distill
  can I trust it … --check_logprobs: the sampler's log-probabilities beside the trainer's
  go on          the same command: what is in the file stays, what is missing is sampled
"""

TINY_MODELS = Path("runs")


def main(argv: Sequence[str]) -> None:
    """Parses the command line and samples."""
    embedded = EMBEDDED.is_meant(argv)
    family = given(argv, "--family", get_args(FamilyName)) or DEFAULT_FAMILY
    base = embedded_defaults(family) if embedded else {}
    command = parse(RolloutCommand, argv, program="python -m mede2_jax.rollout", description=DESCRIPTION, base=base)
    if command.asks_an_api:
        if missing := [f"--{name}" for name in ("questions", "out") if getattr(command, name) is None]:
            raise UserError(f"missing {' and '.join(missing)}: give --questions=FILE.jsonl --out=FILE.jsonl; see --help")
        run_api(command.of_api, Console(soft_wrap=True))
        return
    config = command.of_model
    needed = [*([] if embedded else ["model"]), "questions", *([] if config.check_logprobs else ["out"])]
    if missing := [f"--{name}" for name in needed if getattr(config, name) is None]:
        raise UserError(f"missing {' and '.join(missing)}: give --model=MODEL_DIR --questions=FILE.jsonl --out=FILE.jsonl; see --help")
    model, console = config.model or _tiny_model(config.family or family), Console(soft_wrap=True)
    if not config.check_logprobs:
        run(config, model, console)
        return
    from mede2_jax.rollout.check import check_logprobs  # as below: with JAX, of which a server's client has no need

    check_logprobs(config, model, console)


def _tiny_model(family: FamilyName) -> Path:
    from mede2_jax import tiny

    return tiny.model_directory(TINY_MODELS / f"tiny-{family}", family)


if __name__ == "__main__":
    run_command(main)
