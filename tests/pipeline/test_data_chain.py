"""From a bank to demonstrations and a trained model, command by command, by servers of both APIs' wire formats on loopback; and steps
that ask an API, killed and under faults."""

import json
import random

import pytest
from chat_server import ChatServer
from gemini_server import KEY, Drop, GeminiServer, blocked, error
from killed_lives import Lives

from mede2_jax.bank.__main__ import main as bank
from mede2_jax.command import run_command
from mede2_jax.curate.__main__ import main as curate
from mede2_jax.data.records import Question, Remark
from mede2_jax.distill.__main__ import main as distill
from mede2_jax.rollout.__main__ import main as rollout
from mede2_jax.trace.__main__ import main as trace
from mede2_jax.train.__main__ import main as train

THOUGHT = (
    "I begin with what the case tells, and go from there to what it could mean. The age and the onset speak for one cause "
    "more than for the others. What I would expect of the others is missing here, so each of them becomes less likely. "
    "I check the numbers again, and they agree with it. Is there anything that would speak against it? I find nothing."
)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "loopback-key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def verdicts(*names):
    return json.dumps({name: {"Reason": "so", "Verdict": said} for name, said in names})


class Knows:
    """What a model says that knows the questions of a bank: every kind of request has its answer."""

    def __init__(self, path):
        self.questions = [(self.stem(one), one) for one in map(Question.model_validate, read(path))]

    @staticmethod
    def stem(question):
        """What no other question says: the longest of its texts, without the choices and the first sentence, which may be taken out."""
        content = question.prompt[-1].content
        texts = [content] if isinstance(content, str) else [part.text for part in content if part.type == "text"]
        stem = max(texts, key=len).partition("\nAnswer Choices")[0]
        return stem.partition(". ")[2] or stem

    def __call__(self, text):
        said = text.replace("\\n", "\n").replace('\\"', '"')
        stem, question = next((stem, question) for stem, question in self.questions if stem in said)
        if "Pattern_Recognition" in text:
            return verdicts(("Pattern_Recognition", "Yes" if len(stem) % 3 == 0 else "No"), ("Knowledge_Recall", "No"))
        if '"Removed"' in text:
            data = json.loads(text[text.index('{\n    "question"') :])["question"]
            first = data.split(". ")[0] + "." if len(data) % 2 else ""
            return json.dumps({"Removed": [first] if first else [], "Question": data.replace(first, "")})
        if "Plausible_Reasoning" in text:
            return verdicts(("Correct_Answer", "Yes"), ("Logical_Structure", "Yes"), ("Plausible_Reasoning", "Yes"))
        if "<expanded>" in text:
            return f"<expanded> {THOUGHT} </expanded>"
        return f"<think> In short. </think> <answer> {question.answer} </answer>"


class Reasons(ChatServer):
    """A teacher whose thought comes in a field of its own."""

    knows = None

    def choice(self, body, prompt, index):
        text = "\n".join(part["text"] for message in body["messages"] for part in parts(message) if part["type"] == "text")
        answer = self.knows(text).partition("</think>")[2].strip()
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer, "reasoning_content": THOUGHT},
            "finish_reason": "stop",
            "token_ids": [1],
        }


def parts(message):
    return message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]


@pytest.fixture(scope="module")
def banked(tmp_path_factory):
    """The sample's bank."""
    folder = tmp_path_factory.mktemp("bank")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        bank([])
    return folder / "runs" / "bank.jsonl"


def google(server, folder):
    return [
        "--engine=gemini",
        "--api_model=gemini-2.5-pro",
        f"--base_url={server.url}",
        f"--cache={folder / 'cache'}",
        "--max_tokens=20000",
    ]


