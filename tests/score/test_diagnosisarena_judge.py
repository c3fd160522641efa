"""DiagnosisArena, open: five diagnoses a reply, which the owner's judge scores; top-1 is the accuracy, top-5 stands beside it."""

import json
from pathlib import Path

import pytest
from judge_servers import JUDGES, OpenAIJudge, data_of, flags, read, said
from task_files import diagnosisarena, write_parquet

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.score.__main__ import main

SHARED = Path(__file__).parents[2].parent / "shared" / "benchmarks"
NAMES = ("gout", "lupus", "measles", "rabies", "scurvy", "tetanus")


@pytest.fixture
def data(tmp_path):
    """Six cases; the diagnosis of number n is NAMES[n]."""
    rows = [diagnosisarena(n, "A. x\nB. y") | {"Final Diagnosis": name} for n, name in enumerate(NAMES)]
    return write_parquet(tmp_path / "DA" / "data" / "test-00000-of-00001.parquet", rows).parents[1]


@pytest.fixture
def command(data, tmp_path):
    def line(texts, *more, mode="official"):
        rows = [{"id": str(n), "response": text} for n, text in enumerate(texts)]
        file = tmp_path / "r.json"
        file.write_text(json.dumps(rows))
        return ["--task=diagnosisarena_open", f"--data={data}", f"--responses={file}", f"--out={tmp_path / 'out'}", f"--mode={mode}", *more]

    return line


def result(tmp_path):
    return json.loads((tmp_path / "out" / "score.json").read_text("utf-8")), read(tmp_path / "out" / "verdicts.jsonl")


def listed(*names):
    return "\n".join(f"{place}. {name};" for place, name in enumerate(names, start=1))


def boxes(*scores):
    return "\n".join(f"{place}. Disease {place} Name: \\boxed{{{score}}};" for place, score in enumerate(scores, start=1))


def shown(text):
    """The student's answer and the reference."""
    answer, _, reference = text.partition("\n\nHere is the reference diagnosis: \n")
    return answer.partition("Here is the student’s answer: \n")[2], reference.partition("\n\nOutput Format: ")[0]


def judge(by_reference):
    return lambda text, turns: by_reference[shown(text)[1]]


@pytest.mark.parametrize("api", JUDGES)
def test_top_1_and_top_5(command, tmp_path, api, capsys):
    """Scores 2 0, 0 1 2, 1 0, 0 0 0 0 0 2, 2 2, 0 0 0 0 2: top-1 2 of 6, top-5 4 of 6; Wilson 9.68–70.00 and 30.00–90.32."""
    replies = {
        "gout": boxes(2, 0),
        "lupus": boxes(0, 1, 2),
        "measles": boxes(1, 0),
        "rabies": boxes(0, 0, 0, 0, 0, 2),
        "scurvy": boxes(2, 2),
        "tetanus": boxes(0, 0, 0, 0, 2),
    }
    texts = [listed("flu", name) for name in NAMES]
    with JUDGES[api](judge(replies)) as server:
        main(command(texts, *flags(server, tmp_path / "c.sqlite")))
        assert sorted(map(shown, server.asked)) == sorted(zip(texts, NAMES, strict=True))
        assert server.temperatures == {1.0} and set(server.schemas) == {None}
        bodies = server.requests if api == "openai" else server.bodies
        assert all(len(body.get("messages", body.get("contents"))) == 1 for body in bodies), "one user turn and no system turn"
        assert not any("systemInstruction" in body for body in bodies)
    found, verdicts = result(tmp_path)
    overall = found["overall"]
    assert (overall["correct"], overall["top5"]["correct"], overall["items"]) == (2, 4, 6)
    assert overall["accuracy"] == pytest.approx(2 / 6) and overall["top5"]["accuracy"] == pytest.approx(4 / 6)
    assert overall["interval"] == pytest.approx([0.0968, 0.7000], abs=1e-4) and overall["interval_method"] == "Wilson"
    assert overall["top5"]["interval"] == pytest.approx([0.3000, 0.9032], abs=1e-4)
    assert [(one["correct"], one["top5"]) for one in verdicts] == [
        (True, True), (False, True), (False, False), (False, False), (True, True), (False, True)]  # fmt: skip
    assert {one["step"] for one in verdicts} == {"judge"} and verdicts[0]["read"] == texts[0] and "rule" not in verdicts[0]
    assert found["judge"]["prompt"] | {"title": "diagnosisarena-judge/1", "origin": "SPIRAL-MED/DiagnosisArena"} == found["judge"]["prompt"]
    assert found["judge"]["options"]["temperature"] == 1.0 and found["prompt"] == "official"
    printed = capsys.readouterr().out
    assert "all, top 5" in printed and "2 of 6" in printed and "4 of 6" in printed and "30.00–90.32" in printed


