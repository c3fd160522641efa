"""A judge behind a server with ways of its own: asked as it takes it, and the file says how."""

import json

import pytest
from chat_server import ChatServer
from judging import manifest, read, reply

from mede2_jax.judge.__main__ import main


class Judge(ChatServer):
    """Judges; refuses the fields in `refused`, and puts its judgment into `envelope`."""

    def __init__(self, refused=(), envelope="{}"):
        super().__init__(change=self.said)
        self.refused, self.envelope, self.asked = refused, envelope, []

    def said(self, found):
        found["choices"][0] |= {"message": {"role": "assistant", "content": self.envelope.replace("{}", reply())}, "finish_reason": "stop"}
        return found

    def answer(self, body, headers):
        self.asked.append(body)
        if refused := [name for name in self.refused if name in body]:
            error = {"message": f"Unsupported parameter: '{refused[0]}' is not supported with this model.", "param": refused[0]}
            return 400, {}, json.dumps({"error": error}).encode()
        return super().answer({"n": 1, "seed": 0, "max_tokens": body.get("max_completion_tokens"), **body}, headers)


@pytest.fixture
def judge_with(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def judge(server, *flags):
        out = tmp_path / "j.jsonl"
        flags = ["--judge=openai", "--model=m", "--temperature=0.5", f"--base_url={server.url}", "--cache=none", "--patience=30", *flags]
        main([f"--rollouts={sample / 'rollouts.jsonl'}", f"--out={out}", *flags])
        return out, capsys.readouterr().out

    return judge


def test_what_a_server_does_not_take_is_said_and_counted(judge_with):
    with Judge(("max_tokens", "temperature", "seed")) as server:
        out, said = judge_with(server, "--limit=3", "--concurrency=1")
        assert f"{server.url} takes no temperature=0.5 and no seed: asked without, so that its own way holds; and max_tokens as" in said
        assert len(server.asked) == 3 + 3
        assert "asked without" in said and "3: temperature, which the API does not take" in said
        assert manifest(out)["counts"]["asked_without"] == {"seed": 3, "temperature": 3}
        # Known of each judgment, so that it is counted in every run that goes on with the file.
        judge_with(server, "--limit=5", "--concurrency=1")
    assert manifest(out)["counts"]["asked_without"] == {"seed": 5, "temperature": 5}
    assert [judgment["usage"]["without"] for judgment in read(out)] == [["seed", "temperature"]] * 5


def test_a_server_that_takes_all_leaves_no_word_of_it(judge_with):
    with Judge() as server:
        out, said = judge_with(server, "--limit=3")
    assert "without" not in said and manifest(out)["counts"]["asked_without"] == {}
    assert not [judgment for judgment in read(out) if "without" in judgment["usage"]]


@pytest.mark.parametrize(
    "envelope",
    [
        '<think>The form is {"Answer_Correctness": "Yes/No"}, and I fill it in.</think>\n{}',
        '```json\n{"draft": 1}\n```\nFinal:\n```json\n{}\n```',
        "Here is my evaluation:\n\n{}\n\nLet me know {if} you need more.",
        "{}\n{}",
        "<think>hm</think>\n\n```\n{}\n```",
    ],
)
def test_a_good_judgment_is_read_at_the_first_reply(judge_with, envelope):
    with Judge(envelope=envelope) as server:
        out, _ = judge_with(server, "--limit=4")
        assert len(server.requests) == 4
    assert all(judgment["usage"]["calls"] == 1 and judgment["reflection"]["met"] for judgment in read(out)) and len(read(out)) == 4


def test_two_judgments_that_differ_are_asked_for_again(judge_with):
    with Judge(envelope=f"{{}} or {reply('reflection')}") as server, pytest.raises(Exception, match="nothing could be judged"):
        judge_with(server, "--limit=2", "--attempts=2")
    assert len(server.requests) == 4
    assert "it holds objects that differ, in 'Reflection_Presence'" in str(server.asked[-1]["messages"])
