"""From folders of the real `score` to a report: what stands in its tables and its data."""

import csv
import hashlib
import json
import re
import shutil

import pytest
from report_files import PROMPT, TASK, answer, evaluation, read_jsonl, write_jsonl
from reports import loaded, made, right_of, rows

from mede2_jax.score.__main__ import main as score


@pytest.fixture(scope="module")
def report(scores, tmp_path_factory):
    flags = [f"--scores=I={scores / 'one'},II={scores / 'two'}"]
    return made(tmp_path_factory.mktemp("report") / "out", *flags)


def test_scores_have_counts_and_intervals(report):
    first, second = rows(report, "scores")
    assert (first["model"], first["correct"], first["%"], first["95% interval"]) == ("I", "3 of 12", "25.00", "8.89–53.23")
    assert (second["correct"], second["%"], second["Δ"]) == ("9 of 12", "75.00", "+50.00")
    assert first["model (detail)"] == "not the owner's whole set" and first["part"] == "MedXpertQA MM · asked as mede2 · read as mede2"
    page = (report / "index.html").read_text("utf-8")
    assert "items: 12 instead of 2,000" in page and page.count("Before you cite these") == 1


def test_two_models_are_compared_on_the_same_items(report):
    (only,) = rows(report, "comparisons")
    assert (only["models"], only["items"], only["points"]) == ("II − I", "12", "+50.00")
    assert only["only 2nd / only 1st right"] == "6 / 0" and only["p"] == "0.0312" and only["p (Holm)"] == "0.0312"
    assert only["p (detail)"] == "McNemar, exact" and only["fewest items"] == "6"


def test_holm_is_over_all_comparisons_that_are_shown(data, scores, tmp_path):
    evaluation(tmp_path / "three", data, right_of(range(12)))
    out = made(tmp_path / "out", f"--scores=I={scores / 'one'},II={scores / 'two'},III={tmp_path / 'three'}")
    found = {row["models"]: (row["p"], row["p (Holm)"]) for row in rows(out, "comparisons")}
    # (0,6), (0,9) and (0,3): 1/32, 1/256 and 1/4; Holm: the smallest three times, the next twice, the last once.
    assert found == {"II − I": ("0.0312", "0.0625"), "III − I": ("0.0039", "0.0117"), "III − II": ("0.2500", "0.2500")}


def test_models_of_other_items_are_not_compared_and_it_is_said(data, scores, tmp_path):
    responses = [{"id": f"MM-{n}", "response": "A"} for n in range(5)]
    file = write_jsonl(tmp_path / "some.jsonl", responses)
    out = tmp_path / "some"
    score([f"--task={TASK}", f"--data={data}", f"--responses={file}", f"--prompt={PROMPT}", f"--out={out}", "--partial"])
    made_at = made(tmp_path / "out", f"--scores=I={scores / 'one'},part={out}")
    (only,) = rows(made_at, "comparisons")
    assert only["items"] == "not comparable" and "7 items are in I only" in only["items (detail)"]
    assert rows(made_at, "scores")[1]["items"] == "5 of 12"
    assert "part, MedXpertQA MM · asked as mede2 · read as mede2: partial: 5 of 12 items" in (made_at / "index.html").read_text("utf-8")


def test_ours_stand_in_the_papers_table(report):
    found = {row[""]: row for row in rows(report, "table1")}
    assert (
        found["QwenVL2.5-7B"]["MedXpertQA-MM Overall"] == "20.70"
        and found["QwenVL2.5-7B"]["MedXpertQA-MM Overall (detail)"] == "414 of 2,000"
    )
    assert found["QwenVL2.5-7B"]["MMMU-Pro-Health Overall (detail)"] == "✗ no k of 286; (82 of 288)"
    ours = found["II"]
    assert ours["MedXpertQA-MM Overall"] == "75.00" and ours["MedXpertQA-MM Overall (detail)"].startswith(
        "9 of 12; 46.77–91.11; not of 2,000"
    )
    # Numbers 0, 3, 6 and 9 are of Understanding, three of which it has right.
    assert ours["MedXpertQA-MM Understanding (detail)"].startswith("3 of 4;") and ours["MMMU-Health Overall"] == "–"
    assert ours["MedXpertQA-MM Δ"] == "+50.00" and ours["part"] == "scored here"


