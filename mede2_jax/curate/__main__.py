"""`python -m mede2_jax.curate`: from a bank to questions worth training on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.curate.config import EMBEDDED, CurateConfig, embedded_defaults
from mede2_jax.curate.run import run
from mede2_jax.flags import parse

DESCRIPTION = f"""Curate a bank of questions: out goes what is there twice, stands in a benchmark, is too easy, or is solved by nobody.

Without --questions and --config it takes the sample's:

  {EMBEDDED.summary()}

  both           python -m mede2_jax.curate --questions=bank.jsonl --out=curated.jsonl --leakage.task=medqa,mmmu --leakage.data=MedQA/,MMMU/
  too easy       … --difficulty.rollouts=base1.jsonl,base2.jsonl [--difficulty.pass_rate=0.1,0.9]: responses of baselines, from rollout
  no reasoning   … --type.rollouts=types.jsonl: what is pattern recognition alone (rollout --ask=type)
  unsolvable     … --solvability.rollouts=expert1.jsonl,expert2.jsonl: each has to be right at least once
  said in words  … --refinement.rollouts=refinements.jsonl: what the images show is taken out of the text (rollout --ask=refinement)
  the paper's    … --config=configs/curate_multimodal.yaml, or curate_text.yaml
  one step       … --steps=duplicates --duplicates.similarity=0.7
  hold out       … --eval_fraction=0.1: whole groups that share a case, a picture or a text, into curated.eval.jsonl
  why not q17?   python -m mede2_jax.trace q17 --curated=curated.jsonl

What was found of benchmarks stands in the manifest, and goes with whatever is made of these questions.
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and curates."""
    base = embedded_defaults() if EMBEDDED.is_meant(argv) else {}
    config = parse(CurateConfig, argv, program="python -m mede2_jax.curate", description=DESCRIPTION, base=base)
    if missing := [f"--{name}" for name in ("questions", "out") if getattr(config, name) is None]:
        raise UserError(f"missing {' and '.join(missing)}: give --questions=FILE --out=FILE; see --help")
    run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
