"""`python -m mede2_jax.distill`: from teachers' responses to demonstrations for stage I."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.distill.config import EMBEDDED, DistillConfig
from mede2_jax.distill.run import run
from mede2_jax.flags import parse

DESCRIPTION = f"""Make demonstrations for stage I of teachers' responses: right, well formed, rated well, the best of their question.

Without --questions, --rollouts and --config it takes the sample's:

  {EMBEDDED.summary()}

  1 teachers     python -m mede2_jax.rollout --engine=openai --api_model=deepseek-reasoner --questions=curated.jsonl --n=2 --out=r1.jsonl
                 (and one file each of Gemini, Qwen3, …)
  2 summaries    … rollout --ask=expansion --questions=gemini.jsonl --engine=openai --api_model=gpt-oss-120b --n=1 --out=gemini.whole.jsonl
  3 the rules    python -m mede2_jax.distill --questions=curated.jsonl --rollouts=r1.jsonl,gemini.jsonl --expansions=gemini.whole.jsonl
                     --out=demonstrations.jsonl
  4 ratings      … rollout --ask=rating --questions=demonstrations.candidates.jsonl --engine=gemini --api_model=gemini-2.5-pro --n=1
                     --out=ratings.jsonl
  5 the best     command 3 with --ratings=ratings.jsonl
  6 people       … --reviews=people.jsonl, which python -m mede2_jax.review brings back from those who read demonstrations.jsonl
  7 training     python -m mede2_jax.train --stage=sft --data.path=demonstrations.jsonl

Of each question the best one is taken, and of no teacher too many (--quota). demonstrations.dropped.jsonl says why the others were not.
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and distils."""
    base = EMBEDDED.defaults() if EMBEDDED.is_meant(argv) else {}
    base |= {"rollouts": [base["rollouts"]]} if base else {}
    config = parse(DistillConfig, argv, program="python -m mede2_jax.distill", description=DESCRIPTION, base=base)
    if missing := [f"--{name}" for name in ("questions", "rollouts", "out") if not getattr(config, name)]:
        raise UserError(f"missing {' and '.join(missing)}: give --questions=FILE --rollouts=FILE,… --out=FILE; see --help")
    run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
