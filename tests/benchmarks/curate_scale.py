"""How long curating a bank takes, and in how much memory: made-up questions, two of five with an image, and a benchmark of 2,450 items.

    python tests/benchmarks/curate_scale.py --questions=5000 --questions=50000 [--folder=DIR]

Each size runs in a process of its own. Texts are of words as frequent as in English (Zipf), images of 600 × 480 pixels as JPEG.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ITEMS = 2_450
WORDS = 30_000
MAP = "name: made_up\nfiles: [items.jsonl]\ncolumns: {id: id, question: q, answer: a, options: o}\nkind: choice\n"


def main() -> None:
    """Makes the banks, curates each, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, action="append")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    for count in options.questions or [5_000]:
        place = folder / str(count)
        make(place, count)
        subprocess.run([sys.executable, __file__, f"--measure={place}"], check=True)


def make(place: Path, count: int) -> None:
    """A bank of so many questions, and a benchmark."""
    rng = np.random.default_rng(count)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(WORDS)])
    share = 1 / np.arange(2, WORDS + 2)
    share /= share.sum()
    (place / "images").mkdir(parents=True, exist_ok=True)

    def text(size: int) -> str:
        return " ".join(rng.choice(words, size, p=share))

    def row(number: int) -> dict[str, object]:
        return {"id": f"q{number}", "q": text(int(rng.integers(40, 160))), "a": "A", "o": {letter: text(3) for letter in "ABCD"}}

    with (place / "bank.jsonl").open("w") as file:
        for number in range(count):
            made = row(number)
            said = {"type": "text", "text": made["q"]}
            images = []
            if number % 5 < 2:
                small = Image.fromarray(rng.integers(0, 255, (16, 20), np.uint8))
                images = [f"images/{number}.jpg"]
                small.resize((600, 480), Image.Resampling.BICUBIC).save(place / images[0], quality=85)
            content = [*({"type": "image"} for _ in images), said]
            question = {"id": made["id"], "prompt": [{"role": "user", "content": content}], "images": images}
            file.write(json.dumps({**question, "answer": "A", "options": made["o"]}) + "\n")
    (place / "items.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(ITEMS)))
    (place / "made_up.yaml").write_text(MAP)


def measure(place: Path) -> None:
    """Curates a bank, and says what it took."""
    from mede2_jax.curate.__main__ import main as curate

    began, before = time.monotonic(), time.process_time()
    flags = [f"--leakage.task={place / 'made_up.yaml'}", f"--leakage.data={place}", "--eval_fraction=0.1"]
    curate([f"--questions={place / 'bank.jsonl'}", f"--out={place / 'curated.jsonl'}", *flags])
    count = sum(1 for _ in (place / "bank.jsonl").open("rb"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{count:,} questions: {time.monotonic() - began:.1f} s, {time.process_time() - before:.1f} s of processor time, {peak:.2f} GiB")


if __name__ == "__main__":
    main()
