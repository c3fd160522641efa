"""The paper's size: 2,000 questions × 8 responses with judgments become pairs in a minute and a gigabyte, on two cores."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mede2_jax.data.records import Rollout
from mede2_jax.reasoning.rubric import ASPECTS

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS, N, WORDS = 2000, 8, 450
MEASURED = """
import sys, time
from mede2_jax.outputs.memory import peak_memory
from mede2_jax.pair.__main__ import main
began = time.monotonic()
main(sys.argv[1:])
print(f"MEASURED {time.monotonic() - began:.1f} {time.process_time():.1f} {peak_memory() / 2**20:.0f}")
"""


@pytest.fixture(scope="module")
def paper_size(tmp_path_factory):
    """Responses of about 450 words from a vocabulary of 5,000, each with a judgment drawn by lot; in the order in which engines finish."""
    folder, rng = tmp_path_factory.mktemp("paper"), random.Random(0)
    vocabulary = [hashlib.sha256(str(number).encode()).hexdigest()[: rng.randint(3, 10)] for number in range(5000)]
    system = "You are a helpful assistant. " * 12
    order = [(question, sample) for question in range(QUESTIONS) for sample in range(N)]
    rng.shuffle(order)
    expected = dict.fromkeys(range(QUESTIONS), (0, 0))
    with (folder / "rollouts.jsonl").open("w") as rollouts, (folder / "judgments.jsonl").open("w") as judgments:
        for question, sample in order:
            words = rng.choices(vocabulary, k=WORDS + rng.randint(-100, 100))
            rollout = Rollout(
                id=f"q{question}#{sample}",
                parents=(f"q{question}",),
                prompt=[
                    {"role": "system", "content": system},
                    {"role": "user", "content": f"Case {question}: {' '.join(vocabulary[:150])}?"},
                ],
                answer="B",
                options={"A": "one", "B": "two"},
                sample=sample,
                response=f"<think> {' '.join(words)} </think> <answer> B </answer>",
                finish_reason="stop",
                prompt_tokens=900,
                response_tokens=600,
                seed=sample,
                model="sha256:0",
            )
            rollouts.write(rollout.model_dump_json(exclude_none=True) + "\n")
            verdicts = {aspect: {"met": rng.random() < 0.8} for aspect in ASPECTS} | {"correctness": {"met": True}}
            record = {
                "id": f"{rollout.id}@0",
                "parents": [rollout.id],
                "question": f"q{question}",
                "repeat": 0,
                "of": rollout.content_digest,
            }
            judge = {"engine": "gemini", "model": "gemini-2.5-pro", "prompt": "judge-paper/1"}
            judgments.write(json.dumps(record | verdicts | {"outcome": "correct", "judge": judge, "raw": "{}" * 80}) + "\n")
            good, bad = expected[question]
            met = all(verdict["met"] for verdict in verdicts.values())
            expected[question] = (good + met, bad + (not met))
    return folder, expected


@pytest.mark.slow
def test_the_papers_size_in_a_minute_and_a_gigabyte(paper_size, capfd):
    folder, expected = paper_size
    files = [f"--{name}={folder / name}.jsonl" for name in ("rollouts", "judgments")]
    flags = [*files, f"--out={folder / 'pairs.jsonl'}", "--max_pairs=none"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", MEASURED, *flags], capture_output=True, text=True, env=environment, check=True)
    seconds, processor, mebibytes = map(float, done.stdout.rsplit("MEASURED ", 1)[1].split())
    size = sum((folder / f"{name}.jsonl").stat().st_size for name in ("rollouts", "judgments")) / 1e6
    with capfd.disabled():
        took = f"{seconds:.1f} s, of which {processor:.1f} s of a core; peak memory {mebibytes:.0f} MiB"
        print(f"\n{QUESTIONS * N:,} responses with judgments, {size:.0f} MB: {took}")
    # One process works: its own time is what a machine with nothing else to do takes.
    assert processor < 60 and mebibytes < 1024
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == sum(good * bad for good, bad in expected.values()) == len({pair["id"] for pair in pairs})
