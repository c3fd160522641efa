"""Runs of the command that tests begin with, and how they are read."""

import pytest
from chat_server import ChatServer, model_tokenise

from mede2_jax.rollout.__main__ import main


@pytest.fixture(scope="session")
def tokenise(tiny_model):
    return model_tokenise(tiny_model)


@pytest.fixture(scope="session")
def base(tiny_model, sample):
    """What every run here has."""
    return [f"--model={tiny_model}", f"--questions={sample / 'questions.jsonl'}", "--max_tokens=64"]


@pytest.fixture(scope="session")
def unbroken(base, tokenise, tmp_path_factory):
    """A run that nothing went wrong with."""
    out = tmp_path_factory.mktemp("unbroken") / "rollouts.jsonl"
    with ChatServer(tokenise=tokenise) as server:
        main([*base, f"--out={out}", f"--base_url={server.url}"])
    return out
