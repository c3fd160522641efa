"""Same replies, same scores, whoever gives them: a server as vLLM's, an API of either wire format, and a file of replies alone.

Replies come from a stored table by what the user says, so every route gets the same ones: in an answer tag, as plain answers, in boxes,
as words, unreadable, and cut.
"""

import hashlib
import json

import pytest
from chat_server import END, ChatServer
from evaluating import flags, lines, result
from gemini_server import KEY, GeminiServer
from task_files import write_jsonl
from test_evaluate_api import asked

from mede2_jax.evaluate.__main__ import main
from mede2_jax.score.__main__ import main as score
from mede2_jax.tasks.catalogue import find_task, open_items

TABLE = [
    *[f"<think> so it is </think> <answer> {letter} </answer>" for letter in "AABBC"],
    *[f"Thinking of it, the answer is {letter}" for letter in "ABC"],
    *["\\boxed{A}", "\\boxed{b}", "Answer: C", "**B**", "(A) True", "yes", "effusion", "2", "finding 1", "I cannot tell."],
    *["<think> it goes on and on", "<answer> neither of them </answer>", "D is wrong. A is right."],
]
CUT = "<think> it goes on and on"


def told(said):
    """The reply to what the user says last."""
    return TABLE[int(hashlib.sha256(said.encode()).hexdigest(), 16) % len(TABLE)]


class Told(ChatServer):
    """Answers from the table."""

    def choice(self, body, prompt, index):
        content = body["messages"][-1]["content"]
        said = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        turns = "".join(str(turn["content"]) for turn in body["messages"] if turn["role"] == "assistant")
        text = told(said + turns)
        message = {"role": "assistant", "content": text}
        end, last = ("length", []) if text == CUT else ("stop", [END])
        return {"index": index, "message": message, "finish_reason": end, "token_ids": [*self.response_ids(text), *last]}


def gemini_told():
    def said(body):
        texts = ["".join(part.get("text", "") for part in content["parts"]) for content in body["contents"]]
        return texts[-1] + "".join(text for text, content in zip(texts, body["contents"], strict=True) if content["role"] == "model")

    server = GeminiServer(say=lambda body, texts, images: told(said(body)))
    server.faults = lambda number, body: server.reply(body, finishReason="MAX_TOKENS") if told(said(body)) == CUT else None
    return server


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "loopback-key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--shuffle_options=1,2"], ["--mode=official"]], ids=["plain", "shuffled", "official"])
def test_same_replies_same_scores(everywhere, tiny_model, tokenise, tmp_path, more):
    # No options to shuffle, or none but in the picture; and in mode official a judge decides.
    left_out = {"--shuffle_options=1,2": ("mmmu_pro_vision", "diagnosisarena_open"), "--mode=official": ("diagnosisarena_open",)}
    tasks = [name for name in everywhere if name not in left_out.get("".join(more), ())]
    outs = {name: tmp_path / name / "out" for name in ("vllm", "openai", "gemini")}
    more = ["--prompt=mede2,official", *more]
    with Told(tokenise=tokenise) as server:
        main(flags(tasks, everywhere, tiny_model, outs["vllm"], server, *more))
        main(asked(tasks, everywhere, outs["openai"], server, *more))
    with gemini_told() as server:
        main(asked(tasks, everywhere, outs["gemini"], server, *more))
    ends = {"cut": 0, "unparsed": 0, "correct": 0, "wrong": 0}
    for name in tasks:
        task = find_task(name)
        for prompt in ("mede2", *task.prompts):
            verdicts = {route: (out / task.name / prompt / "verdicts.jsonl").read_bytes() for route, out in outs.items()}
            assert verdicts["vllm"] == verdicts["openai"] == verdicts["gemini"], (name, prompt)
            scores = [result(out, task.name, prompt) for out in outs.values()]
            for key in ("overall", "by", "at", "steps", "unparsed", "prompts", "data"):
                assert scores[0][key] == scores[1][key] == scores[2][key], (name, prompt, key)
            ends = {key: count + scores[0]["overall"][key] for key, count in ends.items()}
    assert min(ends.values()) > 0, f"replies of every kind are among them: {ends}"


def test_a_file_of_the_same_replies_has_the_same_scores(everywhere, tmp_path):
    """Ids and texts alone, in anybody's columns."""
    out = tmp_path / "openai" / "out"
    with Told() as server:
        main(asked(list(everywhere), everywhere, out, server))
    for name, folder in everywhere.items():
        task = find_task(name)
        rows = [row for row in lines(out / "rollouts.jsonl") if row["source"] == task.name]
        plain = [{"qid": row["metadata"]["item"], "said": row["response"], "finish_reason": row["finish_reason"]} for row in rows]
        file = write_jsonl(tmp_path / f"{task.name}.jsonl", plain)
        columns = ["--columns.id=qid", "--columns.response=said", "--prompt=mede2"]
        score([f"--task={name}", f"--data={folder}", f"--responses={file}", f"--out={tmp_path / 'hand' / task.name}", *columns])
        verdicts = tmp_path / "hand" / task.name / "verdicts.jsonl"
        assert verdicts.read_bytes() == (out / task.name / "mede2" / "verdicts.jsonl").read_bytes()
        overall = json.loads((tmp_path / "hand" / task.name / "score.json").read_text())["overall"]
        assert overall == result(out, task.name, "mede2")["overall"]
        assert overall["items"] == len(open_items(task, folder).items) == 3
