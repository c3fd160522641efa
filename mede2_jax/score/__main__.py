"""`python -m mede2_jax.score`: how many responses to a benchmark are right, by which rule, and how sure that is. Text alone, in seconds."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.flags import parse
from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.run import run
from mede2_jax.tasks.catalogue import describe_tasks

DESCRIPTION = f"""Score responses to a benchmark. Nothing is sampled: the responses may be anybody's.

  ours             python -m mede2_jax.score --task=medxpertqa_mm --data=FOLDER --responses=rollouts.jsonl --out=scores/mm
  anybody's        … --responses=answers.csv --columns.id=qid --columns.response=text     (a list of texts is several samples)
  the owner's      … --task=mmmu_pro_standard10 --responses=his_output.jsonl --mode=official      (the file carries the items)
  two models       … --against=scores/other: McNemar's test and a paired bootstrap
  open answers     … --prompt=mede2_open --judge.api=gemini --judge.max_cost=20     (a rule, then the judge; GEMINI_API_KEY)
  own judge        … --judge.api=openai --judge.model=NAME --judge.base_url=http://node1:8000/v1
  can I trust it   … --judge.check=200: how often rule and judge agree
  DiagnosisArena   … --task=diagnosisarena_open --mode=official --judge.api=openai --judge.model=gpt-4o     (top-1, top-5)

{describe_tasks()}
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and scores."""
    config = parse(ScoreConfig, argv, program="python -m mede2_jax.score", description=DESCRIPTION)
    if missing := [f"--{name}" for name in ("task", "responses") if getattr(config, name) is None]:
        raise UserError(f"missing {' and '.join(missing)}: give --task=NAME --data=FOLDER --responses=FILE --out=FOLDER; see --help")
    run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
