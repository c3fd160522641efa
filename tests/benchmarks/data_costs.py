"""What the APIs of the data pipeline cost at the paper's sizes: requests × tokens × prices, the table of docs/data.md.

    python tests/benchmarks/data_costs.py [--prices=FILE]

The paper says how many questions there are at the ends of the funnel, not between its steps: half are taken to survive the baselines.
Tokens of a request are assumptions, to be replaced by those of a small run (`usage` of its records): an image counts 1,032 (four tiles of
258, Gemini's count), thoughts count as output.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from mede2_jax.engines.paid.cost import find_price

TEXT, MULTIMODAL = 37_000 // 2, 17_000 // 2
"""Questions that the baselines have left."""


class Step(NamedTuple):
    """Requests of one kind."""

    name: str
    model: str
    requests: int
    prompt: int
    """Tokens of each."""
    response: int


STEPS = (
    Step("type", "gemini-2.5-pro", MULTIMODAL, 1_900, 600),
    Step("solvability, text: one expert of two", "gemini-2.5-pro", TEXT * 4, 600, 2_000),
    Step("solvability, images: one expert of two", "gemini-2.5-pro", MULTIMODAL * 2 * 4 // 3, 1_600, 2_000),
    Step("refinement", "gpt-4o", 2_000, 1_900, 500),
    Step("a teacher, 2 responses to each of 3,000", "gemini-2.5-pro", 6_000, 600, 3_000),
    Step("rating, 4 candidates of each of 3,000", "gemini-2.5-pro", 12_000, 2_500, 800),
    Step("judge, 60% of 8 responses to each of 2,000", "gemini-2.5-pro", 9_600, 2_700, 1_500),
)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prices", type=Path)
    given = parser.parse_args()
    total = 0.0
    print("| step | model | requests | tokens in, out | US$ |\n|---|---|---:|---:|---:|")
    for step in STEPS:
        price, as_of = find_price(step.model, given.prices)
        assert price is not None, step.model
        cost = step.requests * (step.prompt * price.input + step.response * price.output) / 1e6
        total += cost
        print(f"| {step.name} | {step.model} | {step.requests:,} | {step.prompt:,}, {step.response:,} | {cost:,.0f} |")
    print(f"| all, at prices of {as_of} | | | | {total:,.0f} |")


if __name__ == "__main__":
    main()
