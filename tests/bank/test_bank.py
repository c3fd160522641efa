"""From sources to a bank, by the command: what is taken, what is left out and why, and what is refused."""

import base64
import hashlib
import json
import signal
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from banking import bank, lines, manifest, refused
from killed_steps import run_until
from packages import picture, wide_picture
from PIL import Image

from mede2_jax.bank.__main__ import main
from mede2_jax.data.questions import open_questions
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.reasoning.prompts import SYSTEM

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "benchmarks"


def column_map(folder, rows, more=(), *, columns=None, **fields):
    """A table of choices with its YAML file, and the flags that name both."""
    lines(folder / "rows.jsonl", rows)
    said = {"name": "ward", "files": ["*.jsonl"], "kind": "choice", "columns": {"id": "id", "question": "q", "answer": "a", "options": "o"}}
    said["columns"] |= columns or {}
    (folder / "ward.yaml").write_text(json.dumps({**said, **fields}), encoding="utf-8")  # JSON is YAML
    return [f"--source={folder / 'ward.yaml'}", f"--data={folder}", f"--out={folder / 'out' / 'bank.jsonl'}", *more]


def row(number=1, **fields):
    return {"id": f"r{number}", "q": "Which?", "a": "B", "o": {"A": "gout", "B": "sprain"}} | fields


def test_without_arguments_it_takes_the_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([])
    questions = bank("runs/bank.jsonl")
    assert len(questions) == 93 and sum(bool(question.images) for question in questions) == 48
    said = manifest("runs/bank.jsonl")
    assert [list(source["questions"].values()) for source in said["sources"]] == [[45, 45, 0], [48, 48, 48]]
    assert said["sources"][0]["definition"]["path"].endswith("text_questions.yaml")
    assert said["file"]["digest"] == file_digest(tmp_path / "runs" / "bank.jsonl")
    file = open_questions(tmp_path / "runs" / "bank.jsonl", None, 10**7)  # as rollout opens it
    assert len(file.ids()) == 93
    assert all(checked.id for checked in file.check(range(93), lambda question, sizes: None))


def test_a_row_becomes_the_question_that_the_paper_asks(tmp_path):
    (tmp_path / "scan.png").write_bytes(picture(0))
    main(
        column_map(
            tmp_path, [row(i="scan.png", w="x", p="7")], columns={"images": "i", "groups": ["w"], "cluster": "p"}, licence="cc by 4.0"
        )
    )
    (question,) = bank(tmp_path / "out" / "bank.jsonl")
    kept = f"images/{hashlib.sha256(picture(0)).hexdigest()}.png"
    assert question.model_dump(exclude_none=True) == {
        "id": "ward/r1",
        "images": (kept,),
        "parents": (),
        "source": "ward",
        "licence": "CC-BY-4.0",
        "metadata": {"item": "r1", "case": "7", "kind": "choice", "groups": {"w": "x"}},
        "prompt": (
            {"role": "system", "content": SYSTEM.text},
            {"role": "user", "content": ({"type": "image"}, {"type": "text", "text": "Which?\nAnswer Choices: (A) gout (B) sprain"})},
        ),
        "answer": "B",
        "options": {"A": "gout", "B": "sprain"},
    }
    assert (tmp_path / "out" / kept).read_bytes() == picture(0)


def test_choices_at_the_end_of_a_question_are_not_shown_twice(tmp_path):
    main(column_map(tmp_path, [row(q="Which?\nAnswer Choices: (A) gout (B) sprain")]))
    assert bank(tmp_path / "out" / "bank.jsonl")[0].prompt[1].text == "Which?\nAnswer Choices: (A) gout (B) sprain"


