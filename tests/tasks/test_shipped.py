"""Each YAML file of configs/tasks on small files in its benchmark's shape, with texts of our own."""

import json
import re

import pytest
from task_files import write_csv, write_parquet

from mede2_jax.score.__main__ import main
from mede2_jax.tasks.catalogue import SHIPPED, TASKS, find_task, open_items, shipped_names

IMAGE = {"bytes": b"\x89PNG", "path": None}


def image_rows(*answers):
    """As of flaviagiammarino's copies."""
    return [{"image": IMAGE, "question": f"Question {n}?", "answer": answer} for n, answer in enumerate(answers)]


def slake(number, answer, kind="OPEN", language="en"):
    columns = {"img_id": number, "img_name": f"xmlab{number % 2}/source.jpg", "question": f"Question {number}?", "answer": answer}
    more = {"location": "Lung", "modality": "CT", "base_type": "vqa", "content_type": "Organ", "triple": ["vhead", "_", "_"]}
    return columns | more | {"q_lang": language, "answer_type": kind, "qid": 11934 + number}


def omnimedvqa(dataset, number, answer, *options, **more):
    row = {"dataset": dataset, "question_id": f"{dataset}_{number:04}", "question_type": "Disease Diagnosis", "question": "Which?"}
    texts = {f"option_{letter}": text for letter, text in zip("ABCD", options, strict=False)}
    return row | {"gt_answer": answer, "image_path": f"Images/{dataset}/{number}.png", **texts, **(more or {"modality_type": "CT"})}


def write_json(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False), "utf-8")


def vqa_rad(folder):
    write_parquet(folder / "data" / "test-00000-of-00001-0123456789abcdef.parquet", image_rows("yes", "No", "right lung"))


def pathvqa(folder):
    for part, rows in enumerate((image_rows("yes", "in the canals"), image_rows("no"))):
        write_parquet(folder / "data" / f"test-0000{part}-of-00002-0123456789abcdef.parquet", rows)
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", image_rows("never"))


def slake_files(folder):
    write_json(folder / "test.json", [slake(0, "MRI"), slake(1, "Yes", "CLOSED"), slake(2, "", "OPEN", "zh"), slake(3, "Lung", "CLOSED")])


def pmc_vqa(folder):
    choices = {f"Choice {letter}": f" {letter}:pattern {letter} " for letter in "ABCD"}
    row = {"Figure_path": "PMC1_F1.jpg", "Question": "Which pattern, if any?", "Answer": "pattern B", **choices, "Answer_label": "B"}
    write_csv(folder / "test_clean.csv", [row])


def pmc_vqa_v2(folder):
    choices = {f"Choice {letter}": f" {letter}: pattern {letter}" for letter in "ABCD"}
    row = {"index": 3, "Figure_path": "PMC1_F1.jpg", "Caption": "a, b", "Question": "Which?", **choices, "Answer": "D", "split": "test"}
    write_csv(folder / "test_2.csv", [row])


def omnimedvqa_files(folder):
    where = folder / "QA_information" / "Open-access"
    write_json(where / "A.json", [omnimedvqa("A", 0, "No, it's normal.", "Yes", "No, It's normal.")])
    rows = [omnimedvqa("B", n, "cyst", "mass", "nodule", "cyst", "scar") for n in range(2)]
    write_json(where / "B C.json", [*rows, omnimedvqa("B", 2, "mass", "mass", "cyst", "nodule", modality="CT")])


def medframeqa(folder):
    columns = {"system": "chest", "organ": "lung", "keyword": "x", "modality": "CT", "question": "What changed?", "reasoning_chain": "…"}
    images = {f"image_{n}": IMAGE if n < 4 else None for n in range(1, 6)}
    row = {"question_id": "q7", **columns, "video_id": "v1", "options": ["mass", "cyst", "scar"], "correct_answer": "C", **images}
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", [row])


FILES = {
    "vqa_rad": (vqa_rad, ["yes_no", "yes_no", "open"], ["yes", "No", "right lung"], [1, 1, 1]),
    "pathvqa": (pathvqa, ["yes_no", "open", "yes_no"], ["yes", "in the canals", "no"], [1, 1, 1]),
    "slake": (slake_files, ["open", "short", "short"], ["MRI", "Yes", "Lung"], [1, 1, 1]),
    "pmc_vqa": (pmc_vqa, ["choice"], ["B"], [1]),
    "pmc_vqa_v2": (pmc_vqa_v2, ["choice"], ["D"], [1]),
    "omnimedvqa": (omnimedvqa_files, ["choice"] * 4, ["B", "C", "C", "A"], [1] * 4),
    "medframeqa": (medframeqa, ["choice"], ["C"], [3]),
}


def test_all_are_here():
    assert shipped_names() == sorted(FILES) and not set(FILES) & set(TASKS)


@pytest.mark.parametrize("name", FILES)
def test_each_reads_its_benchmarks_files(tmp_path, name):
    make, kinds, answers, images = FILES[name]
    make(tmp_path)
    task = find_task(name)
    found = open_items(task, tmp_path)
    assert task.name == name and task.counts[""] > 400
    assert [item.fields["kind"] for item in found.items] == kinds and [item.answer for item in found.items] == answers
    assert [len(item.images) for item in found.items] == images
    assert len(found.deviations) == 1 and "instead of" in found.deviations[0]
    assert [item.id for item in open_items(task, tmp_path, images=False).items] == [item.id for item in found.items]