@pytest.mark.skipif(not (SHARED / "prompts.json").is_file(), reason=f"the owners' prompts are not at {SHARED}")
def test_the_judge_hears_the_owners_words_byte_for_byte(command, tmp_path):
    his = json.loads((SHARED / "prompts.json").read_text("utf-8"))["diagnosisarena_judge"]
    texts = [listed("flu", name, "100% %s {DATA}") for name in NAMES]
    with OpenAIJudge(lambda text, turns: boxes(0)) as server:
        main(command(texts, *flags(server, tmp_path / "c.sqlite")))
        assert sorted(server.asked) == sorted(his % (text, name) for text, name in zip(texts, NAMES, strict=True))


@pytest.mark.skipif(not (SHARED / "vectors").is_dir(), reason=f"the owners' readings are not at {SHARED}")
def test_the_owners_readings_reach_the_score(command, tmp_path):
    lines = [json.loads(line) for line in (SHARED / "vectors" / "diagnosisarena_judge.jsonl").read_text("utf-8").splitlines()]
    lines = (lines + lines)[: len(NAMES) * -(-len(lines) // len(NAMES))]
    assert len(lines) % len(NAMES) == 0
    for part in range(0, len(lines), len(NAMES)):
        some = lines[part : part + len(NAMES)]
        replies = {name: line["judge_reply"] for name, line in zip(NAMES, some, strict=True)}
        texts = [f"{part} {listed('flu', name)}" for name in NAMES]
        with OpenAIJudge(judge(replies)) as server:
            main(command(texts, *flags(server, tmp_path / "c.sqlite", "--judge.attempts=1")))
        _, verdicts = result(tmp_path)
        for verdict, line in zip(verdicts, some, strict=True):
            if "owner" in line:
                assert (verdict["step"], verdict["correct"], verdict["top5"]) == ("judge failed", False, False)
            else:
                assert (verdict["step"], verdict["correct"], verdict["top5"]) == ("judge", bool(line["top1"]), bool(line["top5"]))


def test_a_reply_without_a_box_is_asked_for_anew_and_then_a_failure_of_the_judge(command, tmp_path):
    """The owner's run ends there; here it is counted. What is sent again are his words alone, with another seed."""
    tries = []

    def say(text, turns):
        assert len(turns) == 1
        reference = shown(text)[1]
        tries.append(reference)
        if reference == "lupus":
            return "2, I would say"
        return "no scores" if reference == "rabies" and tries.count("rabies") == 1 else boxes(2)

    with OpenAIJudge(say) as server:
        line = command([listed("flu", name) for name in NAMES], *flags(server, tmp_path / "c.sqlite"))
        main(line)
        assert (tries.count("lupus"), tries.count("rabies"), tries.count("gout")) == (3, 2, 1)
        assert len({body["seed"] for body in server.requests}) == len(server.requests)
        found, verdicts = result(tmp_path)
        overall = found["overall"]
        assert (overall["items"], overall["correct"], overall["top5"]["correct"], overall["judge_failed"]) == (6, 5, 5, 1)
        assert list(found["judge"]["failures"]) == ["1#0"] and verdicts[1]["step"] == "judge failed"
        main(line)
        assert (tries.count("lupus"), tries.count("rabies"), tries.count("gout")) == (6, 2, 1)


def test_in_mode_official_the_judge_alone_decides(command, tmp_path):
    """Also of a reply that is the very diagnosis, which a rule would find right."""
    with OpenAIJudge(lambda text, turns: boxes(0, 2)) as server:
        main(command(list(NAMES), *flags(server, tmp_path / "c.sqlite")))
        assert len(server.asked) == 6
    found, verdicts = result(tmp_path)
    assert (found["overall"]["correct"], found["overall"]["top5"]["correct"]) == (0, 6) and {one["step"] for one in verdicts} == {"judge"}


def test_what_is_no_reply_is_not_judged(command, tmp_path):
    texts = [None, "", "  ", *(listed(name) for name in NAMES[3:])]
    with OpenAIJudge(lambda text, turns: boxes(2)) as server:
        main(command(texts, *flags(server, tmp_path / "c.sqlite")))
        assert len(server.asked) == 3
    found, verdicts = result(tmp_path)
    assert (found["overall"]["correct"], found["overall"]["unparsed"], found["overall"]["items"]) == (3, 3, 6)
    assert [one["top5"] for one in verdicts] == [False] * 3 + [True] * 3


def test_where_nothing_is_to_be_judged_no_rule_takes_the_judges_place(command, tmp_path, capsys):
    """A reply that was refused is none, though its text is the very diagnosis."""
    with OpenAIJudge(lambda text, turns: boxes(2)) as server:
        line = command(list(NAMES), *flags(server, tmp_path / "c.sqlite"))
        rows = [{"id": str(n), "response": name, "finish_reason": "refusal"} for n, name in enumerate(NAMES)]
        (tmp_path / "r.json").write_text(json.dumps(rows))
        main(line)
        assert not server.asked
    found, _ = result(tmp_path)
    assert (found["overall"]["correct"], found["overall"]["unparsed"], found["overall"]["top5"]["correct"]) == (0, 6, 0)
    assert "the judge was not asked" in capsys.readouterr().out


def test_official_without_a_judge_is_one_line_that_says_who_scores(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        run_command(main, command(list(NAMES)))
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "diagnosisarena_open: its owner has replies scored by a judge, and by no rule; give --judge.api=openai" in captured.err
    with pytest.raises(UserError, match=r"judge\.all and judge\.check compare our rule with the judge, and mode official has none"):
        main(command(list(NAMES), "--judge.api=gemini", "--judge.all"))


def test_in_mode_mede2_a_rule_comes_first(command, tmp_path, capsys):
    """Without a judge it is alone, and says so. With one, thoughts are not shown to it."""
    texts = [f"<think> flu? </think> <answer> {name} </answer>" for name in NAMES[:2]]
    texts += [f"<think> flu? </think>\n{listed('flu', name)}" for name in NAMES[2:]]
    main(command(texts, mode="mede2"))
    found, _ = result(tmp_path)
    assert found["overall"]["correct"] == 2 and found["unjudged"] == 4 and "top5" not in found["overall"]
    assert "4 open answers counted as wrong" in capsys.readouterr().out
    with OpenAIJudge(lambda text, turns: boxes(0, 2)) as server:
        main(command(texts, *flags(server, tmp_path / "c.sqlite"), mode="mede2"))
        assert sorted(map(shown, server.asked)) == sorted((listed("flu", name), name) for name in NAMES[2:])
    found, verdicts = result(tmp_path)
    assert (found["overall"]["correct"], found["overall"]["top5"]["correct"]) == (2, 6)
    assert verdicts[0]["step"] == "answer tag" and verdicts[2]["rule"]["outcome"] == "wrong"


def test_asked_in_our_words_one_diagnosis_is_judged_by_our_prompt(command, tmp_path):
    texts = [f"<think> … </think> <answer> probably {name} </answer>" for name in NAMES]
    with OpenAIJudge(lambda text, turns: said(data_of(text)["answer"] != "probably lupus")) as server:
        main(command(texts, "--prompt=mede2", *flags(server, tmp_path / "c.sqlite"), mode="mede2"))
        question = data_of(server.asked[0])["question"]
    assert question.startswith("Case Information:\nCase Information of ") and question.endswith("\n\nWhat is the most likely diagnosis?")
    found, _ = result(tmp_path)
    assert found["overall"]["correct"] == 5 and "top5" not in found["overall"]
    assert found["judge"]["prompt"]["title"] == "judge-same-answer/1"
