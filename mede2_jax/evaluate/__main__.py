"""`python -m mede2_jax.evaluate`: a model's scores on benchmarks, from the owners' files to one table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.evaluate.config import EvaluateConfig
from mede2_jax.evaluate.run import dry_run, run
from mede2_jax.flags import parse
from mede2_jax.tasks.catalogue import describe_tasks

DESCRIPTION = f"""Ask a model the items of benchmarks, in their owners' words or ours, and score its replies.

  one            python -m mede2_jax.evaluate --task=medxpertqa_mm --data=MedXpertQA --model=runs/dpo/model --out=scores/dpo
  several        … --task=medqa,mmmu_pro_standard10 --data=MedQA,MMMU_Pro        (a folder for each; one engine for all)
  his words      … --prompt=mede2,official --mode=official     (official: each of the owner's prompts, two turns too)
  scaling        … --n=32 --temperature=0.5                    (pass@k and majority votes; n may grow)
  no choices     … --prompt=mede2_open --judge.api=gemini --judge.max_cost=20     (open answers, by a rule and then a judge)
  other orders   … --shuffle_options=1,2,3                     (of the options: accuracy by order, and its spread)
  two models     … --against=scores/sft                        (each score compared, p-values adjusted for their number)
  what is asked  … --dry_run                                   (the first prompts with their images, as text and tokens)
  a first look   … --limit=20                                  (the score says that it is partial)
  own servers    … --base_url=http://node1:8000/v1,http://node2:8000/v1
  Gemini         GEMINI_API_KEY=… … --engine=gemini --api_model=gemini-2.5-pro --max_cost=50      (no --model)
  OpenAI         OPENAI_API_KEY=… … --engine=openai --api_model=gpt-4o         (or another API, with --base_url)
  more machines  … --shard=0/4 --out=scores/0                  (and 1/4, …; mede2 score reads their rollouts.jsonl, joined)
  go on          the same command: what is there stays, what is missing is sampled

In --out: rollouts.jsonl (second_turns.jsonl) with every prompt and reply, questions.jsonl, images/, TASK/PROMPT/score.json and
verdicts.jsonl, evaluation.json. An API is asked 16 things at a time and given 300 seconds for each, unless --concurrency and --timeout
say otherwise. Greedy, one sample and {EvaluateConfig().max_tokens:,} tokens are our defaults, not the owners'.

{describe_tasks()}
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and evaluates."""
    config = parse(EvaluateConfig, argv, program="python -m mede2_jax.evaluate", description=DESCRIPTION)
    needed = ["task", "data", *([] if config.asks_an_api else ["model"]), *([] if config.dry_run else ["out"])]
    if missing := [f"--{name}" for name in needed if getattr(config, name) in (None, ())]:
        raise UserError(f"missing {' and '.join(missing)}: give --task=NAME --data=FOLDER --model=MODEL_DIR --out=FOLDER; see --help")
    (dry_run if config.dry_run else run)(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