@pytest.mark.parametrize("form", ["csv", "parquet", "base64"])
def test_tables_of_every_form_are_read(tmp_path, form):
    data, rows = picture(1), [row(i=None), row(2)]
    if form == "csv":
        (tmp_path / "rows.csv").write_text('id,q,a,A,B\nr1,"Which, then?",B,gout,sprain\n', encoding="utf-8")
        flags = column_map(tmp_path, rows, files=["rows.csv"], columns={"options": ["A", "B"]})
    elif form == "parquet":
        table = pyarrow.Table.from_pylist([row(i={"bytes": data, "path": None}) | {"o": ["gout", "sprain"]}])
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        flags = column_map(tmp_path, rows, files=["*.parquet"], columns={"images": "i"})
    else:
        flags = column_map(tmp_path, [row(i=base64.b64encode(data).decode())], columns={"images": "i"}, images_are="base64")
    main(flags)
    (question,) = bank(tmp_path / "out" / "bank.jsonl")
    assert (question.id, question.answer, question.options) == ("ward/r1", "B", {"A": "gout", "B": "sprain"})
    assert [(tmp_path / "out" / name).read_bytes() for name in question.images] == ([] if form == "csv" else [data])


def test_an_image_of_two_questions_is_kept_once(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(3))
    main(column_map(tmp_path, [row(1, i="a.png"), row(2, i="b.png")], columns={"images": "i"}))
    one, other = bank(tmp_path / "out" / "bank.jsonl")
    assert one.images == other.images and len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_a_wide_image_gets_a_window_that_is_said(tmp_path):
    values = np.tile(np.linspace(1000, 3000, 2001), (100, 1))
    values[0, 0], values[0, 1] = 0, 65_535  # a marker, and a dead pixel
    (tmp_path / "wide.png").write_bytes(wide_picture(values))
    flags = column_map(tmp_path, [row(i="wide.png")], columns={"images": "i"})
    main(flags)
    (question,) = bank(tmp_path / "out" / "bank.jsonl")
    (name,) = question.images
    low, high = question.metadata["windows"][name]
    assert (low, high) == pytest.approx((1010, 2990), abs=1)
    with Image.open(tmp_path / "out" / name) as image:
        seen = np.asarray(image).astype(int)
    assert image.mode == "L" and seen[0, 0] == 0 and seen[0, 1] == 255
    expected = np.clip((values.astype(np.uint16) - low) / (high - low), 0, 1) * 255
    assert np.abs(seen - expected).max() <= 0.5 + 1e-9
    main([*flags, "--window=0,100"])
    (question,) = bank(tmp_path / "out" / "bank.jsonl")
    assert list(question.metadata["windows"].values()) == [[0, 65_535]]


def test_records_are_taken_as_they_are(tmp_path, sample):
    main(["--source=records", f"--data={sample / 'questions.jsonl'}", f"--out={tmp_path / 'bank.jsonl'}"])
    before, after = bank(sample / "questions.jsonl"), bank(tmp_path / "bank.jsonl")
    for one, other in zip(before, after, strict=True):
        assert one.model_dump(exclude={"images", "source"}) == other.model_dump(exclude={"images", "source"})
        assert [(sample / name).read_bytes() for name in one.images] == [(tmp_path / name).read_bytes() for name in other.images]
    assert {one.source for one in after} == {"records"}
    # A bank is a source of another, and changes no more.
    main(["--source=records", f"--data={tmp_path / 'bank.jsonl'}", f"--out={tmp_path / 'again' / 'bank.jsonl'}"])
    assert (tmp_path / "again" / "bank.jsonl").read_bytes() == (tmp_path / "bank.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("said", "taken"), [("CC BY 4.0", True), ("CC BY-NC 4.0", False), ("all rights reserved", False), ("", True), (None, True)]
)
def test_questions_under_a_licence_that_forbids_use_are_left_out_and_counted(tmp_path, said, taken):
    main(column_map(tmp_path, [row(1, l=said), row(2, l="CC0")], columns={"licence": "l"}))
    assert [one.id for one in bank(tmp_path / "out" / "bank.jsonl")] == (["ward/r1"] if taken else []) + ["ward/r2"]
    said_of = manifest(tmp_path / "out" / "bank.jsonl")
    assert said_of["counts"]["questions"] == {"in": 2, "out": 1 + taken}
    known = "CC-BY-NC-4.0" if (said or "").startswith("CC") else said
    assert said_of["dropped"] == ({} if taken else {f"its licence ({known}) is none of --licences": 1})


