"""From benchmarks' files to scores, against a server on loopback whose prompts are made by transformers' own classes."""

import json
import re
import shutil

import pytest
from benchmark_files import ITEMS, MAKERS, png, put
from chat_server import ChatServer, picture
from evaluating import flags, lines, result
from task_files import write_jsonl

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.evaluate.__main__ import main
from mede2_jax.score.__main__ import main as score
from mede2_jax.tasks.catalogue import find_task, open_items
from mede2_jax.trace.scores import of_score


@pytest.mark.slow
def test_all_benchmarks_in_all_their_owners_words_and_ours(data, tiny_model, server, tmp_path, capsys):
    out, tasks = tmp_path / "out", list(MAKERS)
    main(flags(tasks, data, tiny_model, out, server, "--prompt=mede2,official"))
    second = {row["id"].removesuffix("#0"): row for row in lines(out / "second_turns.jsonl")}
    first = {row["id"].removesuffix("#0"): row for row in lines(out / "rollouts.jsonl")}
    asked = 0
    for name in tasks:
        task, items = find_task(name), open_items(find_task(name), data[name]).items
        assert len(items) == ITEMS
        for prompt in ("mede2", *task.prompts):
            score, right = result(out, name, prompt), 0
            for item in items:
                row = (second if prompt in ("cot", "boxed") and "mmmu" not in name else first)[f"{name}/{prompt}/{item.id}"]
                right += f"<answer> {item.answer} </answer>" in row["response"] and bool(item.options)
                assert "then" not in row["metadata"] and row["metadata"] == {"prompt": prompt, "item": item.id}
                asked += 1
            assert (score["overall"]["items"], score["overall"]["correct"]) == (ITEMS, right), (name, prompt)
            assert score["partial"] is None and score["prompt"] == prompt and score["data"]["digest"] == open_items(task, data[name]).digest
    assert len(lines(out / "rollouts.jsonl")) == asked and len(server.requests) == asked + len(second)
    table = capsys.readouterr().out
    summary = json.loads((out / "evaluation.json").read_text())
    assert len(summary["scores"]) == sum(1 + len(find_task(name).prompts) for name in tasks) and f"{len(summary['scores'])} scores" in table
    assert sum(one["overall"]["correct"] for one in summary["scores"]) > 0


def reds(body):
    """The images of a request, by the red of each."""
    parts = [part for turn in body["messages"] if isinstance(turn["content"], list) for part in turn["content"]]
    return [picture(part).getpixel((0, 0))[0] for part in parts if part["type"] == "image_url"]


def test_every_image_of_an_item_is_shown_in_the_order_of_its_marks(data, tiny_model, server, tmp_path):
    tasks = ["medxpertqa_mm", "mmmu_health", "mmmu_pro_standard10", "mmmu_pro_vision", "mmxu"]
    main(
        flags(tasks, data, tiny_model, tmp_path / "out", server, "--prompt=official", "--ids=MM-0,validation_Pharmacy_1,test_Pharmacy_2,9")
    )
    shown = [reds(body) for body in server.requests]
    assert sorted({tuple(one) for one in shown}) == [(0, 1, 2, 3, 4, 5), (102, 101), (112, 112), (122,), (139, 149)]
    assert shown.count([0, 1, 2, 3, 4, 5]) == 4 + 2, "four prompts, two of them in two turns"
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert len(names) == 6 + 2 + 1 + 1 + 2 and all(re.fullmatch(r"[0-9a-f]{64}\.(png|jpeg|jpg)", name) for name in names)


