"""`python -m mede2_jax.pair`: preference pairs for DPO from judged rollouts, by a rule that can be changed without judging again."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.flags import parse
from mede2_jax.pair.config import EMBEDDED, PairConfig, embedded_defaults
from mede2_jax.pair.run import run

DESCRIPTION = f"""Make preference pairs of judged responses: Y_p × Y_n within a question.

A response that meets all criteria is positive, one that fails any is negative. Without files and --config it takes the sample's:

  {EMBEDDED.summary()}

  pairs          python -m mede2_jax.pair --judgments=judgments.jsonl --rollouts=rollouts.jsonl --out=pairs.jsonl
  another rule   … --criteria=no_hallucination,image_analysis --max_pairs=2     (replaces the pairs; nothing is judged again)
  people decide  … --people=people.jsonl           (where they have judged a response: python -m mede2_jax.review)
  hold out       … --eval_fraction=0.1: whole questions, into pairs.eval.jsonl
  then           python -m mede2_jax.train --stage=dpo --model=runs/sft/model --data.path=pairs.jsonl [--data.eval_path=pairs.eval.jsonl]
  where from     python -m mede2_jax.trace PAIR_ID --pairs=pairs.jsonl
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and makes pairs."""
    base = embedded_defaults() if EMBEDDED.is_meant(argv) else {}
    config = parse(PairConfig, argv, program="python -m mede2_jax.pair", description=DESCRIPTION, base=base)
    if missing := [f"--{name}" for name in ("judgments", "rollouts", "out") if getattr(config, name) is None]:
        raise UserError(f"missing {' and '.join(missing)}: give --judgments=FILE --rollouts=FILE --out=FILE; see --help")
    run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
