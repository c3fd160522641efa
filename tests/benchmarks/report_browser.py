"""How fast a large report opens in a headless Chromium, from disk and without a network.

    python tests/benchmarks/report_browser.py [--items=2000] [--samples=8] [--models=2] [--words=450] [--keep=FOLDER]

Makes a benchmark of so many items with images, replies of so many words to it, scores them with the real command, writes the report,
and opens it at an item: once cold, then several times, each in a fresh context. What is timed is from the request of the page to the list
of all items, with that item and its images shown, as a reader waits for it; and how long it takes to another item, to a filter and to a
search in all questions and in all replies.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("", "report"))

from chromium import launched, opened
from report_files import answer, benchmark, evaluation

from mede2_jax.report.__main__ import main as report

TEXT = "the film shows a lucent line beside the cortex so that a fracture is likely while an effusion is not seen here"
TIMES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("items", 2000), ("samples", 8), ("models", 2), ("words", 450)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--keep", type=Path, help="where the files stay; none: they are removed")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        out = folder / "report"
        seconds = make(folder, out, options)
        sizes = {path.suffix: 0 for path in out.rglob("*") if path.is_file()}
        for path in out.rglob("*"):
            if path.is_file():
                sizes[path.suffix] += path.stat().st_size
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{options.models} models × {options.items:,} items × {options.samples} samples, written in {seconds:.1f} s")
        print("in the folder: " + ", ".join(f"{suffix} {size / 1e6:,.1f} MB" for suffix, size in sorted(sizes.items())))
        measure(out)


def make(folder: Path, out: Path, options: argparse.Namespace) -> float:
    """Writes everything; returns the seconds that the report took."""
    data = benchmark(folder / "data", options.items, (512, 384))
    scores = []
    for number in range(options.models):
        where = folder / f"model{number}"
        if not (where / "rollouts.jsonl").exists():
            with contextlib.redirect_stdout(None):
                evaluation(where, data, learner(0.3 + 0.2 * number, number, options.words), options.samples, ["--resamples=1000"])
        scores.append(f"model {number + 1}={where}")
    begin = time.perf_counter()
    report([f"--scores={','.join(scores)}", f"--out={out}"])
    return time.perf_counter() - begin


def learner(skill: float, seed: int, words: int):
    """Replies of so many words, of which some are right."""

    def reply(item, sample):
        draw = random.Random(f"{seed} {item.id} {sample}")
        text = " ".join(draw.choices(TEXT.split(), k=words))
        return answer(item.answer if draw.random() < skill else draw.choice("ABCDE"), text)

    return reply


SHOWN = "() => document.querySelector('#item h3') && [...document.querySelectorAll('#item img')].every((one) => one.complete)"


def measure(out: Path) -> None:
    with launched() as browser:
        opening, faults = [], []
        for _ in range(1 + TIMES):
            begin = time.perf_counter()
            page = opened(browser, out, faults=faults, fragment="#item=0,MM-1")
            page.wait_for_function(SHOWN)
            opening.append(time.perf_counter() - begin)
            page.context.close()
        print(f"opens: {opening[0]:.2f} s cold, {statistics.median(opening[1:]):.2f} s (median of {TIMES}), console errors {len(faults)}")
        page = opened(browser, out)
        items = int(page.evaluate("() => Mede2.load('board-0').then((board) => board.ids.length)"))
        say("another item", lambda: go(page, items // 2))
        say("a filter", lambda: page.check("#outcomes input[value=wrong]"))
        page.click("#clear")
        say("a search in all questions", lambda: search(page, f"case {items - 1}.", "1 of"))
        page.fill("#query", "")
        page.select_option("#where", "replies")
        say("a search in all replies", lambda: search(page, "no such words", "0 of"))
        page.context.close()


def go(page, number: int) -> None:
    page.evaluate(f"() => {{ location.hash = '#item=0,MM-{number}'; }}")
    page.wait_for_selector(f"#item h3:text-is('MM-{number}')")
    page.wait_for_function(SHOWN)


def search(page, text: str, expected: str) -> None:
    page.fill("#query", text)
    said = "document.querySelector('#count').textContent"
    page.wait_for_function(f"() => {said}.startsWith('{expected}') && {said}.endsWith('items')")


def say(what: str, do) -> None:
    begin = time.perf_counter()
    do()
    print(f"{what}: {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main()