def test_the_second_turn_is_asked_with_the_first_reply_and_it_alone_is_scored(data, tiny_model, server, tmp_path):
    out = tmp_path / "out"
    main(flags(["medqa"], data, tiny_model, out, server, "--prompt=cot", "--n=3", "--temperature=0.5", "--mode=official"))
    first = {(row["parents"][0], row["sample"]): row for row in lines(out / "rollouts.jsonl")}
    second = lines(out / "second_turns.jsonl")
    assert len(first) == len(second) == 9
    (turns,) = (one for one in of_score(out / "medqa" / "cot").made_of if one.name == "rollouts")
    assert turns.path == out / "second_turns.jsonl" and [one.path for one in turns.made_of if one.name == "rollouts"] == [
        out / "rollouts.jsonl"
    ]
    then = "Therefore, among A through D, the answer is"
    for row in second:
        before = first[row["parents"][0], row["sample"]]
        turns = [(turn["role"], turn["content"]) for turn in row["prompt"]]
        assert turns == [*((one["role"], one["content"]) for one in before["prompt"]), ("assistant", before["response"]), ("user", then)]
        assert row["seed"] == before["seed"] and row["prompt_tokens"] > before["prompt_tokens"] + before["response_tokens"] - 1
    sent = [body["messages"] for body in server.requests]
    assert sorted(map(len, sent)) == [2] * 3 + [4] * 9, "one request for a question's first turns, one for each second turn"
    verdicts = {(row["id"], row["sample"]): row for row in lines(out / "medqa" / "cot" / "verdicts.jsonl")}
    task = find_task("medqa")
    item = open_items(task, data["medqa"]).items[0]
    for row in second:
        name = row["parents"][0].removeprefix("medqa/cot/")
        assert verdicts[name, row["sample"]]["read"] == task.rule(item, "cot").read(row["response"]).answer
    assert result(out, "medqa", "cot")["at"]["pass"].keys() == {"1", "2", "3"}


def test_a_score_carries_its_proof(data, tiny_model, server, tmp_path):
    out = tmp_path / "out"
    main(flags(["mmmu_health"], data, tiny_model, out, server))
    found = result(out, "mmmu_health", "mede2")
    digest = json.loads((tiny_model / "model.json").read_text())["digest"]
    assert found["sampled"]["model"]["digest"] == digest and found["sampled"]["engine"] == "vllm" and found["sampled"]["finished"]
    sampling = found["sampled"]["sampling"]
    assert (sampling["temperature"], sampling["n"], sampling["max_tokens"], sampling["seed"]) == (0.0, 1, 64, 0)
    assert found["data"]["digest"].startswith("sha256:") and found["prompts"]["questions"] == ITEMS
    other = {"mmmu_health": tmp_path / "other"}
    shutil.copytree(data["mmmu_health"], other["mmmu_health"])
    main(flags(["mmmu_health"], other, tiny_model, tmp_path / "again", server))
    assert result(tmp_path / "again", "mmmu_health", "mede2")["prompts"] == found["prompts"]
    main(flags(["mmmu_health"], other, tiny_model, tmp_path / "once_more", server, "--prompt=official"))
    assert result(tmp_path / "once_more", "mmmu_health", "official")["prompts"]["digest"] != found["prompts"]["digest"]


def test_score_by_hand_gives_the_same(data, tiny_model, server, tmp_path):
    out = tmp_path / "out"
    main(flags(["medqa", "medbullets_op5"], data, tiny_model, out, server, "--prompt=mede2,ao,cot"))
    for task in ("medqa", "medbullets_op5"):
        for prompt, file in (("mede2", "rollouts.jsonl"), ("ao", "rollouts.jsonl"), ("cot", "second_turns.jsonl")):
            by_hand = tmp_path / "hand" / task / prompt
            by_hand.parent.mkdir(parents=True, exist_ok=True)
            given = [] if prompt == "cot" else [f"--prompt={prompt}"]
            score([f"--task={task}", f"--data={data[task]}", f"--responses={out / file}", f"--out={by_hand}", *given])
            assert (by_hand / "verdicts.jsonl").read_text() == (out / task / prompt / "verdicts.jsonl").read_text()
            found, ours = json.loads((by_hand / "score.json").read_text()), result(out, task, prompt)
            assert found == {name: value for name, value in ours.items() if name != "prompts"}
    base = ["--task=medqa", f"--data={data['medqa']}"]
    with pytest.raises(UserError, match=r"replies to several prompts of medqa; say which with --prompt=NAME \(ao, mede2\)"):
        score([*base, f"--responses={out / 'rollouts.jsonl'}"])
    with pytest.raises(
        UserError, match=r"has none of medqa/cot: it has replies of medbullets_op5/ao, medbullets_op5/mede2, medqa/ao, medqa/mede2"
    ):
        score([*base, f"--responses={out / 'rollouts.jsonl'}", "--prompt=cot"])
    with pytest.raises(UserError, match=r"has none of mmxu: it has replies of medbullets_op5/cot, medqa/cot"):
        score(["--task=mmxu", f"--data={data['mmxu']}", f"--responses={out / 'second_turns.jsonl'}"])
    first = write_jsonl(tmp_path / "first.jsonl", [row for row in lines(out / "rollouts.jsonl") if "then" in row["metadata"]])
    with pytest.raises(UserError, match="has none of medqa: it has first turns only, and the second ones are scored"):
        score([*base, f"--responses={first}"])