@pytest.mark.slow
def test_the_whole_chain_from_a_bank_to_a_model_that_was_trained(banked, tmp_path, tiny_model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # nothing is folded
    knows = Knows(banked)
    at = {
        name: tmp_path / f"{name}.jsonl"
        for name in ("s1", "types", "s2", "one", "two", "s3", "refined", "curated", "brief", "long", "whole", "d", "ratings")
    }
    with GeminiServer(say=lambda body, texts, images: knows("\n".join(texts))) as gemini, Reasons() as openai:
        openai.knows = knows
        api, teacher = (
            google(gemini, tmp_path),
            ["--engine=openai", "--api_model=tiny", f"--base_url={openai.url}", f"--cache={tmp_path / 'c'}"],
        )
        curate([f"--questions={banked}", f"--out={at['s1']}", "--steps=duplicates"])
        rollout([f"--questions={at['s1']}", f"--out={at['types']}", "--ask=type", "--n=1", *api])
        curate([f"--questions={at['s1']}", f"--out={at['s2']}", "--steps=type", f"--type.rollouts={at['types']}"])
        for name, how in (("one", api), ("two", teacher)):
            rollout([f"--questions={at['s2']}", f"--out={at[name]}", "--n=4", "--max_tokens=2000", *how])
        curate([f"--questions={at['s2']}", f"--out={at['s3']}", "--steps=solvability", f"--solvability.rollouts={at['one']},{at['two']}"])
        rollout([f"--questions={at['s3']}", f"--out={at['refined']}", "--ask=refinement", "--n=1", *api])
        curate([f"--questions={at['s3']}", f"--out={at['curated']}", "--steps=refinement", f"--refinement.rollouts={at['refined']}"])
        for name, how in (("brief", api), ("long", teacher)):
            rollout([f"--questions={at['curated']}", f"--out={at[name]}", "--n=1", "--max_tokens=2000", *how])
        rollout([f"--questions={at['brief']}", f"--out={at['whole']}", "--ask=expansion", "--n=1", *api])
        made = [f"--questions={at['curated']}", f"--rollouts={at['brief']},{at['long']}", f"--expansions={at['whole']}", f"--out={at['d']}"]
        distill(made)
        rollout([f"--questions={tmp_path / 'd.candidates.jsonl'}", f"--out={at['ratings']}", "--ask=rating", "--n=1", *api])
        distill([*made, f"--ratings={at['ratings']}"])
    for name in ("s1", "s2", "s3", "curated"):
        said = json.loads((tmp_path / f"{name}.jsonl.manifest.json").read_text())
        counts = [sum(stage.values()) for stage in said["counts"].values()]
        assert counts[0] - sum(sum(reasons.values()) for reasons in said["dropped"].values()) == counts[-1] == len(read(at[name]))
    dropped = read(tmp_path / "s2.dropped.jsonl")
    assert dropped and {one["reason"] for one in dropped} == {"its type is pattern recognition"}
    edits = read(tmp_path / "curated.refined.jsonl")
    assert any(one.get("removed") for one in edits) and any(one.get("kept") == "nothing to take out" for one in edits)
    demonstrations, said = read(at["d"]), json.loads((tmp_path / "d.jsonl.manifest.json").read_text())
    assert len(demonstrations) == len(read(at["curated"])) > 40 and said["counts"]["candidates"] == 2 * len(demonstrations)
    teachers = [one["metadata"]["distilled"]["teacher"] for one in demonstrations]
    assert abs(teachers.count("gemini/gemini-2.5-pro") - teachers.count("openai/tiny")) <= 1
    assert all(one["messages"][-1]["content"].startswith(f"<think> {THOUGHT} </think> <answer> ") for one in demonstrations)
    capsys.readouterr()
    trace([demonstrations[0]["id"], f"--demonstrations={at['d']}"])
    shown = " ".join(capsys.readouterr().out.split())
    for expected in (
        "plausible reasoning, by gemini/gemini-2.5-pro",
        "stays: it is in",
        "bank.jsonl",
        "types.jsonl",
        "ratings.jsonl",
        "whole.jsonl",
    ):
        assert expected in shown, expected
    trace([dropped[0]["id"], f"--curated={at['curated']}"])
    assert f"is left out of {at['s2']} by step type" in " ".join(capsys.readouterr().out.split())
    flags = [
        "--stage=sft",
        f"--model={tiny_model}",
        f"--data.path={at['d']}",
        f"--output={tmp_path / 'run'}",
        "--max_steps=2",
        "--compute_dtype=float32",
    ]
    train([*flags, "--data.row_tokens=2048", "--rows_per_step=8"])
    assert (tmp_path / "run" / "model" / "model.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["type", "rating"])
def test_killed_ten_times_nothing_that_came_is_asked_twice(banked, sample, tmp_path, ask):
    questions = banked if ask == "type" else sample / "rollouts.jsonl"
    knows, rng, out, whole = (
        Knows(sample / "questions.jsonl" if ask == "rating" else banked),
        random.Random(3),
        tmp_path / "killed.jsonl",
        tmp_path / "whole.jsonl",
    )
    lives = Lives([rng.randint(0, 4) for _ in range(10)], Drop)
    command = [f"--questions={questions}", f"--ask={ask}", "--n=1", "--limit=40", "--concurrency=1"]
    with GeminiServer(say=lambda body, texts, images: knows("\n".join(texts)), faults=lives) as server:
        lives.run("rollout", [*command, f"--out={out}", *google(server, tmp_path)], [out])
        assert set(server.delivered.values()) == {1} and len(server.bodies) == len(server.delivered) + 10
        rollout([*command, f"--out={whole}", *google(server, tmp_path / "other")])
    said = [[Remark.model_validate(one).model_copy(update={"usage": None}) for one in read(path)] for path in (out, whole)]
    assert sorted(said[0], key=lambda one: one.id) == sorted(said[1], key=lambda one: one.id) and len(said[0]) == 40


@pytest.mark.slow
def test_under_faults_every_question_has_a_reply_or_a_reason(banked, tmp_path, capsys):
    knows, rng, out = Knows(banked), random.Random(5), tmp_path / "types.jsonl"

    def faults(number, body):
        kind = rng.randint(0, 9)
        if kind == 0:
            return error(503, "UNAVAILABLE", "later")
        if kind == 1:
            return error(400, "INVALID_ARGUMENT", "never")
        if kind == 2:
            return blocked(body, "PROHIBITED_CONTENT")
        if kind == 3:
            raise Drop
        return None

    command = [f"--questions={banked}", "--ask=type", "--n=1", f"--out={out}", "--first_rest=0.01", "--longest_rest=0.05"]
    with GeminiServer(say=lambda body, texts, images: knows("\n".join(texts)), faults=faults) as server:
        rollout([*command, *google(server, tmp_path)])
        said = json.loads(out.with_name("types.jsonl.manifest.json").read_text())
        there, failed = {one["parents"][0] for one in read(out)}, {one["question"] for one in said["failed"]}
        wanted = {one["id"] for one in read(banked) if one["images"]}
        assert there | failed == wanted and not there & failed and failed and len(read(out)) == len(there)
        server.faults = None
        rollout([*command, *google(server, tmp_path)])
        assert set(server.delivered.values()) == {1}
    assert {one["parents"][0] for one in read(out)} == wanted
    with GeminiServer(say=lambda body, texts, images: knows("\n".join(texts))) as server:
        costly = [
            *command[:3],
            f"--out={tmp_path / 'costly.jsonl'}",
            *google(server, tmp_path / "new"),
            "--max_cost=0.02",
            "--concurrency=16",
        ]
        with pytest.raises(SystemExit):
            run_command(rollout, costly)
        assert "max_cost" in capsys.readouterr().err and server.billed <= 0.02