def test_details_of_each(tmp_path):
    read = {}
    for name, (make, *_) in FILES.items():
        make(tmp_path / name)
        read[name] = open_items(find_task(name), tmp_path / name).items
    assert [item.id for item in read["pathvqa"]] == ["pathvqa-0", "pathvqa-1", "pathvqa-2"] and read["vqa_rad"][0].images[
        0
    ].data == b"\x89PNG"
    first = read["slake"][0]
    assert first.id == "11934" and first.images[0].name == "imgs/xmlab0/source.jpg" and first.cluster == "xmlab0/source.jpg"
    assert first.groups == {"kind": "open", "modality": "CT", "content_type": "Organ"}
    assert read["pmc_vqa"][0].options == read["pmc_vqa_v2"][0].options == {letter: f"pattern {letter}" for letter in "ABCD"}
    assert read["pmc_vqa"][0].images[0].name == "images/PMC1_F1.jpg" and read["pmc_vqa_v2"][0].images[0].name == "figures/PMC1_F1.jpg"
    assert read["omnimedvqa"][0].options == {"A": "Yes", "B": "No, It's normal."} and read["omnimedvqa"][0].id == "A_0000"
    assert read["omnimedvqa"][3].groups["modality_type"] == "unknown" and len(read["omnimedvqa"][3].options) == 3
    assert read["medframeqa"][0].cluster == "v1" and [image.data for image in read["medframeqa"][0].images] == [b"\x89PNG"] * 3


@pytest.mark.parametrize("name", FILES)
def test_each_opens_with_its_command_and_says_what_is_not_verified(name):
    header = (SHIPPED / f"{name}.yaml").read_text("utf-8").partition(f"\nname: {name}\n")[0]
    assert all(line.startswith("#") for line in header.splitlines()) and "Not verified:" in header and "Files: " in header
    assert f"python -m mede2_jax.score --task={name} --data=" in header and re.search(r"\bet al\. 20\d\d\)", header)


def test_the_example_in_the_data_readme_is_one(tmp_path):
    text = (SHIPPED.parents[1] / "data" / "README.md").read_text("utf-8")
    (tmp_path / "mine.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0], "utf-8")
    row = {"case": "c", "question": "?", "modality": "CT", "patient": "p1", "language": "en", "before": "1.png", "after": "2.png"}
    options = dict(zip("abcd", ("w", "x", "y", "z"), strict=True))
    rows = [
        row | {"case": kind, "type": kind, "answer": answer, **options} for kind, answer in (("mcq", "D"), ("yes/no", "no"), ("?", "x"))
    ]
    (tmp_path / "test").mkdir()
    write_json(tmp_path / "test" / "1.jsonl", [*rows, row | {"language": "de"}])
    found = open_items(find_task(str(tmp_path / "mine.yaml")), tmp_path).items
    assert [(item.fields["kind"], item.answer) for item in found] == [("choice", "D"), ("yes_no", "no"), ("open", "x")]
    assert [image.name for image in found[0].images] == ["scans/1.png", "scans/2.png"]


def test_open_and_closed_answers_are_scored_apart_and_words_beside(tmp_path, capsys):
    slake_files(tmp_path)
    more = [slake(4, "Right Pleural Effusion"), slake(5, "Lung, Heart")]
    write_json(tmp_path / "test.json", [slake(0, "MRI"), slake(1, "Yes", "CLOSED"), slake(3, "Lung", "CLOSED"), *more])
    said = {0: "MRI", 1: "Yes, it does", 3: "Answer: Heart", 4: "There is a pleural effusion", 5: "<answer> lung </answer>"}
    lines = [json.dumps({"qid": 11934 + number, "response": text}) for number, text in said.items()]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    main(["--task=slake", f"--data={tmp_path}", f"--responses={tmp_path / 'r.jsonl'}", f"--out={out}", "--mode=mede2"])
    result = json.loads((out / "score.json").read_text())
    assert {kind: (one["correct"], one["items"]) for kind, one in result["by"]["kind"].items()} == {"open": (1, 3), "short": (1, 2)}
    words = result["overall"]["words"]
    # By hand: 1; 2 of 3 words in a reply of four ("a" is none); 1 of 2 in a reply of one.
    assert words["items"] == 3 and words["recall"]["value"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert words["f1"]["value"] == pytest.approx((1 + 2 * 2 / (3 + 4) + 2 / 3) / 3)
    low, high = words["recall"]["interval"]
    assert 0 <= low < words["recall"]["value"] < high <= 1 and result["by"]["kind"]["open"]["words"] == words
    assert "words" not in result["by"]["kind"]["short"]
    assert result["definition"]["path"].endswith("configs/tasks/slake.yaml") and result["definition"]["digest"].startswith("sha256:")
    shown = " ".join(capsys.readouterr().out.split())
    assert "open answers (3 items): 72.22 (" in shown and "SLAKE (test, English)" in shown
    main(["--task=slake", f"--data={tmp_path}", f"--responses={tmp_path / 'r.jsonl'}", "--mode=official"])
    assert "this benchmark has no rule of its owner's here" in " ".join(capsys.readouterr().out.split())


def test_a_file_of_answers_may_carry_the_items(tmp_path):
    rows = [slake(0, "MRI") | {"response": "MRI"}, slake(1, "x", language="zh") | {"response": "MRI"}]
    write_json(tmp_path / "r.json", rows[:1])
    main(["--task=slake", f"--responses={tmp_path / 'r.json'}", "--columns.id=qid", f"--out={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out" / "score.json").read_text())["overall"]["accuracy"] == 1
