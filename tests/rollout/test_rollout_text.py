"""The text of a rollout is that of its token ids, whatever the server makes of them."""

import json
import shutil

import pytest
from chat_server import ChatServer, model_tokenise
from transformers import AutoTokenizer

from mede2_jax.config import UserError
from mede2_jax.rollout.__main__ import main

SPECIAL = ["<think>", "</think>", "<answer>", "</answer>"]


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """A model directory whose tokenizer has the tags as special tokens."""
    folder = tmp_path_factory.mktemp("special") / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    assert len(tokenizer("<answer>", add_special_tokens=False)["input_ids"]) == 1
    return folder


def sampled(model, sample, out, change):
    flags = [f"--questions={sample / 'questions.jsonl'}", "--limit=4", "--n=3", "--max_tokens=200", "--logprobs"]
    with ChatServer(tokenise=model_tokenise(model), change=change) as server:
        main([f"--model={model}", *flags, f"--out={out}", f"--base_url={server.url}"])
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def without_tags(reply):
    for choice in reply["choices"]:
        for tag in SPECIAL:
            choice["message"]["content"] = choice["message"]["content"].replace(tag, "")
    return reply


def test_tags_that_are_special_tokens_stay(model, sample, tmp_path, capsys):
    whole = sampled(model, sample, tmp_path / "whole.jsonl", None)
    assert "not those of their token ids" not in capsys.readouterr().out
    restored = sampled(model, sample, tmp_path / "restored.jsonl", without_tags)
    assert "not those of their token ids" in capsys.readouterr().out.replace("\n", " ")
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = {rollout["id"]: rollout["response"] for rollout in whole}
    assert texts == {rollout["id"]: rollout["response"] for rollout in restored}
    assert {rollout["id"]: tokenizer.decode(rollout["token_ids"][:-1]) for rollout in whole} == texts
    assert sum(text.count("</think>") for text in texts.values()) >= 10


def test_a_thought_that_was_set_aside_ends_the_run(model, sample, tmp_path):
    def aside(reply):
        for choice in reply["choices"]:
            message = choice["message"]
            message["reasoning_content"], _, message["content"] = message["content"].rpartition("</think>")
        return reply

    with pytest.raises(UserError, match="out of their text, into reasoning_content; start it without --reasoning-parser"):
        sampled(model, sample, tmp_path / "r.jsonl", aside)
    assert not (tmp_path / "r.jsonl").exists() or not (tmp_path / "r.jsonl").read_text()