def test_replies_of_shards_are_scored_together(data, tiny_model, server, tmp_path, capsys):
    outs = [tmp_path / str(index) for index in range(2)]
    for index, out in enumerate(outs):
        main(flags(["medqa", "mmxu"], data, tiny_model, out, server, f"--shard={index}/2"))
        partial = result(out, "medqa", "mede2")["partial"]
        assert partial == {"items": 2 - index, "of": 3} and f"partial: {2 - index} of 3 items" in capsys.readouterr().out
    (tmp_path / "all.jsonl").write_text("".join((out / "rollouts.jsonl").read_text() for out in outs))
    main(flags(["medqa", "mmxu"], data, tiny_model, tmp_path / "whole", server))
    score(["--task=medqa", f"--data={data['medqa']}", f"--responses={tmp_path / 'all.jsonl'}", f"--out={tmp_path / 'hand'}"])
    assert sorted(lines(tmp_path / "hand" / "verdicts.jsonl"), key=str) == sorted(
        lines(tmp_path / "whole/medqa/mede2/verdicts.jsonl"), key=str
    )
    with pytest.raises(UserError, match=r"--shard=3/4 has no item of medqa: there are 3; use fewer shards"):
        main(flags(["medqa"], data, tiny_model, tmp_path / "x", server, "--shard=3/4"))


