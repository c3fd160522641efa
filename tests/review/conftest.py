"""The sample's responses, judged."""

import pytest

from mede2_jax.judge.__main__ import main as judge


@pytest.fixture(scope="session")
def judged(sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("judged") / "judgments.jsonl"
    judge([f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=offline", f"--out={out}"])
    return out
