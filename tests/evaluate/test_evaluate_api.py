"""Benchmarks asked of paid APIs, against servers on loopback that speak their wire formats: no model directory, no processor."""

import json
import re

import pytest
from chat_server import ChatServer
from evaluating import lines, result
from gemini_server import KEY, GeminiServer, blocked

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.evaluate.__main__ import main
from mede2_jax.score.__main__ import main as score
from mede2_jax.tasks.catalogue import find_task, open_items

PRICES = "as_of: 2026-10-07\nmodels:\n  - {name: tiny, input: 1.0, output: 2.0}\n"


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "loopback-key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


def right(body, texts, images):
    """The letter of the case, `A` for the first."""
    found = re.search(r"(?:Case|number) (\d)", " ".join(texts))
    return f"<think> so </think> <answer> {'ABC'[int(found[1])] if found else 'A'} </answer>"


@pytest.fixture
def gemini():
    with GeminiServer(say=right) as server:
        yield server


@pytest.fixture
def openai():
    with ChatServer() as server:
        yield server


def asked(tasks, data, out, server, *more):
    engine = ["gemini", "gemini-2.5-pro"] if isinstance(server, GeminiServer) else ["openai", "tiny"]
    return [
        f"--task={','.join(tasks)}",
        f"--data={','.join(str(data[name]) for name in tasks)}",
        f"--out={out}",
        f"--engine={engine[0]}",
        f"--api_model={engine[1]}",
        f"--base_url={server.url}",
        f"--cache={out.parent / 'cache.sqlite'}",
        "--max_tokens=400",
        *more,
    ]


def manifest(out, name="rollouts.jsonl"):
    return json.loads((out / f"{name}.manifest.json").read_text("utf-8"))


def test_gemini_is_asked_with_all_images_and_scored_with_what_it_cost(data, gemini, tmp_path, capsys):
    out = tmp_path / "out"
    main(asked(["medqa", "medxpertqa_mm"], data, out, gemini))
    rows = lines(out / "rollouts.jsonl")
    assert len(rows) == len(gemini.bodies) == 6
    shown = {sum("inlineData" in part for part in body["contents"][0]["parts"]) for body in gemini.bodies}
    assert shown == {0, 6, 2, 1}
    assert all(body["systemInstruction"] and body["generationConfig"]["temperature"] == 0 for body in gemini.bodies)
    assert {row["model"] for row in rows} == {"gemini/gemini-2.5-pro"} and {row["usage"]["model"] for row in rows} == {"gemini-2.5-pro"}
    assert sum(row["usage"]["cost"] for row in rows) == pytest.approx(gemini.billed)
    output = [usage["candidatesTokenCount"] + usage["thoughtsTokenCount"] for usage in gemini.bill]
    assert sorted(row["response_tokens"] for row in rows) == sorted(output), "thoughts are paid for"
    for task in ("medqa", "medxpertqa_mm"):
        found = result(out, task, "mede2")
        assert (found["overall"]["correct"], found["overall"]["items"]) == (3, 3)
        assert found["sampled"]["engine"] == "gemini" and found["sampled"]["model"]["name"] == "gemini-2.5-pro"
        assert found["api"]["answered_by"] == {"gemini-2.5-pro": 3} and found["sampled"]["answered_by"] == {"gemini-2.5-pro": 6}
    parts = [result(out, task, "mede2")["api"]["cost"]["samples"] for task in ("medqa", "medxpertqa_mm")]
    assert sum(parts) == pytest.approx(gemini.billed, abs=2e-6)
    summary = json.loads((out / "evaluation.json").read_text())
    assert [one["api"]["cost"]["samples"] for one in summary["scores"]] == parts
    printed = capsys.readouterr().out
    assert f"${gemini.billed:,.4f}" in printed and "gemini-2.5-pro" in printed
    assert manifest(out)["config"]["concurrency"] == 16, "the API's own default, not a vLLM server's"
    assert KEY not in "".join(path.read_text(errors="replace") for path in out.rglob("*.json*"))


def test_what_is_there_is_asked_and_paid_once_and_what_is_cached_not_again(data, gemini, tmp_path, monkeypatch):
    out = tmp_path / "out"
    main(asked(["medqa"], data, out, gemini, "--limit=2"))
    main(asked(["medqa"], data, out, gemini))
    assert len(gemini.bodies) == 3 and set(gemini.delivered.values()) == {1}
    whole = (out / "rollouts.jsonl").read_text()
    other = tmp_path / "other"
    main(asked(["medqa"], data, other, gemini))
    assert len(gemini.bodies) == 3
    costs = manifest(other)["cost"]
    assert costs["samples"] == costs["from_cache"] == manifest(out)["cost"]["samples"] > 0 == manifest(out)["cost"]["from_cache"]
    monkeypatch.delenv("GEMINI_API_KEY")
    main(asked(["medqa"], data, out, gemini))
    assert (out / "rollouts.jsonl").read_text() == whole, "all is there: nothing is asked, so no key is needed"
    with pytest.raises(UserError, match="no API key: set GEMINI_API_KEY"):
        main(asked(["medqa"], data, tmp_path / "third", gemini))
    assert not list((tmp_path / "third").glob("*"))