@pytest.mark.slow
def test_what_is_asked_may_grow_and_shrink_and_nothing_is_asked_twice(data, tiny_model, server, tmp_path):
    out = tmp_path / "out"

    def run(*more):
        before = sum(body["n"] for body in server.requests)
        main(flags(["medqa", "medxpertqa_mm"], data, tiny_model, out, server, "--prompt=mede2,boxed", "--temperature=0.7", *more))
        return sum(body["n"] for body in server.requests) - before

    one = 2 * (1 + 2)  # tasks × (one turn, and two)
    assert run("--limit=1") == one and result(out, "medqa", "boxed")["partial"] == {"items": 1, "of": 3}
    assert run("--limit=1") == 0
    assert run("--ids=medqa-2,MM-2") == one and result(out, "medqa", "mede2")["overall"]["items"] == 1
    assert len(list((out / "images").iterdir())) == 6 + 1
    assert run("--ids=medqa-2,MM-2", "--n=4") == 3 * one and result(out, "medqa", "boxed")["overall"]["samples"] == 4
    assert run("--n=4") == 4 * 3 * one - 5 * one and result(out, "medxpertqa_mm", "boxed")["overall"]["samples"] == 12
    assert run("--n=4") == 0
    assert run("--n=4", "--limit=2") == 0 and result(out, "medqa", "mede2")["overall"]["items"] == 2
    assert len(lines(out / "questions.jsonl")) == 12 and len(lines(out / "rollouts.jsonl")) == 48
    whole = tmp_path / "whole"
    main(flags(["medqa", "medxpertqa_mm"], data, tiny_model, whole, server, "--prompt=mede2,boxed", "--temperature=0.7", "--n=4"))
    for name in ("rollouts.jsonl", "second_turns.jsonl"):
        assert sorted((whole / name).read_text().splitlines()) == sorted((out / name).read_text().splitlines())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--max_tokens=65"], "max_tokens: 64 then, 65 now"),
        (["--temperature=0.5"], "temperature: 0.0 then, 0.5 now"),
        (["--seed=3"], "seed: 0 then, 3 now"),
        (["--prompt=cot"], "medqa.prompts: ['mede2'] then, ['cot'] now"),
        (["--shard=0/2"], "shard: none then, 0/2 now"),
        (["--processor.system_prompt=Be exact."], "data.system_prompt: default then, Be exact. now"),
        (["--task=medbullets_op5", "{medbullets_op5}"], "medqa.data: sha256:"),
        (["--data={other}"], "medqa.data: sha256:"),
    ],
)
def test_another_evaluation_in_the_same_folder_is_refused_and_the_difference_shown(data, tiny_model, server, tmp_path, more, expected):
    out, other = tmp_path / "out", tmp_path / "other"
    main(flags(["medqa"], data, tiny_model, out, server))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    MAKERS["medqa"](other)
    write_jsonl(other / "phrases_no_exclude_test.jsonl", lines(other / "phrases_no_exclude_test.jsonl")[::-1])
    more = [f"--data={data['medbullets_op5']}" if one.startswith("{") else one.format(other=other) for one in more]
    replaced = {one.partition("=")[0] for one in more}
    same = [one for one in flags(["medqa"], data, tiny_model, out, server) if one.partition("=")[0] not in replaced]
    with pytest.raises(UserError, match="was begun otherwise") as error:
        main([*same, *more])
    assert expected in str(error.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before and len(server.requests) == ITEMS


def test_a_line_that_was_asked_otherwise_is_refused(data, tiny_model, server, tmp_path):
    out = tmp_path / "out"
    main(flags(["mmxu"], data, tiny_model, out, server, "--prompt=cot"))
    for name, change in (
        ("rollouts.jsonl", lambda row: row["prompt"][1]["content"][0].update(text="Q: Current image: ")),
        ("rollouts.jsonl", lambda row: row["images"].reverse()),
        ("second_turns.jsonl", lambda row: row["prompt"][2].update(content="Another reply.")),
    ):
        kept = (out / name).read_text()
        rows = lines(out / name)
        change(rows[1])
        (out / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match=rf"{name}:2: mmxu/cot/\d was asked otherwise then, in words or images; use another --out"):
            main(flags(["mmxu"], data, tiny_model, out, server, "--prompt=cot"))
        (out / name).write_text(kept)


def test_what_fails_stays_in_the_denominator(data, tiny_model, tokenise, tmp_path, capsys):
    out = tmp_path / "out"

    def faults(number, body):
        last = body["messages"][-1]["content"]
        if "Case 1?" in str(body["messages"]) and (last.startswith("Q:") or "Answer Choices" in last):
            return 400, {}, json.dumps({"error": {"message": "too long"}}).encode()

    with ChatServer(tokenise=tokenise, faults=faults) as server:
        run = flags(["medqa"], data, tiny_model, out, server, "--prompt=mede2,cot")
        main(run)
        for prompt in ("mede2", "cot"):
            overall = result(out, "medqa", prompt)["overall"]
            assert (overall["items"], overall["failed"]) == (3, 1) and "medqa-1#0" in result(out, "medqa", prompt)["unparsed"]
        assert "the first turn has no reply" in (out / "second_turns.jsonl.manifest.json").read_text()
        score(["--task=medqa", f"--data={data['medqa']}", f"--responses={out / 'second_turns.jsonl'}", f"--out={tmp_path / 'hand'}"])
        assert json.loads((tmp_path / "hand" / "score.json").read_text())["overall"]["failed"] == 1
        server.faults = None
        server.requests.clear()
        main(run)
        assert len(server.requests) == 3, "what had failed, and the turn that follows"
    assert result(out, "medqa", "cot")["overall"]["failed"] == result(out, "medqa", "mede2")["overall"]["failed"] == 0


def test_a_first_reply_that_no_prompt_may_hold_fails_alone(data, tiny_model, server, tmp_path):
    out = tmp_path / "out"
    run = flags(["medqa"], data, tiny_model, out, server, "--prompt=cot")
    main(run)
    rows = lines(out / "rollouts.jsonl")
    rows[0]["response"] = "It is <|im_end|> C"
    (out / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("second_turns.jsonl", "second_turns.jsonl.manifest.json"):
        (out / name).unlink()
    main(run)
    failed = json.loads((out / "second_turns.jsonl.manifest.json").read_text())["failed"]
    assert [one["question"] for one in failed] == [rows[0]["parents"][0]]
    assert "cannot be shown to the model: message 2 contains the reserved token" in failed[0]["reason"]
    assert result(out, "medqa", "cot")["overall"]["failed"] == 1


def test_a_dry_run_shows_prompts_and_writes_nothing(data, tiny_model, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    main([*flags(["mmmu_health", "medqa"], data, tiny_model, tmp_path / "out", None, "--dry_run", "--prompt=official")])
    shown = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert re.search(r"First .*⟦image 2\.png, 64×48: \d+ tokens⟧.*, then .*⟦image 1\.png, 64×48: \d+ tokens⟧", shown)
    assert "── mmmu_health/official/validation_Pharmacy_1: " in shown and shown.count("── tokens: ") == 1 + 4
    assert "── then, to the reply: Therefore, among A through D, the answer is" in shown and "validation_Pharmacy_2" not in shown
    (count,) = re.findall(r"medqa/ao/medqa-0: (\d+) tokens", shown)
    ids = shown.partition("medqa/ao/medqa-0")[2].partition("── tokens: ")[2].partition("\n")[0].split()
    assert len(ids) == int(count) and all(one.isdigit() for one in ids)


def test_broken_and_missing_images_are_named(data, tiny_model, server, tmp_path):
    own = {name: tmp_path / name for name in ("medxpertqa_mm", "mmxu")}
    for name, folder in own.items():
        shutil.copytree(data[name], folder)
    (own["medxpertqa_mm"] / "images" / "MM-1-b.jpeg").unlink()
    with pytest.raises(
        UserError, match=r"^medxpertqa_mm, item MM-1: no image 'MM-1-b.jpeg' in .*/images or .*; put it there, or give --images="
    ):
        main(flags(["medxpertqa_mm"], own, tiny_model, tmp_path / "a", server))
    put(own["medxpertqa_mm"] / "images" / "MM-1-b.jpeg", png(3)[:60])
    with pytest.raises(UserError, match=r"^medxpertqa_mm, item MM-1: image 'MM-1-b.jpeg' is (truncated|not an image)"):
        main(flags(["medxpertqa_mm"], own, tiny_model, tmp_path / "a", server))
    assert not server.requests
    main(flags(["medxpertqa_mm"], own, tiny_model, tmp_path / "a", server, "--limit=1"))
    moved = tmp_path / "elsewhere"
    (own["mmxu"] / "files").rename(tmp_path / "files")
    with pytest.raises(UserError, match=r"^mmxu, item 1: no image 'files/p10/p10000032/s10/a.jpg' in "):
        main(flags(["mmxu"], own, tiny_model, tmp_path / "b", server))
    moved.mkdir()
    (tmp_path / "files").rename(moved / "files")
    main(flags(["mmxu"], own, tiny_model, tmp_path / "b", server, f"--images={tmp_path / 'none'},{moved}"))
    outside = tmp_path / "outside"
    write_jsonl(outside / "MM" / "test.jsonl", [lines(data["medxpertqa_mm"] / "MM" / "test.jsonl")[0] | {"images": ["../../secret.png"]}])
    put(tmp_path / "secret.png", png(9))
    with pytest.raises(UserError, match=r"no image '../../secret.png' in "):
        main(flags(["medxpertqa_mm"], {"medxpertqa_mm": outside}, tiny_model, tmp_path / "c", server))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--task=medka"], "unknown task 'medka' (did you mean 'medqa'?)"),
        (["--task=medqa,medqa"], "--task: medqa is given twice"),
        (["--prompt=haiku"], "--prompt=haiku is none of medqa's: mede2, mede2_open, cot, ao, reasoning, boxed, or official for all"),
        (["--prompt=mede2_open", "--mode=official"], "no owner asks mede2_open, so none says how its replies are read"),
        (["--judge.model=gpt-4o"], "no judge is asked, so model has no use; give judge.api=gemini or judge.api=openai"),
        (["--task=medqa,mmxu", "--data={medqa}"], "; --data is one file for 2 tasks: give one for each, with commas between"),
        (["--data=/none"], "no data of medqa at '/none'"),
        (["--data=/a,/b"], "data has 2 folders for 1 tasks; give one for all, or one for each"),
        (["--ids=medqa-0,medqa-77"], "--ids: medqa-77 is no item of medqa"),
        (["--model=/none"], "/none"),
        (["--n=4"], "temperature=0 makes all 4 responses to a question the same"),
        (["--k=2"], "k=2 is more than n=1"),
        (["--out={file}"], "is a file; give a folder"),
        (["--processor.image_root=/x"], "--images says where image files are"),
        (["--shard=2/2"], "must be i/n with i from 0 to n - 1"),
        (["--mode=strict"], "--mode"),
        (["--dryrun"], "unknown option '--dryrun' (did you mean '--dry_run'?)"),
        (["--tasks=medqa"], "unknown option '--tasks' (did you mean '--task'?)"),
    ],
)
def test_bad_input_is_one_line_and_asks_nothing(data, tiny_model, server, tmp_path, capsys, more, expected):
    (tmp_path / "file").write_text("")
    [medqa] = data["medqa"].rglob("*.jsonl")
    more = [one.format(file=tmp_path / "file", medqa=medqa) for one in more]
    replaced = {one.partition("=")[0] for one in more}
    same = [one for one in flags(["medqa"], data, tiny_model, tmp_path / "out", server) if one.partition("=")[0] not in replaced]
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*same, *more])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and expected in error
    assert not server.requests and not (tmp_path / "out" / "rollouts.jsonl").exists()


