"""A report's folder: what is replaced and kept, what is markup, one file, and what cannot be reported."""

import json
import re
import shutil

import pytest
from report_files import PROMPT, TASK, answer, benchmark, evaluation, read_jsonl, write_jsonl
from reports import loaded, made, right_of, rows

from mede2_jax.command import run_command
from mede2_jax.report.__main__ import main
from mede2_jax.score.__main__ import main as score

SCRIPT = "<script>alert('x')</script>"


def test_nothing_foreign_is_markup(tmp_path):
    data = benchmark(tmp_path / "data", 3)
    lines = read_jsonl(data / "MM" / "test.jsonl")
    for line in lines:
        line["body_system"] = f"Bone {SCRIPT}"
        line["options"]["A"] = line["options"]["A"] + "</script><img src=x onerror=alert(1)>"
        head, _ = line["question"].split("\nAnswer Choices: ")
        tail = " ".join(f"({one}) {text}" for one, text in line["options"].items())
        line["question"] = f"{head} {SCRIPT} \u2028 {{{{ 7*7 }}}}\nAnswer Choices: {tail}"
    write_jsonl(data / "MM" / "test.jsonl", lines)
    evil = f"m{SCRIPT}$\\frac{{1}}{{0}}$"
    evaluation(tmp_path / "one", data, lambda item, sample: answer("A", f"{SCRIPT} ]]> <!-- &lt; \u2029"))
    evaluation(tmp_path / "two", data, lambda item, sample: answer("B", "Well."))
    for more in ([], ["--single_file"]):
        out = made(tmp_path / f"out{len(more)}", f"--scores={evil}={tmp_path / 'one'},7B={tmp_path / 'two'}", *more)
        page = (out / "index.html").read_text("utf-8")
        scripts = re.findall(r"<script\b[^>]*>", page)
        assert len(scripts) == (4 if not more else 4 + 4), "ours, and when all is inside, the data: index, items, board and texts"
        assert "alert('x')</script>" not in page and "<img src=x" not in page and "{{ 7*7 }}" in page
        for path in out.rglob("*"):
            if path.suffix in (".js", ".svg") and path.parent.name != "static":
                assert "<script" not in path.read_text("utf-8") and "\u2028" not in path.read_text("utf-8"), path
        table = (out / "tables" / "scores.md").read_text("utf-8")
        assert "<script>" not in table and "\\<script\\>" in table


def test_a_cell_is_no_formula(data, tmp_path):
    evaluation(tmp_path / "one", data, right_of(range(3)))
    out = made(tmp_path / "out", f"--scores=@SUM(1)={tmp_path / 'one'}")
    assert rows(out, "scores")[0]["model"] == "'@SUM(1)"