def test_licences_may_be_said_and_allowed(tmp_path):
    flags = column_map(tmp_path, [row()])
    main([*flags, "--licence=cc-by-nc-4.0", "--licences=cc-by-nc"])
    assert bank(tmp_path / "out" / "bank.jsonl")[0].licence == "CC-BY-NC-4.0"
    assert "no question is left of 1 (1: its licence (CC-BY-NC-4.0) is none of --licences)" in refused([*flags, "--licence=cc-by-nc-4.0"])
    assert bank(tmp_path / "out" / "bank.jsonl")[0].licence == "CC-BY-NC-4.0", "the bank before is as it was"


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ({"columns": {"question": "qestion"}}, [], "no column 'qestion', which ward names; the columns are id, q, a, o"),
        ({"columns": {"licence": "l"}}, [], "no column 'l', which ward names"),
        ({"columns": {"license": "l"}}, [], "unknown key 'columns.license' (did you mean 'licence'?)"),
        ({}, ["--licence=nonsense"], "--licence: 'nonsense' is no licence that is known"),
        ({}, ["--licences=CC-BX"], "--licences: 'CC-BX' is no licence that is known"),
        ({}, ["--window=90,10"], "--window: must be two shares in per cent, the lower one first"),
        ({}, ["--data=a,b"], "source names 1 and data 2"),
        ({}, ["--source=medqs", "--data=."], "unknown source 'medqs' (did you mean 'medqa'?)"),
        ({}, ["--source=recods", "--data=."], "unknown source 'recods' (did you mean 'records'?)"),
        (
            {},
            ["--source=medqa", "--data=."],
            "medqa is a benchmark, and '.' is a folder: the file that evaluate reads there is not for training",
        ),
        ({}, ["--source=medqa", "--data=nowhere"], "no data of medqa at 'nowhere': there is no such file or folder"),
        ({}, ["--license=MIT"], "unknown option '--license' (did you mean '--licence'?)"),
        ({}, ["--out=."], "--out=. is a folder; give a file"),
        ({"columns": {"images": "i"}}, [], "no column 'i'"),
        ({"rows": [row(o={"A": " ", "B": "sprain"})]}, [], "ward, item r1: field 'options.A' is empty"),
        ({"rows": [row(o={"B": "sprain"})]}, [], "a choice wants two options or more, found 1"),
        ({"rows": [row(a="C")]}, [], "column 'a' must be one of A, B, found C"),
        ({"rows": [row(q=" ")]}, [], "column 'q' must be text"),
        ({"rows": [row(i="")], "columns": {"images": "i"}}, [], "ward, item r1: no image in column 'i', and each item of ward has one"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, change, more, said):
    assert said in refused(column_map(tmp_path, change.pop("rows", [row()]), more, **change))
    assert not (tmp_path / "out" / "bank.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../secret.png", "no image '../secret.png' in "),
        ("/etc/hostname", "no image '/etc/hostname' in "),
        ("missing.png", "no image 'missing.png' in "),
        ("text.png", "image 'text.png' is not an image that Pillow can read"),
        ("big.png", "image 'big.png' has 40×30 = 1,200 pixels, more than"),
    ],
)
def test_an_image_that_cannot_be_used_is_one_line(tmp_path, name, said):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture(1))
    (folder / "text.png").write_text("text")
    (folder / "big.png").write_bytes(picture(2, (30, 40)))
    told = refused(column_map(folder, [row(i=name)], ["--max_image_pixels=1000"], columns={"images": "i"}))
    assert told.startswith("ward, item r1: ") and said in told