def test_what_is_missing_is_said(capsys):
    with pytest.raises(UserError, match="missing --task and --data and --model and --out: give "):
        main([])


def test_another_evaluation_is_compared_score_by_score(data, tiny_model, server, tmp_path, capsys):
    tasks, ours, other = ["medqa", "medbullets_op5", "mmxu"], tmp_path / "ours", tmp_path / "other"
    main(flags(tasks, data, tiny_model, other, server, "--prompt=mede2,ao", "--temperature=1", "--seed=1"))
    capsys.readouterr()
    main(flags(tasks, data, tiny_model, ours, server, "--prompt=mede2,ao", "--temperature=1", "--seed=2", f"--against={other}"))
    scores = json.loads((ours / "evaluation.json").read_text())["scores"]
    assert len(scores) == 6
    for one in scores:
        mine, theirs = (lines(out / one["task"] / one["prompt"] / "verdicts.jsonl") for out in (ours, other))
        alone = [sum(a["correct"] > b["correct"] for a, b in zip(*pair, strict=True)) for pair in ((mine, theirs), (theirs, mine))]
        against = one["against"]
        assert [against["only_this"], against["only_other"]] == alone and against["difference"] == pytest.approx((alone[0] - alone[1]) / 3)
        assert against["p"] == against["p_mcnemar"] and against["accuracy"] == pytest.approx(sum(row["correct"] for row in theirs) / 3)
        written = result(ours, one["task"], one["prompt"])["against"]
        assert written == {name: value for name, value in against.items() if name not in ("p", "p_holm")}
    # Holm: the smallest p times 6, the next times 5, …, none below the one before, none above 1.
    highest = 0.0
    for rank, one in enumerate(sorted((one["against"] for one in scores), key=lambda one: one["p"])):
        highest = max(highest, min(1.0, (6 - rank) * one["p"]))
        assert one["p_holm"] == pytest.approx(highest)
    table = capsys.readouterr().out
    assert "this evaluation − the other" in table and "p (Holm)" in table


