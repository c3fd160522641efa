"""Every benchmark from files in its owner's shapes."""

import json
from pathlib import Path

import pytest
from task_files import (
    diagnosisarena,
    medbullets,
    medqa,
    medxpertqa,
    mmmu,
    mmmu_pro,
    mmxu,
    write_csv,
    write_jsonl,
    write_parquet,
)

from mede2_jax.config import UserError
from mede2_jax.tasks.catalogue import TASKS, find_task, open_items
from mede2_jax.tasks.item import ItemImage
from mede2_jax.tasks.mmmu import DISCIPLINES, HEALTH

SAMPLES = Path(__file__).parents[2].parent / "shared" / "benchmarks"


def mmmu_of_files(number):
    """With its image as a name, as JSON can have it."""
    return mmmu(number) | {f"image_{n}": "a.png" for n in range(1, 8)}


def pro_of_files(number, **more):
    return mmmu_pro(number, **more) | {f"image_{n}": "a.png" for n in range(1, 8)}


def items(name, data):
    return open_items(find_task(name), data).items


def test_medxpertqa_of_the_hub_and_of_the_repository(tmp_path):
    rows = [medxpertqa(n, "ABCDE"[n], images="ab") for n in range(5)]
    hub = items("medxpertqa_mm", write_jsonl(tmp_path / "MM" / "test.jsonl", rows).parents[1])
    assert [item.id for item in hub] == [f"MM-{n}" for n in range(5)] and [item.answer for item in hub] == list("ABCDE")
    assert hub[1].question == "A patient, number 1. What is seen?" and hub[1].options["E"] == "finding 4"
    assert hub[1].images == (ItemImage("MM-1-a.jpeg"), ItemImage("MM-1-b.jpeg"))
    assert hub[1].groups == {"question_type": "Reasoning", "medical_task": "Diagnosis", "body_system": "Skeletal"}
    inputs = [
        row
        | {
            "options": [{"letter": letter, "content": text} for letter, text in row["options"].items()],
            "label": [row["label"]],
            "images": [{"image_path": name} for name in row["images"]],
        }
        for row in rows
    ]
    assert items("medxpertqa_mm", write_jsonl(tmp_path / "mm_input.jsonl", inputs)) == hub
    assert items("medxpertqa_mm", write_parquet(tmp_path / "p" / "MM" / "test" / "0000.parquet", rows).parents[2]) == hub
    text = [medxpertqa(n, "J", subset="Text", images=(), options=10) for n in range(3)]
    assert [item.answer for item in items("medxpertqa_text", write_jsonl(tmp_path / "Text" / "test.jsonl", text))] == ["J"] * 3


def test_mmmu_takes_the_images_whose_marks_occur_in_their_order(tmp_path):
    images = {1: b"one", 2: b"two", 3: b"three"}
    rows = [
        mmmu(1, question="First <image 2>, then <image 1> and <image 2>.", images=images),
        mmmu(2, options=("<image 3>", "none"), question="Which?", images=images),
        mmmu(3, options=(), answer="2"),
        mmmu(4, options=(), answer="['a', 'b']") | {"question_type": "short-answer"},
    ]
    path = write_parquet(tmp_path / "Pharmacy" / "validation-00000-of-00001.parquet", rows)
    found = items("mmmu", tmp_path)
    assert [[image.data for image in item.images] for item in found] == [[b"two", b"one"], [b"three"], [b"one"], [b"one"]]
    assert [bool(item.options) for item in found] == [True, True, False, False]
    assert found[0].groups == {"discipline": "Health & Medicine", "subject": "Pharmacy", "question_type": "choice"}
    write_parquet(tmp_path / "Art" / "validation-00000-of-00001.parquet", [mmmu(1, "Art")])
    assert [item.groups["subject"] for item in items("mmmu", tmp_path)] == ["Art"] + ["Pharmacy"] * 4
    assert len(items("mmmu_health", tmp_path)) == 4, "Art is no subject of health"
    with pytest.raises(UserError, match=r"<image 4> stands in the text, and column 'image_4' is empty"):
        items("mmmu", write_parquet(path, [mmmu(1, question="<image 4>")]))


