"""`python -m mede2_jax.report`: scores and runs as a folder that opens from disk: tables, figures, cases, and every item."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mede2_jax.command import run_command
from mede2_jax.flags import parse
from mede2_jax.report.config import ReportConfig
from mede2_jax.report.run import check_given, run

DESCRIPTION = """Make a report of scores, and of the runs behind them: index.html, which opens from disk and loads nothing from a network.

  two models     python -m mede2_jax.report --scores=stage1=scores/sft,stage2=scores/dpo --out=report
  sizes          … --scores='7B=scores/a,7B +I=scores/b,32B=scores/c'     (names with sizes make Figure 4)
  training       … --runs=runs/sft,runs/dpo --funnel=rollouts.jsonl,judgments.jsonl,pairs.jsonl
  the judge      … --judgments=judgments.jsonl --people=people.csv     (columns: rollout, and MMRP's criteria, yes or no)
  to send        … --single_file                                       (one HTML, images as thumbnails)

A folder of --scores is one that evaluate wrote (all its tasks and prompts) or score did. In --out: index.html; tables/ as Markdown and CSV,
figures/ as PNG and SVG, scores/ (copies of score.json), and for the page data/, images/, static/. The paper's Tables 1 and 2 are always
there, each figure with its count where one fits. Differences between models come with McNemar's test or a paired bootstrap, and Holm's
correction over all that are shown. Cases are of models that follow one another in --scores: give stage I before stage II.
"""


def main(argv: Sequence[str]) -> None:
    """Parses the command line and writes the report."""
    config = parse(ReportConfig, argv, program="python -m mede2_jax.report", description=DESCRIPTION)
    check_given(config)
    run(config, Console(soft_wrap=True))


if __name__ == "__main__":
    run_command(main)