def test_holm_counts_all_comparisons():
    from mede2_jax.evaluate.against import adjust

    scores = [{"against": {"p_mcnemar": p, "p_bootstrap": 0.9}} for p in (0.04, 0.01)]
    scores += [{"against": {"p_bootstrap": 0.03}}, {"against": {"p_bootstrap": None}}, {"overall": {}}]
    adjust(scores)
    # Three p-values: 0.01 × 3, 0.03 × 2, and 0.04, which may not be below the one before.
    assert [one["against"]["p_holm"] for one in scores[:4]] == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.06), None]
    assert [one["against"]["p"] for one in scores[:4]] == [0.04, 0.01, 0.03, None] and scores[4] == {"overall": {}}


def test_what_cannot_be_compared_is_said_before_anything_is_asked(data, tiny_model, server, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    main(flags(["medqa"], data, tiny_model, other, server, "--prompt=ao"))
    before = len(server.requests)
    for more, expected in (
        (["--prompt=ao,cot"], r"--against=.*other has no score of medqa/cot; it has medqa/ao$"),
        (["--prompt=ao", "--mode=official"], r"other/medqa/ao/score.json is of mode mede2, this score of official"),
        (["--prompt=ao", "--limit=2"], r"1 item is in .*other/medqa/ao only \(medqa-2\): a comparison needs the same items"),
    ):
        with pytest.raises(UserError, match=expected):
            main(flags(["medqa"], data, tiny_model, out, server, f"--against={other}", *more))
    with pytest.raises(UserError, match=r"has no score of medqa/mede2; it has no scores at all"):
        main(flags(["medqa"], data, tiny_model, out, server, f"--against={tmp_path / 'none'}"))
    with pytest.raises(UserError, match="is the folder of this evaluation itself"):
        main(flags(["medqa"], data, tiny_model, other, server, "--prompt=ao", f"--against={other}"))
    assert len(server.requests) == before and not out.exists()
