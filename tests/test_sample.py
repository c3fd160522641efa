"""The sample data: regenerates to the committed bytes, reads as records, and keeps to the paper's format."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from mede2_jax.data.records import Demonstration, PreferencePair

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data" / "sample"
RESPONSE = re.compile(r"<think> (.+) </think> <answer> (.+) </answer>", re.DOTALL)
PINNED_PILLOW = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.lower().startswith("pillow==")).split(
    "=="
)[1]


@pytest.fixture(scope="module")
def demonstrations():
    return [Demonstration.model_validate_json(line) for line in (SAMPLE / "demonstrations.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def pairs():
    return [PreferencePair.model_validate_json(line) for line in (SAMPLE / "preferences.jsonl").read_text("utf-8").splitlines()]


def test_the_generator_gives_the_committed_bytes(tmp_path):
    subprocess.run([sys.executable, str(ROOT / "data" / "make_sample.py"), f"--to={tmp_path}"], check=True, cwd=tmp_path)
    committed = {path.relative_to(SAMPLE) for path in SAMPLE.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == committed
    for path in sorted(committed):
        if path.suffix == ".jsonl" or PIL.__version__ == PINNED_PILLOW:
            assert (tmp_path / path).read_bytes() == (SAMPLE / path).read_bytes(), path
        else:  # another Pillow may compress the same pixels otherwise
            pixels = [np.asarray(Image.open(folder / path).convert("RGB")).astype(int) for folder in (tmp_path, SAMPLE)]
            assert np.abs(pixels[0] - pixels[1]).max() <= (0 if path.suffix == ".png" else 8), path


def test_demonstrations_follow_appendix_a(demonstrations):
    assert len(demonstrations) >= 40
    assert len({record.id for record in demonstrations}) == len(demonstrations)
    words = []
    for record in demonstrations:
        assert [message.role for message in record.messages] == ["system", "user", "assistant"]
        assert record.messages[0].text.startswith("You are a helpful assistant. A conversation between User and Assistant. The user asks")
        assert record.messages[0].text.endswith("<think> reasoning process here </think> <answer> answer here </answer>.")
        reasoning, answer = RESPONSE.fullmatch(record.messages[2].text).groups()
        assert answer.endswith(record.metadata["answer"])
        if "Answer Choices" in record.messages[1].text:
            assert f"({answer[0]}) {record.metadata['answer']}" in record.messages[1].text
        words.append(len(reasoning.split()))
    assert min(words) >= 50
    assert max(words) > 250
    assert np.std(words) > 40


def test_the_system_prompt_is_the_papers(demonstrations):
    paper = ROOT.parent / "shared" / "paper" / "mede2_paper.txt"
    if not paper.exists():
        pytest.skip("the paper's text is not beside the checkout")
    assert json.dumps(demonstrations[0].messages[0].text, ensure_ascii=False)[1:-1] in paper.read_text("utf-8")


def test_pairs_have_right_answers_and_differ(pairs):
    assert len(pairs) >= 40
    assert len({pair.id for pair in pairs}) == len(pairs)
    for pair in pairs:
        chosen, rejected = RESPONSE.fullmatch(pair.chosen), RESPONSE.fullmatch(pair.rejected)
        assert chosen[2] == rejected[2] == pair.metadata["answer"]
        assert chosen[1] != rejected[1]
        assert "{" not in pair.chosen + pair.rejected + pair.prompt[1].text  # no template field was left open
    assert set(Counter(pair.metadata["rejected_fails"] for pair in pairs).values()) == {len(pairs) // 4}


def test_images_exist_once_and_vary_in_size(pairs):
    named = [name for pair in pairs for name in pair.images]
    assert sorted(named) == sorted(f"images/{path.name}" for path in (SAMPLE / "images").iterdir())
    assert {len(pair.images) for pair in pairs} == {1, 2, 3}
    sizes, modes, total = set(), set(), 0
    for name in named:
        path = SAMPLE / name
        total += path.stat().st_size
        assert path.stat().st_size < 30_000, name
        with Image.open(path) as image:
            image.load()
            sizes.add(image.size)
            modes.add((image.format, image.mode))
            assert 84 <= min(image.size) < max(image.size) <= 280
    assert total < 1_500_000
    assert len(sizes) >= 10
    assert {("PNG", "L"), ("PNG", "RGB"), ("JPEG", "L"), ("JPEG", "RGB")} <= modes


def test_image_places_vary(pairs):
    kinds = {tuple(part.type for part in pair.prompt[1].content)[:2] for pair in pairs}
    assert {("image", "text"), ("text", "image"), ("image", "image"), ("text", "text")} <= kinds
