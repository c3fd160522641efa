"""`python -m mede2_jax.bank`: questions from files of many forms as one file of records, with their licences and images."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.bank.config import EMBEDDED, BankConfig, embedded_defaults
from mede2_jax.bank.run import run
from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.flags import parse

DESCRIPTION = """Gather questions from many files into one bank, with their licences and images.

Each question is asked as the paper does: its system turn, images, the question with its choices. Without --source it takes the sample's:
data/sample/text_questions.csv, by the YAML file beside it, and data/sample/questions.jsonl, into runs/bank.jsonl.

  a table        python -m mede2_jax.bank --source=mine.yaml --data=FOLDER --out=bank.jsonl     (CSV, JSONL, JSON, parquet)
  several        … --source=medqa,mine.yaml --data=train.jsonl,FOLDER --licence=MIT,CC-BY-4.0
  articles       … --source=pmc --data=FOLDER: cases with figures from PubMed Central's packages, without answers
  more licences  … --licences=CC0,CC-BY,CC-BY-SA,CC-BY-NC: what is under another one is left out, and counted

data/README.md has the YAML file and where sources come from.
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and makes a bank."""
    base = embedded_defaults() if EMBEDDED.is_meant(argv) else {}
    config = parse(BankConfig, argv, program="python -m mede2_jax.bank", description=DESCRIPTION, base=base)
    if missing := [f"--{name}" for name in ("source", "out") if not getattr(config, name)]:
        raise UserError(f"missing {' and '.join(missing)}: give --source=NAME --data=PATH --out=FILE; see --help")
    run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