def test_mmmu_pro_in_its_settings(tmp_path):
    rows = [mmmu_pro(1), mmmu_pro(2, options=[["x", "y"]], answer="B"), mmmu_pro(3, "Art")]
    write_parquet(tmp_path / "standard (10 options)" / "test-00000-of-00001.parquet", rows)
    assert [item.options for item in items("mmmu_pro_standard10", tmp_path)][1] == {"A": "x", "B": "y"}
    assert [item.id for item in items("mmmu_pro_standard10_health", tmp_path)] == ["test_Pharmacy_1", "test_Pharmacy_2"]
    vision = [
        {
            "id": "test_Pharmacy_1",
            "image": {"bytes": b"screen", "path": None},
            "options": "['a', 'b']",
            "answer": "B",
            "subject": "Pharmacy",
        }
    ]
    write_parquet(tmp_path / "vision" / "test-00000-of-00001.parquet", vision)
    (item,) = items("mmmu_pro_vision", tmp_path)
    assert item.images == (ItemImage("image", b"screen"),) and item.question == ""


def test_medqa_of_its_owner_and_of_both_reuploads(tmp_path):
    rows = [medqa(0), medqa(1, "A", "step2&3"), medqa(2, "D", "stfep2&3")]
    found = items("medqa", write_jsonl(tmp_path / "4_options" / "phrases_no_exclude_test.jsonl", rows).parents[1])
    assert [(item.id, item.answer, item.groups["step"]) for item in found] == [
        ("medqa-0", "C", "step1"), ("medqa-1", "A", "step2&3"), ("medqa-2", "D", "step2&3")]  # fmt: skip
    hf = [{"id": "test-00000", "sent1": "Case 0?", "sent2": "", **{f"ending{n}": f"drug {'ABCD'[n]}0" for n in range(4)}, "label": 2}]
    (item,) = items("medqa", write_parquet(tmp_path / "medqa_hf.parquet", hf))
    assert (item.question, item.options, item.answer) == (found[0].question, found[0].options, "C")
    deviations = open_items(find_task("medqa"), tmp_path / "medqa_hf.parquet").deviations
    assert deviations == ["items: 1 instead of 1,273"], "that copy has no steps, which is no other revision"


def test_medbullets_of_both_sizes_in_both_forms(tmp_path):
    rows = [medbullets(1), medbullets(2), medbullets(2) | {"link": "https://example.org/other"}]
    found = items("medbullets_op5", write_csv(tmp_path / "medbullets_op5.csv", rows).parent)
    assert [item.answer for item in found] == ["E"] * 3 and found[0].question.endswith(",\nwith a line end?")
    assert found[1].cluster == found[2].cluster != found[0].cluster
    columns = {name: {str(n): row[name] for n, row in enumerate(rows)} for name in rows[0]}
    (tmp_path / "medbullets_op5.json").write_text(json.dumps(columns))
    assert items("medbullets_op5", tmp_path / "medbullets_op5.json") == found
    with pytest.raises(
        UserError, match=r"several files in .* may be medbullets_op5: medbullets_op5.csv, medbullets_op5.json; give --data=FILE"
    ):
        items("medbullets_op5", tmp_path)
    four = [medbullets(1, "D", 4)]
    assert list(items("medbullets_op4", write_csv(tmp_path / "medbullets_op4.csv", four))[0].options) == list("ABCD")


def test_mmxu_by_patient(tmp_path):
    rows = [mmxu(1), mmxu(2, prior=["files/p10/p10000032/s5/b.jpg"]), mmxu(3, patient="p19999999")]
    found = items("mmxu", write_jsonl(tmp_path / "MMXU-test.jsonl", rows).parent)
    assert [item.cluster for item in found] == ["p10000032", "p10000032", "p19999999"]
    assert found[1].images == (ItemImage("files/p10/p10000032/s5/b.jpg"), ItemImage("files/p10/p10000032/s21/a.jpg")), (
        "the one before first"
    )
    assert found[0].id == "1" and found[0].groups == {"content_type": "worsen"}


@pytest.mark.parametrize(
    "options",
    [
        {"A": "gout", "B": "lupus"},
        ["gout", "lupus"],
        '{"A": "gout", "B": "lupus"}',
        '["gout", "lupus"]',
        "A. gout\nB. lupus",
        "(A) gout\n(B) lupus",
        [{"letter": "A", "content": "gout"}, {"letter": "B", "content": "lupus"}],
    ],
)
def test_diagnosisarena_options_in_any_form(options, tmp_path):
    (item,) = items("diagnosisarena", write_jsonl(tmp_path / "diagnosisarena.jsonl", [diagnosisarena(7, options)]))
    assert item.options == {"A": "gout", "B": "lupus"} and item.answer == "B" and item.id == "7"


