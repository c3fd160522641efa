"""`python -m mede2_jax.judge`: judges sampled responses by MMRP, one line a judgment.

With no rollouts, no judge, no model and no config it judges the sample's responses by rules, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.flags import parse
from mede2_jax.judge.config import EMBEDDED, JudgeConfig
from mede2_jax.judge.run import run

DESCRIPTION = f"""Judge sampled responses by the four criteria of Multimodal Medical Reasoning Preference (MMRP).

Responses with a wrong answer, none that can be read, or cut ones are counted and not judged. Without --rollouts, --judge, --model and
--config it judges the sample's responses by rules, with these values:

  {EMBEDDED.summary()}

  Gemini         GEMINI_API_KEY=… python -m mede2_jax.judge --rollouts=rollouts.jsonl --out=judgments.jsonl --judge=gemini --max_cost=50
  OpenAI         OPENAI_API_KEY=… … --judge=openai --model=gpt-4o
  own server     … --judge=openai --model=NAME --base_url=http://node1:8000/v1
  can I trust it … --repeat=3: how far the judge agrees with itself
  go on          the same command: what is in the file stays, what is missing is judged
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and judges."""
    base = EMBEDDED.defaults() if EMBEDDED.is_meant(argv) else {}
    config = parse(JudgeConfig, argv, program="python -m mede2_jax.judge", description=DESCRIPTION, base=base)
    if missing := [f"--{name}" for name in ("rollouts", "out") if getattr(config, name) is None]:
        raise UserError(f"missing {' and '.join(missing)}: give --rollouts=FILE.jsonl --out=FILE.jsonl; see --help")
    assert config.rollouts is not None and config.out is not None
    if config.out.absolute() == config.rollouts.absolute():
        raise UserError(f"--out={config.out} is the file of rollouts; give another")
    run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