@pytest.mark.parametrize("name", ["gemini", "openai"])
def test_n_samples_are_n_outcomes_with_their_own_seeds(data, request, name, tmp_path):
    server, out = request.getfixturevalue(name), tmp_path / "out"
    main(asked(["medqa"], data, out, server, "--n=3", "--temperature=1"))
    main(asked(["medqa"], data, out, server, "--n=4", "--temperature=1"))
    bodies = server.bodies if name == "gemini" else server.requests
    seeds = [body["generationConfig"]["seed"] if name == "gemini" else body["seed"] for body in bodies]
    assert len(set(seeds)) == len(seeds) == 12 and sorted(seeds) == sorted(row["seed"] for row in lines(out / "rollouts.jsonl"))
    found = result(out, "medqa", "mede2")
    assert found["overall"]["samples"] == 12 and list(found["at"]["pass"]) == ["1", "2", "4"]


@pytest.mark.parametrize("name", ["gemini", "openai"])
def test_two_turns(data, request, name, tmp_path):
    server, out = request.getfixturevalue(name), tmp_path / "out"
    main(asked(["medqa"], data, out, server, "--prompt=cot"))
    first = {row["parents"][0]: row for row in lines(out / "rollouts.jsonl")}
    second = lines(out / "second_turns.jsonl")
    assert len(first) == len(second) == 3
    for row in second:
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user", "assistant", "user"]
        assert row["prompt"][2]["content"] == first[row["parents"][0]]["response"]
    bodies = server.bodies if name == "gemini" else server.requests
    turns = sorted(len(body["contents"] if name == "gemini" else body["messages"]) for body in bodies)
    assert turns == ([1, 1, 1, 3, 3, 3] if name == "gemini" else [2, 2, 2, 4, 4, 4])
    both = sum(row.get("usage", {}).get("cost", 0) for row in [*first.values(), *second])
    assert result(out, "medqa", "cot")["api"]["cost"]["samples"] == pytest.approx(both, abs=1e-6)
    task, items = find_task("medqa"), open_items(find_task("medqa"), data["medqa"]).by_id
    verdicts = {row["id"]: row["read"] for row in lines(out / "medqa" / "cot" / "verdicts.jsonl")}
    for row in second:
        item = items[row["parents"][0].rpartition("/")[2]]
        assert verdicts[item.id] == task.rule(item, "cot").read(row["response"]).answer


def test_gemini_refused_cut_and_failed_are_counted_as_such(data, tmp_path):
    """One of each kind: a blocked prompt, a blocked response, thoughts that used all up, a reply that was cut, and a fault."""
    out, tasks = tmp_path / "out", ["medqa", "medxpertqa_text"]
    server = GeminiServer(say=lambda body, texts, images: "so " * 900 if "Case 2" in texts[1] else right(body, texts, images))

    def faults(number, body):
        texts = json.dumps(body["contents"])
        if "Case 0" in texts:
            return blocked(body, "PROHIBITED_CONTENT")
        if "Case 1" in texts:
            return server.reply(body, content={}, finishReason="SAFETY")
        if "number 0" in texts:
            return server.reply(body, content={}, finishReason="MAX_TOKENS")
        if "number 1" in texts:
            return 400, {}, b'{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}'
        return None

    server.faults = faults
    run = asked(tasks, data, out, server)
    with server:
        main(run)
        asked_first = len(server.bodies)
        overall = {task: result(out, task, "mede2")["overall"] for task in tasks}
        ends = {task: [one[name] for name in ("items", "correct", "cut", "refused", "failed")] for task, one in overall.items()}
        assert ends == {"medqa": [3, 0, 1, 2, 0], "medxpertqa_text": [3, 1, 1, 0, 1]}
        main(run)
        assert len(server.bodies) == asked_first + 1, "what failed is tried again, a refusal is an answer"
    rows = {row["parents"][0]: row for row in lines(out / "rollouts.jsonl")}
    assert "the prompt was blocked: PROHIBITED_CONTENT" in rows["medqa/mede2/medqa-0"]["reason"]
    assert rows["medqa/mede2/medqa-1"]["finish_reason"] == "refusal" and rows["medqa/mede2/medqa-1"]["response"] == ""
    assert rows["medxpertqa_text/mede2/Text-0"]["finish_reason"] == "length" and rows["medqa/mede2/medqa-2"]["finish_reason"] == "length"
    assert sum(row["usage"]["cost"] for row in rows.values()) == pytest.approx(server.billed), "a refusal is paid for"
    score(["--task=medqa", f"--data={data['medqa']}", f"--responses={out / 'rollouts.jsonl'}", f"--out={tmp_path / 'hand'}"])
    assert json.loads((tmp_path / "hand" / "score.json").read_text())["overall"] == overall["medqa"]


