"""`python -m mede2_jax.review export|import|agreement`: people review responses or demonstrations in Label Studio."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.config import Config, UserError
from mede2_jax.flags import fitted, parse
from mede2_jax.review.agree import agree
from mede2_jax.review.config import AgreementConfig, ExportConfig, ImportConfig
from mede2_jax.review.export import export
from mede2_jax.review.reviews import bring_in

DESCRIPTION = """Let people review responses by MMRP's criteria, or demonstrations by theirs, in Label Studio, and compare them.

  1 export     python -m mede2_jax.review export --rollouts=rollouts.jsonl --judgments=judgments.jsonl --limit=1000 --out=review
  2 label      bash launch/label_studio.sh review           (Label Studio on this machine with all of it; or import both files by hand)
  3 bring in   python -m mede2_jax.review import --rollouts=rollouts.jsonl --export=export.json --out=people.jsonl
  4 compare    python -m mede2_jax.review agreement --people=people.jsonl --judgments=judgments.jsonl --out=review/agreement
  5 use        python -m mede2_jax.pair --judgments=judgments.jsonl --people=people.jsonl --rollouts=rollouts.jsonl --out=pairs.jsonl

Demonstrations: --demonstrations=demonstrations.jsonl instead of --rollouts (and of --judgments in 4); then distill --reviews=people.jsonl.
People see question, images, right answer and response, and answer what the judge was asked. They do not see what the judge said.
docs/judging.md has the whole way, also without Label Studio.
"""


class _Step(NamedTuple):
    config: type[Config]
    run: Callable[[Any, Console], None]
    needs: tuple[tuple[str, ...], ...]
    """Options of which each needs a value; of several in a row one."""
    example: str


STEPS = {
    "export": _Step(ExportConfig, export, (("rollouts", "demonstrations"), ("out",)), "--rollouts=FILE --out=FOLDER"),
    "import": _Step(
        ImportConfig, bring_in, (("rollouts", "demonstrations"), ("export",), ("out",)), "--rollouts=FILE --export=FILE --out=FILE"
    ),
    "agreement": _Step(
        AgreementConfig, agree, (("people",), ("judgments", "demonstrations"), ("out",)), "--people=FILE --judgments=FILE --out=FOLDER"
    ),
}


def main(argv: Sequence[str]) -> None:
    """Parses the command line and runs one of the three."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(fitted(DESCRIPTION))
        print(f"Options: python -m mede2_jax.review {'|'.join(STEPS)} --help")
        return
    if name not in STEPS:
        near = difflib.get_close_matches(name, STEPS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"expected {', '.join(STEPS)} first, found {name[:80]!r}{hint}; see --help")
    step = STEPS[name]
    config = parse(step.config, rest, program=f"python -m mede2_jax.review {name}", description=DESCRIPTION)
    lacking = [options for options in step.needs if not any(getattr(config, option) for option in options)]
    missing = [" or ".join(f"--{option}" for option in options) for options in lacking]
    if missing:
        raise UserError(f"missing {' and '.join(missing)}: give {step.example}; see --help")
    step.run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