@pytest.mark.parametrize("is_across", [False, True], ids=["one file", "two sources"])
def test_an_id_that_is_given_twice_is_one_line(tmp_path, sample, is_across):
    if is_across:
        (tmp_path / "copy.jsonl").write_bytes((sample / "questions.jsonl").read_bytes())
        data = f"--data={sample / 'questions.jsonl'},{tmp_path / 'copy.jsonl'}"
        said = refused(["--source=records,records", data, f"--images={sample}", f"--out={tmp_path / 'bank.jsonl'}"])
        assert f"{tmp_path / 'copy.jsonl'}:1: the id 'sample-case-pneumothorax-1' is also that of {sample / 'questions.jsonl'}:1" in said
    else:
        assert "the id 'ward/r1' is also that of ward, item r1" in refused(column_map(tmp_path, [row(), row()]))


def test_a_file_that_another_command_made_stays(tmp_path):
    flags = column_map(tmp_path, [row()])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bank.jsonl").write_text("mine")
    assert "was not made by python -m mede2_jax.bank" in refused(flags)
    assert (tmp_path / "out" / "bank.jsonl").read_text() == "mine"


def test_the_split_that_scores_are_of_is_told(tmp_path, capsys):
    options = dict(zip("ABCD", "wxyz", strict=True))
    lines(tmp_path / "test.jsonl", [{"question": "Q?", "options": options, "answer_idx": "A", "answer": "w", "meta_info": "step1"}])
    main(["--source=medqa", f"--data={tmp_path / 'test.jsonl'}", f"--out={tmp_path / 'bank.jsonl'}"])
    assert "has the name of the split that medqa is scored by" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_killed_at_any_step_the_same_command_makes_the_same_bank(tmp_path, sample):
    def flags(out):
        return ["--source=records", f"--data={sample / 'questions.jsonl'}", f"--out={tmp_path / out / 'bank.jsonl'}"]

    def files(out):
        return {path.name: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file() and "manifest" not in path.name}

    main(flags("whole"))
    whole = files("whole")
    for at in (1, len(whole) // 2, len(whole), len(whole) + 1):  # the images, then the bank and its manifest
        killed = run_until("bank", at, signal.SIGKILL, flags(f"at-{at}"))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        main(flags(f"at-{at}"))
        assert {name: content for name, content in files(f"at-{at}").items() if not name.endswith(".partial")} == whole
        assert manifest(tmp_path / f"at-{at}" / "bank.jsonl")["file"]["digest"] == file_digest(tmp_path / "whole" / "bank.jsonl")


@pytest.mark.parametrize(
    ("task", "file", "count"),
    [
        ("medbullets_op5", "medbullets_op5.sample.csv", 5),
        ("medqa", "medqa_4options.sample.jsonl", 6),
        ("medxpertqa_text", "medxpertqa_text.sample.jsonl", 4),
        ("medxpertqa_mm", "medxpertqa_mm.sample.jsonl", None),
        ("mmxu", "mmxu.sample.jsonl", None),
    ],
)
def test_the_owners_files_import(tmp_path, task, file, count):
    if not SHARED.is_dir():
        pytest.skip("the owners' rows are not beside the checkout")
    rows = [] if file.endswith("csv") else [json.loads(line) for line in (SHARED / file).read_text("utf-8").splitlines()]
    for number, name in enumerate(sorted(names(rows))):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(picture(number, format="JPEG"))
    main([f"--source={task}", f"--data={SHARED / file}", f"--images={tmp_path / 'images'}", f"--out={tmp_path / 'bank.jsonl'}"])
    questions = bank(tmp_path / "bank.jsonl")
    assert len(questions) == (count or len(rows)) and all(question.answer in question.options for question in questions)
    assert bool(questions[0].images) == (count is None)


def names(rows):
    """Of the image files that rows name."""
    for one in rows:
        yield from (image["image_path"] if isinstance(image, dict) else image for image in one.get("images") or ())
        yield from (one[name] for name in ("cur_image_path", "prior_image_path") if name in one)
