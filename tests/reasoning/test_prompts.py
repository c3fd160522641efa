"""The prompts: the paper's are its own words; each has a version that changes with its text."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

from mede2_jax.reasoning import prompts
from mede2_jax.reasoning.rubric import NAMES

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {
    "system/1": "9ea0d4f30ebe4c6a",
    "judge-paper/1": "9cbd3a6a295da0be",
    "judge-reasons/1": "c6b5e1b466da6646",
    "judge-again/1": "979c1a67ddfd4758",
    "judge-same-answer/1": "3fbe4d9135fd1682",
    "question-type/1": "522487890038a089",
    "question-refinement/1": "f2800c70af3c92ee",
    "reasoning-expansion/1": "34ab7a6959de4c1b",
    "demonstration-rating/1": "78dffe549983ecd0",
    "vision/1": "d5a4d07d32b3b825",
    "diagnosis/1": "e580ed920e96bf02",
}
"""Beginning of each text's digest. A text that is to change gets another version here and in prompts.py: records name the one they were
made with."""


def every_prompt():
    return [value for value in vars(prompts).values() if isinstance(value, prompts.Prompt)]


def test_a_text_does_not_change_without_its_version():
    assert {prompt.title: hashlib.sha256(prompt.text.encode()).hexdigest()[:16] for prompt in every_prompt()} == KNOWN


def words(text):
    """Without what a text loses in a PDF: line breaks, bullets, the escapes of code."""
    text = re.sub(r"\{QUESTION\}|\{TRUTH\}|\{RESPONSE\}", "%s", text).replace(r"\%s", "%s")
    return " ".join(re.sub(r"(?m)^[-*]( \*)? |```", " ", text).split())


def test_the_papers_prompts_are_its_own_words():
    paper = ROOT.parent / "shared" / "paper" / "mede2_paper.txt"
    if not paper.exists():
        pytest.skip("the paper's text is not beside the checkout")
    text = paper.read_text("utf-8")
    assert words(prompts.JUDGE_PAPER.text) in words(text)
    assert prompts.SYSTEM.text in text


def test_the_reasons_prompt_asks_for_the_same_aspects():
    task = prompts.JUDGE_PAPER.text.partition("JSON format:")[0]
    assert prompts.JUDGE_REASONS.text.startswith(task)
    for prompt in prompts.JUDGES.values():
        shown = json.loads(re.search(r"\{\n.*?\n\}", prompt.text, re.DOTALL)[0])
        assert list(shown) == list(NAMES.values())
        assert [prompt.text.count(place) for place in ("{QUESTION}", "{TRUTH}", "{RESPONSE}")] == [1, 1, 1]


def test_origins_are_said():
    assert {prompt.title: prompt.origin.split(",")[0] for prompt in every_prompt()} == {
        "system/1": "paper",
        "judge-paper/1": "paper",
        "judge-reasons/1": "ours",
        "judge-again/1": "ours",
        "judge-same-answer/1": "ours",
        "question-type/1": "ours",
        "question-refinement/1": "ours",
        "reasoning-expansion/1": "ours",
        "demonstration-rating/1": "ours",
        "vision/1": "ours",
        "diagnosis/1": "ours",
    }


def test_the_sample_has_the_papers_system_turn(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "data"))
    sys.modules.pop("make_sample", None)
    import make_sample

    assert prompts.SYSTEM.text == make_sample.SYSTEM_PROMPT