def test_the_same_scores_give_the_same_report(scores, tmp_path):
    flags = [f"--scores=I={scores / 'one'},II={scores / 'two'}"]
    one, other = (made(tmp_path / name, *flags) for name in ("one", "other"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert all((one / path).read_bytes() == (other / path).read_bytes() for path in files)


def test_a_report_that_is_made_again_replaces_its_own_files_only(scores, tmp_path):
    out = made(tmp_path / "out", f"--scores=I={scores / 'one'},II={scores / 'two'}")
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "mine.png").write_text("mine")
    assert (out / "tables" / "comparisons.csv").exists() and list((out / "figures").glob("figure5*.svg"))
    made(out, f"--scores=I={scores / 'one'}")
    assert not (out / "tables" / "comparisons.csv").exists() and not list((out / "figures").glob("figure5*"))
    assert (out / "notes.txt").read_text() == (out / "figures" / "mine.png").read_text() == "mine"
    listed = (out / "report-files.txt").read_text().splitlines()[1:]
    assert sorted(listed) == sorted(
        str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.name not in ("notes.txt", "mine.png", "report-files.txt")
    )


def test_what_a_killed_report_left_is_its_own(scores, tmp_path):
    out = made(tmp_path / "out", f"--scores=I={scores / 'one'}")
    list_of = out / "report-files.txt"
    list_of.write_text("\n".join(list_of.read_text().splitlines()[:1]) + "\ntables/old.csv\nindex.html\n")
    (out / "tables" / "old.csv").write_text("left")
    for name in ("tables", "scores", "data", "static", "images"):
        if name != "tables":
            shutil.rmtree(out / name)
    for path in (out / "tables").iterdir():
        if path.name != "old.csv":
            path.unlink()
    made(out, f"--scores=I={scores / 'one'}")
    assert not (out / "tables" / "old.csv").exists() and (out / "data" / "index.js").exists()


def test_replies_that_changed_since_are_not_shown(data, scores, tmp_path, capsys):
    shutil.copytree(scores / "one", tmp_path / "one")
    file = tmp_path / "one" / "rollouts.jsonl"
    score_file = tmp_path / "one" / TASK / PROMPT / "score.json"
    said = json.loads(score_file.read_text())
    score_file.write_text(json.dumps(said | {"responses": said["responses"] | {"path": str(file)}}))
    file.write_text(file.read_text().replace("<answer> A", "<answer> B"))
    out = made(tmp_path / "out", f"--scores=I={tmp_path / 'one'}")
    item = loaded(out, "items-0-0")[0]
    assert item["samples"][0][0]["reply"] is None and item["turns"], "the question is the benchmark's"
    assert "replies are not shown" in capsys.readouterr().out.replace("\n", " ")
    assert "has changed since it was scored" in (out / "index.html").read_text("utf-8")
    assert rows(out, "scores")[0]["correct"] == "3 of 12" and rows(out, "readings")[0]["MedEvalKit"] == "–"


def test_scores_that_were_moved_without_the_benchmark(tmp_path):
    data = benchmark(tmp_path / "data", 4)
    evaluation(tmp_path / "one", data, right_of(range(2)))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "one", tmp_path / "elsewhere" / "one")
    shutil.rmtree(data)
    out = made(tmp_path / "out", f"--scores={tmp_path / 'elsewhere' / 'one'}")
    item = loaded(out, "items-0-0")[0]
    assert item["answer"] is None and item["images"][0]["w"] == 160 and item["samples"][0][0]["reply"], "replies lie beside the score"
    assert "right answers and groups are not shown" in (out / "index.html").read_text("utf-8")
    assert loaded(out, "board-0")["groups"] == {}


