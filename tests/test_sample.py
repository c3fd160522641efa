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

from mede2_jax.data.records import Demonstration, PreferencePair, Question, Rollout
from mede2_jax.reasoning.answers import grade

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


@pytest.fixture(scope="module")
def questions():
    return [Question.model_validate_json(line) for line in (SAMPLE / "questions.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
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


def test_questions_are_the_pairs_patients(questions, pairs):
    assert len(questions) == len(pairs) >= 32
    assert len({question.id for question in questions}) == len(questions)
    for question, pair in zip(questions, pairs, strict=True):
        assert question.images == pair.images
        asked = question.prompt[1].text.replace(listed(question.options), "")
        assert (question.prompt[0], asked) == (pair.prompt[0], pair.prompt[1].text)
        assert [part.type for part in question.prompt[1].content] == [part.type for part in pair.prompt[1].content]
        text = question.options[question.answer] if question.options else question.answer
        assert text == pair.metadata["answer"]
        assert grade(pair.chosen, question.answer, question.options) == "correct"
        assert grade(f"<answer> {question.answer} </answer>", question.answer, question.options) == "correct"


def listed(options):
    return "\nAnswer Choices:" + "".join(f"\n({letter}) {text}" for letter, text in options.items()) if options else ""


def test_half_of_the_questions_list_options_and_their_order_varies(questions):
    choices = [question for question in questions if question.options]
    assert len(choices) == len(questions) // 2
    assert all(list(question.options) == list("ABCD") and len(set(question.options.values())) == 4 for question in choices)
    assert {question.answer for question in choices} == set("ABCD")


def test_a_judge_finds_the_hidden_facts(questions):
    facts = {"modality", "look", "link", "differential", "reflection", "illogic", "hallucination", "blind"}
    for question in questions:
        assert set(question.metadata) == facts and all(question.metadata.values())
        hidden = json.dumps(question.metadata, ensure_ascii=False)
        assert not re.search(r"\{(side|other|he|He|person|age)\}", hidden + question.prompt[1].text)
        assert not any(look in question.prompt[1].text for look in question.metadata["look"])


def test_rollouts_are_eight_known_responses_to_each_question(questions):
    rollouts = [Rollout.model_validate_json(line) for line in (SAMPLE / "rollouts.jsonl").read_text("utf-8").splitlines()]
    by_id = {question.id: question for question in questions}
    assert Counter(rollout.question_id for rollout in rollouts) == dict.fromkeys(by_id, 8)
    for rollout in rollouts:
        question, made = by_id[rollout.question_id], rollout.metadata["made"]
        assert (rollout.prompt, rollout.images, rollout.answer, rollout.options) == (
            question.prompt,
            question.images,
            question.answer,
            question.options,
        )
        assert rollout.model == rollout.source == "sample generator" and (rollout.prompt_tokens, rollout.response_tokens) == (0, 0)
        assert not re.search(r"\{(side|other|he|He|person|age)\}", rollout.response)
        outcome = grade(rollout.response, rollout.answer, rollout.options)
        assert outcome == {"wrong": "wrong", "truncated": "unparsed"}.get(made, "correct"), rollout.id
        assert (rollout.finish_reason == "length") == (made == "truncated")