def test_readings_and_what_others_read(report):
    (first, _) = rows(report, "readings")
    assert first["read by"] == "answer tag 12" and first["MedEvalKit"] == "25.00"
    # VLMEvalKit takes the last letter among four words: `<answer> A </answer>` is one.
    assert first["VLMEvalKit (detail)"].startswith("3 of 12")


def test_what_is_kept_of_each_score(report, scores):
    (first, second) = rows(report, "proof")
    assert first["model"] == "abababababab…" and first["sampling"] == "vllm, n 1, temperature 0.0, max_tokens 2048, seed 0"
    copy = json.loads((report / "scores" / second["file"]).read_text("utf-8"))
    assert copy == json.loads((scores / "two" / TASK / PROMPT / "score.json").read_text("utf-8"))


def test_items_have_all_that_was_said(report, data):
    index = loaded(report, "board-0")
    assert index["models"] == ["I", "II"] and index["ids"] == [f"MM-{n}" for n in range(12)] and index["pieces"][0] == 0
    assert index["codes"][0] == ["a"] * 3 + ["e"] * 9, "correct and stopped is a, wrong and stopped is e"
    assert index["groups"]["question_type"]["values"] == ["Reasoning", "Understanding"]
    items = loaded(report, "items-0-0")
    item = items[1]
    assert item["answer"] == ["B"] and item["options"]["B"] == "a fluid level on the right" and len(item["images"]) == 2
    for image in item["images"]:
        assert (report / image["src"]).read_bytes() == (data / "images" / _name_of(data, report / image["src"])).read_bytes()
        assert (image["w"], image["h"]) == (160, 120)
    (turns, sample) = item["turns"], item["samples"][1][0]
    assert [turn["role"] for turn in turns] == ["system", "user"] and turns[1]["pieces"][:2] == [0, 1]
    assert sample["read"] == "B" and sample["outcome"] == "correct" and [kind for kind, _ in sample["reply"]] == ["think", "text"]
    assert "".join(text for _, text in sample["reply"]).strip().endswith("<answer> B </answer>")


def _name_of(data, file):
    return next(path.name for path in (data / "images").iterdir() if path.read_bytes() == file.read_bytes())


def test_cases_are_of_both_kinds(data, scores, tmp_path):
    evaluation(tmp_path / "other", data, right_of({1, 2, 5, 7, 8, 9}))
    out = made(tmp_path / "out", f"--scores=I={scores / 'one'},II={tmp_path / 'other'}", "--cases=2")
    page = (out / "index.html").read_text("utf-8")
    assert "II is right more often on 4 items, I on 1." in page
    assert re.findall(r"MM-(\d+)</a> <span class=\"of\">(gained|lost) by II", page) == [("5", "gained"), ("7", "gained"), ("0", "lost")]
    assert (
        "<article"
        not in (made(tmp_path / "none", f"--scores={scores / 'one'}", "--cases=0") / "index.html").read_text("utf-8").split('id="items"')[0]
    )


def test_anybodys_file_gets_its_questions_from_the_benchmark(data, tmp_path):
    file = tmp_path / "answers.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["qid", "text"])
        writer.writerows([f"MM-{n}", f"So the answer is ({'ABCDE'[n % 5]})"] for n in range(12))
    out = tmp_path / "score"
    columns = ["--columns.id=qid", "--columns.response=text"]
    score([f"--task={TASK}", f"--data={data}", f"--responses={file}", "--prompt=ao", "--mode=official", f"--out={out}", *columns])
    report = made(tmp_path / "out", f"--scores={out}")
    item = loaded(report, "items-0-0")[1]
    assert item["turns"][0] == {"role": "system", "pieces": ["Please answer only."]} and len(item["images"]) == 2
    assert item["samples"][0][0]["reply"] == [["text", "So the answer is (B)"]] and item["samples"][0][0]["step"] == "after 'answer is'"
    assert "case 1. What is seen?" in loaded(report, "texts-0")[1]