@pytest.mark.parametrize(
    ("name", "record", "expected"),
    [
        (
            "medxpertqa_mm",
            medqa(0),
            "column 'id' is missing; the columns are question, answer, options, meta_info, answer_idx; is a.jsonl a file of medxpertqa_mm?",
        ),
        ("medqa", medxpertqa(0), "column 'meta_info' is missing; the columns are id, question, options"),
        ("mmxu", medqa(0), "is a.jsonl a file of mmxu?"),
        ("medxpertqa_mm", medxpertqa(0, "F"), "column 'label' must be one of A, B, C, D, E, found F"),
        (
            "medxpertqa_mm",
            medxpertqa(0, options=4) | {"options": {"A": "other"}},
            "the choices at the end of 'question' are not those of 'options'",
        ),
        ("mmmu", {"id": "x"}, "column 'id' must be like validation_Clinical_Medicine_7, found x"),
        ("mmmu_pro_standard10", {"id": "test_Pharmacy_1", "options": "__import__('os')"}, "column 'options' must hold a list of texts"),
        ("mmmu_pro_standard10", {"id": "test_Pharmacy_1", "options": "{[]: 'x'}"}, "column 'options' must hold a list of texts"),
        ("mmxu", mmxu(1) | {"cur_image_path": "a.jpg"}, "names no patient"),
        ("mmxu", {k: v for k, v in mmxu(1).items() if k != "prior_image_path"}, "column 'prior_image_path' is missing; the columns are "),
        ("medbullets_op5", medbullets(1, options=4), "column 'ope' is missing"),
        ("medxpertqa_text", medxpertqa(1), "MM-1 is of MedXpertQA MM, and not of Text; take that task, or the other file"),
        ("medxpertqa_mm", medxpertqa(1, subset="Text", options=10), "Text-1 is of MedXpertQA Text, and not of MM; take that task"),
        ("medxpertqa_mm", medxpertqa(1, options=10), "column 'options' must hold 5 options, found 10: finding 0, "),
        ("medxpertqa_text", medxpertqa(1, subset="Text") | {"id": "7"}, "column 'options' must hold 10 options, found 5: "),
        ("medqa", medqa(1) | {"options": dict(zip("ABCDE", "abcde", strict=True))}, "must hold 4 options, found 5: a, b, c, d, e"),
        ("medbullets_op4", medbullets(1), "column 'ope' holds a fifth option (step e), so this is of medbullets_op5; take that task"),
        ("medbullets_op4", {"question": "?", "options": [*"vwxyz"], "answer_idx": "A"}, "must hold 4 options, found 5: v, w, x, y, z"),
        ("medbullets_op5", {"question": "?", "options": [*"wxyz"], "answer_idx": "A"}, "must hold 5 options, found 4: w, x, y, z"),
        ("mmmu_pro_standard10", mmmu_of_files(1), "column 'subject' is missing; the columns are id, question, options, answer"),
        ("mmmu", pro_of_files(1), "column 'question_type' is missing"),
        (
            "mmmu_pro_vision",
            pro_of_files(1, setting="standard10_direct"),
            "its 'setting' is standard10_direct, and not vision; take the task",
        ),
        ("mmmu_pro_standard4", pro_of_files(1, setting="standard (10 options)"), "is standard (10 options), and not standard4; take the"),
        ("mmmu_pro_standard10", pro_of_files(1, setting="vision"), "its 'setting' is vision, and not standard10; take the task"),
        ("diagnosisarena", diagnosisarena(1, "gout or lupus"), "column 'Options' must hold the options by letter"),
    ],
)
def test_a_file_of_another_benchmark_is_one_line(name, record, expected, tmp_path):
    with pytest.raises(UserError) as raised:
        items(name, write_jsonl(tmp_path / "a.jsonl", [record]))
    assert str(raised.value).startswith(f"{tmp_path / 'a.jsonl'}:1: ") and expected in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_of_another_setting_is_one_line_where_no_row_tells(tmp_path):
    """Ids and right answers' texts are the same in all settings of MMMU-Pro."""
    path, many = tmp_path / "p.jsonl", "abcdefghij"
    write_jsonl(path, [pro_of_files(n, answer="B", options=many if n % 3 else "ab") for n in range(6)])
    assert len(items("mmmu_pro_standard10", path)) == 6
    with pytest.raises(UserError, match=r"p.jsonl: 4 of 6 items have more than 4 options, so it is another setting's; take its task$"):
        items("mmmu_pro_standard4", path)
    write_jsonl(path, [pro_of_files(n) for n in range(30)])
    for name in ("mmmu_pro_standard10", "mmmu_pro_vision_health"):
        with pytest.raises(UserError, match=r"none of 30 items has more than 4 options, so it is mmmu_pro_standard4's; take that task$"):
            items(name, path)
    write_jsonl(path, [pro_of_files(n) for n in range(29)])
    assert len(items("mmmu_pro_standard10", path)) == 29, "so few may be those that have few options"
    for setting in ("standard10_cot", "standard (10 options)", "direct", "10", None, 3):
        assert items("mmmu_pro_standard10", write_jsonl(path, [pro_of_files(1, setting=setting)]))