def test_openai_refused_and_filtered_are_counted_as_such(data, tmp_path):
    out = tmp_path / "out"

    def faults(number, body):
        text = json.dumps(body["messages"])
        if "Case 0" in text:
            said = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
            choice = {"index": 0, "message": said, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 6}
            return 200, {}, json.dumps({"model": "tiny-2026", "choices": [choice], "usage": usage}).encode()
        if "Case 1" in text:
            return 400, {}, json.dumps({"error": {"message": "the prompt was filtered", "code": "content_filter"}}).encode()
        return None

    with ChatServer(faults=faults) as server:
        run = asked(["medqa"], data, out, server, "--prompt=mede2,cot")
        main(run)
        first = len(server.requests)
        for prompt in ("mede2", "cot"):
            overall = result(out, "medqa", prompt)["overall"]
            assert (overall["refused"], overall["failed"], overall["items"]) == (2, 0, 3)
        main(run)
        assert len(server.requests) == first
    reasons = {row["parents"][0]: row.get("reason") for row in lines(out / "second_turns.jsonl")}
    assert reasons["medqa/cot/medqa-0"] == "the first turn: the model refused: I cannot help with that."
    assert "the prompt was filtered" in reasons["medqa/cot/medqa-1"] and reasons["medqa/cot/medqa-2"] is None
    assert len([body for body in server.requests if len(body["messages"]) == 4]) == 1, "nothing is said to who refused"
    assert result(out, "medqa", "mede2")["api"]["answered_by"] == {"tiny": 1, "tiny-2026": 1}


def test_max_cost_ends_the_run_and_the_next_one_goes_on(data, gemini, tmp_path, capsys):
    out, tasks = tmp_path / "out", ["medqa", "medbullets_op5"]
    run = asked(tasks, data, out, gemini, "--prompt=cot", "--concurrency=1")
    # A reply takes at most 400 tokens, 0.004 dollars, and a prompt some hundred bytes: this is enough for a few of the twelve.
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*run, "--max_cost=0.006"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "max_cost=0.006 US dollars is reached" in error and "what was answered is kept: raise --max_cost to go on" in error
    kept = sum(len(lines(out / name)) for name in ("rollouts.jsonl", "second_turns.jsonl") if (out / name).exists())
    assert 0 < kept == len(gemini.bodies) < 12 and not (out / "evaluation.json").exists()
    rounds = 0
    while not (out / "evaluation.json").exists() and (rounds := rounds + 1) < 20:
        before = gemini.billed
        try:
            main([*run, "--max_cost=0.006"])
        except UserError as fault:
            assert "is reached" in str(fault)
        assert gemini.billed - before <= 0.006, "one budget for first and second turns together"
    assert set(gemini.delivered.values()) == {1} and len(gemini.bodies) == 12
    whole = tmp_path / "whole" / "out"
    whole.parent.mkdir()
    main(asked(tasks, data, whole, gemini, "--prompt=cot"))
    for name in ("rollouts.jsonl", "second_turns.jsonl"):
        assert without_cost(whole / name) == without_cost(out / name)
    for task in tasks:
        assert (whole / task / "cot" / "verdicts.jsonl").read_bytes() == (out / task / "cot" / "verdicts.jsonl").read_bytes()


def without_cost(path):
    rows = {row["id"]: row for row in lines(path)}
    for row in rows.values():
        row["usage"] = {name: value for name, value in row["usage"].items() if "cost" not in name}
    return rows


def test_prices_and_budgets_of_another_server(data, openai, tmp_path):
    with pytest.raises(UserError, match=r"max_cost=1, but there is no price of 'tiny' in the package's prices of "):
        main(asked(["medqa"], data, tmp_path / "a", openai, "--max_cost=1"))
    (tmp_path / "prices.yaml").write_text(PRICES)
    main(asked(["medqa"], data, tmp_path / "b", openai, "--max_cost=1", f"--prices={tmp_path / 'prices.yaml'}"))
    rows = lines(tmp_path / "b" / "rollouts.jsonl")
    assert sum(row["usage"]["cost"] for row in rows) == pytest.approx(
        sum(row["prompt_tokens"] + 2 * row["response_tokens"] for row in rows) / 1e6
    )