def test_several_samples_have_curves(data, tmp_path):
    evaluation(tmp_path / "one", data, lambda item, sample: answer(item.answer if sample < 3 else "A"), samples=4)
    out = made(tmp_path / "out", f"--scores=one={tmp_path / 'one'}")
    passed, majority, chance = rows(out, f"samples-{TASK}-mede2-mede2")
    assert [passed[f"k = {k}"] for k in (1, 2, 4)] != ["–"] * 3 and passed["k = 4"] == "100.00"
    assert majority["k = 4"] == "100.00" and chance["model"] == "by chance" and chance["k = 1"] == "20.00" and chance["k = 2"] == "36.00"
    assert len(list((out / "figures").glob("figure6-samples*.png"))) == 1
    assert rows(out, "scores")[0]["correct"].endswith("of 48 samples")
    assert len(loaded(out, "board-0")["codes"][0][0]) == 4


def test_cut_refused_and_failed_are_told_apart(data, tmp_path):
    ends = {0: ("<think> It may be", "length"), 1: ("no", "content_filter"), 2: None}
    evaluation(tmp_path / "one", data, lambda item, sample: ends.get(int(item.id[3:]), answer(item.answer)))
    out = made(tmp_path / "out", f"--scores=one={tmp_path / 'one'}")
    (only,) = rows(out, "scores")
    assert [only[name] for name in ("items", "correct", "unparsed", "cut", "refused", "failed")] == ["12", "9 of 12", "3", "1", "1", "1"]
    samples = [item["samples"][0][0] for item in loaded(out, "items-0-0")[:3]]
    assert [(one["outcome"], one["finish"]) for one in samples] == [("unparsed", "cut"), ("unparsed", "refused"), ("unparsed", "failed")]
    assert samples[0]["reply"] == [["think", " It may be"]] and samples[2]["reply"] is None
    assert loaded(out, "board-0")["codes"][0][:3] == ["j", "k", "l"]


def test_what_score_json_says_besides_does_no_harm_and_leakage_is_shown(scores, tmp_path):
    shutil.copytree(scores / "two", tmp_path / "two")
    file = tmp_path / "two" / TASK / PROMPT / "score.json"
    said = json.loads(file.read_text())
    without = said["overall"] | {"items": 10, "samples": 10, "correct": 8, "accuracy": 0.8, "interval": [0.49, 0.94]}
    leakage = {"touched": ["MM-1", "MM-2"], "without_touched": without, "method": {"n": 13}}
    file.write_text(json.dumps(said | {"leakage": leakage, "shuffled": [1, 2], "another": {"deep": [None]}}))
    out = made(tmp_path / "out", f"--scores=II={tmp_path / 'two'}")
    (only,) = rows(out, "leakage")
    assert (only["touched items"], only["% of all"], only["% without them"], only["which"]) == ("2 of 12", "75.00", "80.00", "MM-1, MM-2")
    assert json.loads(next((out / "scores").iterdir()).read_text())["another"] == {"deep": [None]}