def test_what_is_missing_or_there_twice_is_said(tmp_path):
    with pytest.raises(UserError, match=r"unknown task 'medxpertqa_m' \(did you mean 'medxpertqa_mm'\?\); the tasks are medxpertqa_mm, "):
        find_task("medxpertqa_m")
    with pytest.raises(UserError, match=r"no file of mmxu in .*\(looked for MMXU-test.jsonl, mmxu\*\); give --data=FILE, or fetch it"):
        items("mmxu", tmp_path)
    with pytest.raises(UserError, match="there is no such file or folder"):
        items("mmxu", tmp_path / "none")
    with pytest.raises(UserError, match="ids given twice: MM-3; each must be there once"):
        items("medxpertqa_mm", write_jsonl(tmp_path / "a.jsonl", [medxpertqa(3), medxpertqa(4), medxpertqa(3)]))
    with pytest.raises(UserError, match="none of its items is one of mmmu_health"):
        items("mmmu_health", write_jsonl(tmp_path / "b.jsonl", [mmmu(1, "Art", images={}) | {f"image_{n}": "a.png" for n in range(1, 8)}]))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MedQA", "'medqa'"),
        ("VQA-RAD", "'vqa_rad'"),
        ("MedXpertQA MM", "'medxpertqa_mm'"),
        ("medqaa", "'medqa'"),
        ("vqarad", "'vqa_rad'"),
        ("medxpertqa", "'medxpertqa_mm' or 'medxpertqa_text'"),
        ("Medbullets", "'medbullets_op4' or 'medbullets_op5'"),
        ("MMMU-Pro-standard10-", "'mmmu_pro_standard10'"),
        ("mmmu_pro_v", "'mmmu_pro_vision' or 'mmmu_pro_vision_health'"),
        ("mmmu_validation", "'mmmu'"),
        ("mmmu_pro_10", "'mmmu_pro_standard10' or 'mmmu_pro_standard10_health'"),
        ("medxpertqa_images", "'medxpertqa_mm' or 'medxpertqa_text'"),
    ],
)
def test_an_unknown_task_is_told_the_names_that_are_near(name, meant):
    with pytest.raises(UserError) as raised:
        find_task(name)
    assert f"unknown task {name!r} (did you mean {meant}?); the tasks are medxpertqa_mm, " in str(raised.value)


@pytest.mark.parametrize("name", ["truthful_qa", "", "?", "m" * 5000])
def test_nothing_is_suggested_for_a_name_that_is_near_none(name):
    with pytest.raises(UserError, match="unknown task ") as raised:
        find_task(name)
    assert "did you mean" not in str(raised.value) and len(str(raised.value)) < 1000


def test_another_revision_is_noticed(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [medxpertqa(n) for n in range(4)])
    one = open_items(find_task("medxpertqa_mm"), path)
    assert one.deviations[:2] == ["items: 4 instead of 2,000", "question_type=Reasoning: 2 instead of 1,446"]
    write_jsonl(path, [medxpertqa(n) for n in range(5)])
    assert open_items(find_task("medxpertqa_mm"), path).digest != one.digest


def test_denominators_add_up():
    for task in TASKS.values():
        for column in {part.partition("=")[0] for part in task.counts} - {""}:
            assert sum(count for part, count in task.counts.items() if part.startswith(f"{column}=")) == task.counts[""], (
                task.name,
                column,
            )
    assert len(HEALTH) == 5 and len({subject for some in DISCIPLINES.values() for subject in some}) == 30


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs real rows of the benchmarks beside the checkout")
@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("medxpertqa_mm", "medxpertqa_mm.sample.jsonl", 6),
        ("medxpertqa_mm", "medxpertqa_mm.more.sample.jsonl", 8),
        ("medxpertqa_text", "medxpertqa_text.sample.jsonl", 4),
        ("medqa", "medqa_4options.sample.jsonl", 6),
        ("medbullets_op5", "medbullets_op5.sample.csv", None),
        ("mmxu", "mmxu.sample.jsonl", None),
    ],
)
def test_real_rows(name, file, count):
    found = items(name, SAMPLES / file)
    assert len(found) == count or count is None
    assert all(item.answer in item.options for item in found)
