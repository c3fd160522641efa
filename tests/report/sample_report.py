"""A report of the project's sample data, and a picture of it for the README.

    python tests/report/sample_report.py --out=runs/report [--screenshot=docs/images/report.png]

Two models: "stage II" gave the sample's rollouts; "stage I" the same, with another answer in a third of them. Both are scored by the
real command on a benchmark that a YAML file describes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from chromium import launched, opened
from report_files import read_jsonl, write_jsonl

from mede2_jax.report.__main__ import main as report
from mede2_jax.score.__main__ import main as score

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
TASK = """
name: sample
title: Sample cases
files: [cases.jsonl]
columns: {id: id, question: question, options: options, answer: answer, images: images, groups: modality}
kind: choice
"""
ANSWER = re.compile(r"<answer>\s*([A-D])\b[^<]*</answer>")
SAMPLES = 8
SHOWN = "sample-case-vt-1"
"""In the picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--screenshot", type=Path)
    options = parser.parse_args()
    work = options.out.with_name(f"{options.out.name}-scores")
    write(work)
    with contextlib.redirect_stdout(None):
        for model in ("one", "two"):
            flags = [f"--task={work / 'sample.yaml'}", f"--data={work}", f"--responses={work / f'{model}.jsonl'}"]
            score([*flags, f"--out={work / model}"])
    report([f"--scores=stage I={work / 'one'},stage II={work / 'two'}", f"--out={options.out}"])
    if options.screenshot:
        picture(options.out, options.screenshot)


def write(work: Path) -> None:
    """The benchmark, and both models' replies to it."""
    draw = random.Random(0)
    cases = []
    for question in read_jsonl(SAMPLE / "questions.jsonl"):
        if "options" not in question:
            continue
        text = next(part["text"] for part in question["prompt"][-1]["content"] if part["type"] == "text")
        case = {name: question[name] for name in ("id", "options", "answer", "images")}
        cases.append(case | {"question": text.partition("\nAnswer Choices:")[0], "modality": question["metadata"]["modality"]})
    write_jsonl(work / "cases.jsonl", cases)
    (work / "sample.yaml").write_text(TASK)
    ids = {case["id"] for case in cases}
    rollouts = [row for row in read_jsonl(SAMPLE / "rollouts.jsonl") if row["parents"][0] in ids]
    write_jsonl(work / "two.jsonl", rollouts)
    changed = []
    for row in rollouts:
        other = draw.choice([letter for letter in row["options"] if letter != row["answer"]])
        text = ANSWER.sub(f"<answer> {other} </answer>", row["response"]) if draw.random() < 0.35 else row["response"]
        changed.append(row | {"response": text})
    write_jsonl(work / "one.jsonl", changed)
    for model in ("one", "two"):
        said = {"command": "python -m mede2_jax.rollout", "config": {"n": SAMPLES}, "images": {"root": str(SAMPLE)}}
        stat = (work / f"{model}.jsonl").stat()
        (work / f"{model}.jsonl.manifest.json").write_text(json.dumps(said | {"file": {"inode": stat.st_ino}}))


def picture(out: Path, path: Path) -> None:
    """The page at an item on which the two differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with launched() as browser:
        page = opened(browser, out, width=1280, height=1240)
        page.select_option("#how", "gain")
        page.click(f"#list .id:text-is('{SHOWN}')")
        page.wait_for_selector(f"#item h3:text-is('{SHOWN}')")
        page.click("#item .side:first-child button.wrong")
        page.evaluate("() => document.querySelector('#items').scrollIntoView()")
        page.wait_for_function("() => [...document.querySelectorAll('#item img')].every((image) => image.complete)")
        page.screenshot(path=path)


if __name__ == "__main__":
    main()
