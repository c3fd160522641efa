"""Rollouts to judge, and the flags of two judges."""

import pytest
from judging import read


@pytest.fixture
def rollouts(sample):
    return read(sample / "rollouts.jsonl")


@pytest.fixture
def offline(sample):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=offline"]


@pytest.fixture
def gemini(sample):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", "--limit=16"]