def test_orders_of_options_and_judges_of_open_answers(scores, tmp_path):
    """Half of the items' replies are to options in another order, which the files say as evaluate and score write it."""
    folder = tmp_path / "two"
    shutil.copytree(scores / "two", folder)
    replies = read_jsonl(folder / "rollouts.jsonl")
    for row in replies[:6]:
        row["parents"] = [row["parents"][0].replace("/mede2/", "/mede2~7/")]
        row["metadata"] |= {"shuffle": 7, "order": "BACDE"}
        next(part for part in row["prompt"][-1]["content"] if part["type"] == "text")["text"] = "Which? (A) a fluid level (B) an opacity"
    replies.append(
        replies[0] | {"parents": replies[6]["parents"], "metadata": replies[6]["metadata"], "sample": 1, "response": "none of these"}
    )
    write_jsonl(folder / "rollouts.jsonl", replies)
    place = folder / TASK / PROMPT
    verdicts = read_jsonl(place / "verdicts.jsonl")
    for line in verdicts[:6]:
        line |= {
            "sample": 3,
            "shuffle": 7,
            "of_order": 0,
            "order": "BACDE",
            "rule": {"step": "answer tag", "outcome": "wrong"},
            "top5": True,
        }
    write_jsonl(place / "verdicts.jsonl", verdicts)
    said = json.loads((place / "score.json").read_text())
    digest = hashlib.sha256((folder / "rollouts.jsonl").read_bytes()).hexdigest()
    part = said["overall"] | {"items": 6, "samples": 6, "correct": 5, "accuracy": 5 / 6}
    agreed = {
        "responses": 10,
        "both_right": 4,
        "rule_only": 0,
        "judge_only": 2,
        "both_wrong": 4,
        "agreement": 0.8,
        "interval": [0.5, 0.9],
        "kappa": 0.6,
    }
    more = {
        "shuffles": {
            "by_seed": {"as it is": part, "7": part},
            "spread": {"mean": 0.5},
            "answers": {"items": 6, "changed": 2, "share": 1 / 3},
        },
        "judge": {
            "api": "gemini",
            "model": "gemini-2.5-pro",
            "prompt": {"title": "same answer 1"},
            "responses": 8,
            "correct": 3,
            "failed": 1,
            "agreement": agreed,
        },
        "left_out": ["MM-98", "MM-99"],
        "unjudged": 4,
        "responses": said["responses"] | {"path": str(folder / "rollouts.jsonl"), "digest": digest},
    }
    (place / "score.json").write_text(json.dumps(said | more))
    said_by_hand = made(tmp_path / "without", f"--scores=II={folder}")
    assert "give --image_root=FOLDER" in (said_by_hand / "index.html").read_text("utf-8"), (
        "its manifest is of the folder it was copied from"
    )
    assert loaded(said_by_hand, "items-0-0")[6]["images"][0]["fault"]
    out = made(tmp_path / "out", f"--scores=I={scores / 'one'},II={folder}", f"--image_root={folder}")
    assert loaded(out, "items-0-0")[6]["images"][0]["w"] == 160
    assert "not found in" not in (out / "index.html").read_text("utf-8")
    as_it_is, seven = rows(out, "orders")
    assert (as_it_is["options"], seven["options"], seven["correct"], seven["%"]) == ("as it is", "seed 7", "5 of 6", "83.33")
    (judge,) = rows(out, "judges")
    assert (judge["judge"], judge["decided"], judge["as right"], judge["failed"], judge["kappa"]) == (
        "gemini-2.5-pro",
        "7",
        "3",
        "1",
        "0.60",
    )
    assert (judge["% as the rule"], judge["only rule / only judge right"]) == ("80.00", "0 / 2")
    detail = rows(out, "scores")[1]["model (detail)"]
    assert detail == "items left out; not judged; judge failures; not the owner's whole set"
    page = (out / "index.html").read_text("utf-8")
    assert "2 items left out, which cannot be asked so" in page and "4 open answers taken for wrong by a rule alone" in page
    items = loaded(out, "items-0-0")
    shuffled, plain = items[0]["samples"][1][0], items[6]["samples"][1][0]
    assert (shuffled["order"], shuffled["rule"], shuffled["top5"]) == ("BACDE", "wrong", True) and shuffled["reply"][0][0] == "think"
    assert "Which? (A) a fluid level (B) an opacity" in shuffled["before"][-1]["pieces"] and "before" not in plain
    assert "order" not in plain and rows(out, "readings")[1]["MedEvalKit"] == "–", "letters as they were shown are not those of the file"
