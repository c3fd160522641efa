"""`python -m mede2_jax`, or `mede2`: lists the commands in the order of the pipeline, and runs one."""

from __future__ import annotations

import difflib
import runpy
import sys
from collections.abc import Sequence

from mede2_jax.command import run_command
from mede2_jax.config import UserError

COMMANDS = {
    "tiny": "write a tiny random checkpoint, to try everything below without a download",
    "convert": "a Hugging Face checkpoint becomes a model directory, or the other way round",
    "plan": "compile a training step for machines that are not here: does it fit, what bounds it",
    "benchmark": "measure a training step on this machine, and TRL beside it",
    "bank": "gather questions from many files, with their licences and images",
    "curate": "take out of a bank what is there twice, stands in a benchmark, is too easy or never solved",
    "distill": "make demonstrations of teachers' responses: right, well formed, rated well, the best of a question",
    "train": "stage I (--stage=sft) on demonstrations, stage II (--stage=dpo) on pairs",
    "rollout": "sample responses of a model to questions",
    "judge": "judge the reasoning of responses by MMRP's criteria",
    "review": "let people review responses or demonstrations in Label Studio, and compare them with the judge",
    "pair": "set good responses against flawed ones",
    "evaluate": "ask a model the items of benchmarks, and score its replies",
    "score": "how many responses to a benchmark are right, by which rule, and how sure that is",
    "report": "scores and runs as tables, figures and pages of items, in a folder that opens from disk",
    "trace": "show where a pair or a score comes from",
}
"""In the order in which one comes to need them."""


def main(argv: Sequence[str]) -> None:
    """Lists the commands, or runs one as `python -m mede2_jax.COMMAND` does."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_listing())
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"unknown command {name[:80]!r}{hint}; the commands are {', '.join(COMMANDS)}")
    sys.argv[1:] = rest
    runpy.run_module(f"mede2_jax.{name}", run_name="__main__", alter_sys=True)


def _listing() -> str:
    lines = [
        "Teach a vision-language model medical reasoning, in JAX.",
        "",
        "  mede2 COMMAND --help   (or python -m mede2_jax.COMMAND --help)",
        "",
    ]
    width = max(map(len, COMMANDS))
    return "\n".join([*lines, *(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())])


def console() -> None:
    """The console script `mede2`."""
    run_command(main)


if __name__ == "__main__":
    console()