def test_one_file_holds_everything(scores, tmp_path):
    out = made(tmp_path / "out", f"--scores=I={scores / 'one'},II={scores / 'two'}", "--single_file")
    page = (out / "index.html").read_text("utf-8")
    assert not (out / "static").exists() and not (out / "data").exists() and not (out / "images").exists()
    assert not re.findall(r'(?:src|href)="(?!#|data:|scores/)[^"]', page)
    inside = dict(re.findall(r'<script type="application/json" data-name="([^"]+)">(.*?)</script>', page, re.DOTALL))
    assert json.loads(inside["items-0-0"])[0]["images"][0]["src"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "nothing to report: give --scores=FOLDER,FOLDER"),
        (["--scores={none}"], "there is no folder"),
        (["--scores={empty}"], "holds no score.json; give a folder that python -m mede2_jax.score or evaluate wrote"),
        (["--scores={one},{one}"], "is given twice"),
        (["--scores=a={one},a={copy}"], "are both a's scores of medxpertqa_mm (mede2, mede2); give them two names"),
        (["--scores={damaged}"], "they are not of one run"),
        (["--scores={wrong}"], "overall.accuracy"),
        (["--scores={both}"], "holds a score.json of its own and 1 score below it, such as {both}/medxpertqa_mm/mede2; move its own"),
        (["--scores={one}", "--base=big"], "--base=big is none of the models: one"),
        (["--scores={one}", "--judgments={one}"], "judgments and people belong together"),
        (["--scores={one}", "--out={taken}"], "holds an index.html that is no report's"),
        (["--scores={one}", "--out={listing}"], "which is outside"),
        (["--runs={empty}"], "is no training run"),
        (["--funnel={empty}/x.jsonl"], "there is neither"),
        (["--score={one}"], "did you mean '--scores'?"),
    ],
)
def test_what_cannot_be_reported_is_one_line(scores, tmp_path, flags, expected, capsys):
    places = {"none": tmp_path / "none", "one": scores / "one"}
    for name in ("empty", "copy", "damaged", "wrong", "both", "taken", "listing"):
        places[name] = tmp_path / name
        if name in ("copy", "damaged", "wrong", "both"):
            shutil.copytree(scores / "one", places[name])
        else:
            places[name].mkdir()
    below = f"{TASK}/{PROMPT}"
    verdicts = places["damaged"] / below / "verdicts.jsonl"
    verdicts.write_text("".join(verdicts.read_text().splitlines(keepends=True)[1:]))
    file = places["wrong"] / below / "score.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"overall": said["overall"] | {"accuracy": "0.5"}}))
    for name in ("score.json", "verdicts.jsonl"):
        shutil.copy(places["both"] / below / name, places["both"])
    (places["taken"] / "index.html").write_text("mine")
    (places["listing"] / "report-files.txt").write_text("# Files of a report\n../../etc/passwd\n")
    given = [flag.format(**places) for flag in flags]
    out = [] if any(flag.startswith("--out") for flag in flags) else [f"--out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as raised:
        run_command(main, [*given, *out])
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.err.count("\n") == 1 and captured.err.startswith("error: "), captured.err
    assert expected.format(**places) in captured.err and not (tmp_path / "out" / "index.html").exists()
    assert (places["taken"] / "index.html").read_text() == "mine"


def test_a_prompt_that_the_benchmark_does_not_have(data, tmp_path):
    file = write_jsonl(tmp_path / "r.jsonl", [{"id": f"MM-{n}", "response": "A"} for n in range(12)])
    score([f"--task={TASK}", f"--data={data}", f"--responses={file}", f"--out={tmp_path / 'one'}"])
    said = json.loads((tmp_path / "one" / "score.json").read_text())
    (tmp_path / "one" / "score.json").write_text(json.dumps(said | {"prompt": "of a later version"}))
    out = made(tmp_path / "out", f"--scores={tmp_path / 'one'}")
    assert "has no prompt &#39;of a later version&#39; in this version" in (out / "index.html").read_text("utf-8")
    assert loaded(out, "items-0-0")[0]["turns"] == [] and rows(out, "scores")[0]["correct"] == "3 of 12"


def test_how_others_asked_is_not_known(data, scores, tmp_path):
    """Of a foreign file beside nothing, beside a model of which it is known, and where the user says it."""
    file = write_jsonl(tmp_path / "r.jsonl", [{"id": f"MM-{n}", "response": "A"} for n in range(12)])
    line = [f"--task={TASK}", f"--data={data}", f"--responses={file}"]
    score([*line, f"--out={tmp_path / 'unknown'}"])
    score([*line, "--prompt=cot", f"--out={tmp_path / 'said'}"])
    for given, heading, details in (
        (["unknown"], "prompt not known (taken for cot)", ["prompt not known"]),
        (["said"], "asked as cot", [""]),
        (["said", "unknown"], "asked as cot (not known of some)", ["", "prompt not known"]),
    ):
        out = made(tmp_path / "-".join(given), f"--scores={','.join(str(tmp_path / one) for one in given)}")
        found = rows(out, "scores")
        assert {row["part"] for row in found} == {f"MedXpertQA MM · {heading} · read as mede2"}
        assert [row["model (detail)"].split("; ")[0] for row in found] == [one or "not the owner's whole set" for one in details]
        ours = [row[" (detail)"].split("; ")[0] for row in rows(out, "table1") if row["part"] == "scored here"]
        assert ours == ["asked as cot" if not one else "prompt not known (taken for cot)" for one in details]
    assert "asked as mede2 · read" in (made(tmp_path / "known", f"--scores={scores / 'one'}") / "index.html").read_text("utf-8")


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--scores=stage1=scores/sft,stage2=scores/dpo" in capsys.readouterr().out
