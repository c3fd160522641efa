"""`python -m mede2_jax.trace`: the whole history of a preference pair, or of a score: data, rollouts, judgments, prompts, models, runs.

The files are found through the manifests beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.flags import parse
from mede2_jax.foreign import visible
from mede2_jax.trace.config import TraceConfig
from mede2_jax.trace.curation import of_question
from mede2_jax.trace.demonstrations import of_demonstration
from mede2_jax.trace.pairs import trace
from mede2_jax.trace.scores import of_score, tree
from mede2_jax.trace.show import shown

DESCRIPTION = """Show where a preference pair, a demonstration or a score comes from, or what became of a question.

  a pair     python -m mede2_jax.trace PAIR_ID --pairs=pairs.jsonl       (its question, both rollouts, judgments, prompts, models)
  a score    python -m mede2_jax.trace --score=scores/dpo/medqa/mede2    (its benchmark and replies, the model, the run that made it,
                                                                          that run's data, the model before, …)
  a demonstration
             python -m mede2_jax.trace ID --demonstrations=demonstrations.jsonl    (its teacher, its ratings, what became of its question)
  a question python -m mede2_jax.trace QUESTION_ID --curated=curated.jsonl    (which step left it out, and why)

Files are found through the manifests beside them. Each is compared with the digest that it had when it was used: what has changed
since, or is gone, is said in its line. --judgments and --rollouts say where these files of a pair are now.
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and shows the history."""
    ids = [argument for argument in argv if not argument.startswith("-")]
    flags = [argument for argument in argv if argument.startswith("-")]
    config = parse(TraceConfig, flags, program="python -m mede2_jax.trace [PAIR_ID]", description=DESCRIPTION)
    console = Console(soft_wrap=False)
    if config.score is not None:
        if ids:
            raise UserError(f"give a pair's id or --score={config.score}, not both")
        console.print(tree(of_score(config.score)))
        return
    if config.curated is not None and len(ids) == 1:
        console.print(visible(of_question(ids[0], config.curated)), soft_wrap=True, markup=False, highlight=False)
        return
    if config.demonstrations is not None and len(ids) == 1:
        for part in of_demonstration(ids[0], config.demonstrations):
            console.print(part, soft_wrap=True)
        return
    if len(ids) != 1:
        raise UserError(
            f"give one pair's id and options as --name=value: python -m mede2_jax.trace PAIR_ID --pairs={config.pairs}; or --score=FOLDER"
        )
    for part in shown(trace(ids[0], config), config.limit or None):
        console.print(part)


if __name__ == "__main__":
    run_command(main)