def test_another_model_or_engine_in_the_same_folder_is_refused(data, gemini, openai, tmp_path):
    out = tmp_path / "out"
    main(asked(["medqa"], data, out, gemini))
    with pytest.raises(UserError, match=r"begun otherwise \(api_model: gemini-2.5-pro then, gemini-2.5-flash now\)"):
        main(["--api_model=gemini-2.5-flash", *(one for one in asked(["medqa"], data, out, gemini) if "api_model" not in one)])
    with pytest.raises(UserError, match=r"begun otherwise \(thinking: none then, 0 now\)"):
        main(asked(["medqa"], data, out, gemini, "--thinking=0"))
    with pytest.raises(UserError, match=r"begun otherwise \(.*api_model: gemini-2.5-pro then, tiny now.*engine: gemini then, openai now"):
        main(asked(["medqa"], data, out, openai))
    main(asked(["medqa"], data, out, gemini, "--concurrency=2", "--patience=9", "--max_cost=3", "--first_rest=0.1"))
    assert len(gemini.bodies) == 3 and not openai.requests


def test_a_model_of_ours_does_not_go_on_with_an_apis_file(data, gemini, tiny_model, tmp_path):
    out = tmp_path / "out"
    main(asked(["medqa"], data, out, gemini))
    with pytest.raises(UserError, match="was begun otherwise"):
        main(["--task=medqa", f"--data={data['medqa']}", f"--out={out}", f"--model={tiny_model}", "--engine=flax", "--max_tokens=400"])


@pytest.mark.parametrize("name", ["gemini", "openai"])
def test_a_dry_run_asks_nothing_and_needs_no_key(data, request, name, tmp_path, capsys, monkeypatch):
    server = request.getfixturevalue(name)
    monkeypatch.delenv("GEMINI_API_KEY")
    before = sorted(tmp_path.rglob("*"))
    main(asked(["mmmu_health", "medqa"], data, tmp_path / "out", server, "--dry_run", "--prompt=official"))
    shown = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before and not (server.bodies if name == "gemini" else server.requests)
    assert "[user] First ⟦image 2.png, 64×48⟧, then ⟦image 1.png, 64×48⟧." in shown
    assert "── mmmu_health/official/validation_Pharmacy_1\n" in shown and "tokens" not in shown
    assert "[system] You are a helpful medical assistant.\n[user] Q: Case 0?" in shown
    assert "── then, to the reply: Therefore, among A through D, the answer is" in shown


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--engine=gemini"], "engine=gemini needs a model: --api_model=NAME as the API calls it, such as gemini-2.5-pro"),
        (["--engine=openai", "--api_model=a b"], "--api_model"),
        (["--engine=openai", "--api_model=x", "--model=runs/m"], "engine=openai asks an API and has no use for model"),
        (["--engine=openai", "--api_model=x", "--logprobs"], "has no use for logprobs"),
        (["--engine=openai", "--api_model=x", "--vllm.dtype=float32"], "has no use for vllm"),
        (["--engine=openai", "--api_model=x", "--processor.max_pixels=9"], "has no processor of ours; leave out processor.max_pixels"),
        (["--engine=openai", "--api_model=x", "--thinking=3"], "thinking and block are Gemini's"),
        (["--engine=openai", "--api_model=x", "--base_url=http://a/v1,http://b/v1"], "asks one API, and base_url names 2"),
        (["--engine=openai", "--api_model=x", "--base_url=http://me:secret@a/v1"], "holds a name, password or key"),
        (["--engine=openai", "--api_model=x", "--max_cost=-1"], "--max_cost"),
        (["--engine=openai", "--api_model=x", "--timeout=100000"], "timeout"),
        (["--engine=chatgpt", "--api_model=x"], "--engine"),
        (["--model=runs/m", "--max_cost=3"], "max_cost is for engine=gemini or engine=openai"),
        (["--model=runs/m", "--api_model=gpt-4o"], "api_model is for engine=gemini or engine=openai"),
        ([], "missing --model"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, capsys, more, expected):
    with pytest.raises(SystemExit) as stop:
        run_command(main, ["--task=medqa", f"--data={data['medqa']}", f"--out={tmp_path / 'out'}", *more])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and expected in error and "secret" not in error
    assert not (tmp_path / "out" / "rollouts.jsonl").exists()
