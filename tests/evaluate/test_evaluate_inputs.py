"""Files that are not as they should be: one line that names the place, status 2, and nothing asked."""

import base64
import json

import pytest
from benchmark_files import OWN, png
from chat_server import ChatServer
from evaluating import lines
from task_files import medqa, medxpertqa, mmmu, mmmu_pro, write_jsonl, write_parquet
from test_evaluate_api import asked

from mede2_jax.command import run_command
from mede2_jax.evaluate.__main__ import main


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "loopback-key")


def parquet(folder, change):
    path = write_parquet(folder / "Pharmacy" / "validation-00000-of-00001.parquet", [mmmu(1, images={1: png(1)})])
    path.write_bytes(change(path.read_bytes()))


def yaml(folder, text, **row):
    (folder / "own.yaml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "own.yaml").write_text(text)
    first = {"case": "w0", "question": "What?", "answer": "B", "options": ["x", "y"], "kind": "pick", "part": "chest"}
    write_jsonl(folder / "rows.jsonl", [first | {"pictures": [base64.b64encode(png(3)).decode()]} | row])


def without_images(row):
    return {name: value for name, value in row.items() if not name.startswith("image_")}


CASES = {
    "duplicate ids": (
        "medxpertqa_text",
        lambda folder: write_jsonl(folder / "Text" / "test.jsonl", [medxpertqa(1, subset="Text", images=(), options=10)] * 2),
        "ids given twice: Text-1; each must be there once",
    ),
    "parquet that is cut": (
        "mmmu_health",
        lambda folder: parquet(folder, lambda data: data[: len(data) // 2]),
        "cannot be read as parquet",
    ),
    "parquet that is text": ("mmmu_health", lambda folder: parquet(folder, lambda data: b"hello"), "cannot be read as parquet"),
    "parquet that is empty": ("mmmu_health", lambda folder: parquet(folder, lambda data: b""), "cannot be read as parquet"),
    "a mark without its image": (
        "mmmu_health",
        lambda folder: write_parquet(folder / "Pharmacy" / "validation-0.parquet", [mmmu(1, images={2: png(1)})]),
        "<image 1> stands in the text, and column 'image_1' is empty",
    ),
    "an image that is none": (
        "mmmu_health",
        lambda folder: write_parquet(folder / "Pharmacy" / "validation-0.parquet", [mmmu(1, images={1: b"GIF89a"})]),
        "mmmu_health, item validation_Pharmacy_1: image '1.png'",
    ),
    "a file of another benchmark": (
        "medqa",
        lambda folder: write_jsonl(folder / "medqa.jsonl", [medxpertqa(1, subset="Text", images=(), options=10)]),
        "is medqa.jsonl a file of medqa?",
    ),
    "a line that is cut": (
        "medqa",
        lambda folder: write_jsonl(folder / "medqa.jsonl", [medqa(1)]).write_text(json.dumps(medqa(1))[:-9]),
        "medqa.jsonl:1: not valid JSON",
    ),
    "an answer that is no option": (
        "medqa",
        lambda folder: write_jsonl(folder / "medqa.jsonl", [medqa(1) | {"answer_idx": "E"}]),
        "medqa.jsonl:1: column 'answer_idx' must be one of A, B, C, D, found E",
    ),
    "no file at all": ("medqa", lambda folder: folder.mkdir(), "no file of medqa in "),
    "a column of the YAML file that is not there": (
        "{folder}/own.yaml",
        lambda folder: yaml(folder, OWN.replace("question: question", "question: qestion")),
        "no column 'qestion' (did you mean 'question'?), which ward_round names",
    ),
    "a key that no YAML file has": (
        "{folder}/own.yaml",
        lambda folder: yaml(folder, OWN.replace("images_are", "image_are")),
        "unknown key 'image_are' (did you mean 'images_are'?)",
    ),
    "a column of images of the YAML file that is not there": (
        "{folder}/own.yaml",
        lambda folder: yaml(folder, OWN.replace("images: pictures", "images: picturs")),
        "no column 'picturs' (did you mean 'pictures'?), which ward_round names; the columns are case, question,",
    ),
    "another column of images than the YAML file of the repository names": (
        "vqa_rad",
        lambda folder: write_parquet(folder / "data" / "test-0.parquet", [{"img": {"bytes": png(1)}, "question": "?", "answer": "yes"}]),
        "no column 'image', which vqa_rad names; the columns are img, question, answer",
    ),
    "no column of images": (
        "medxpertqa_mm",
        lambda folder: write_jsonl(folder / "MM" / "test.jsonl", [medxpertqa(1, images=())]),
        "test.jsonl: no column 'images', which medxpertqa_mm names; the columns are id, question, options, label, ",
    ),
    "none of several columns of images": (
        "mmmu_health",
        lambda folder: write_jsonl(folder / "mmmu.jsonl", [without_images(mmmu(1))]),
        "mmmu.jsonl: no column 'image_1', which mmmu_health names; the columns are id, question, options, answer, question_type",
    ),
    "no column of a picture with the question": (
        "mmmu_pro_vision",
        lambda folder: write_parquet(folder / "vision" / "test-0.parquet", [mmmu_pro(1, images={1: png(1)})]),
        "no column 'image', which mmmu_pro_vision names",
    ),
    **{
        f"an item whose images are {nothing}": (
            "medxpertqa_mm",
            lambda folder, nothing=nothing: write_jsonl(folder / "MM" / "test.jsonl", [medxpertqa(1) | {"images": nothing}]),
            "medxpertqa_mm, item MM-1: no image in column 'images', and each item of medxpertqa_mm has one; put it there\n",
        )
        for nothing in (None, [])
    },
    "an item without its picture": (
        "{folder}/own.yaml",
        lambda folder: yaml(folder, OWN, pictures=[]),
        "each item of ward_round has one; put it there, or say 'some_without_images: true' in its YAML file",
    ),
    "items without images where none are named": (
        "{folder}/own.yaml",
        lambda folder: yaml(folder, OWN.replace("images: pictures, ", "") + "some_without_images: true\n"),
        "'some_without_images' has no use without columns.images; leave it out",
    ),
    "a picture that is no base64": ("{folder}/own.yaml", lambda folder: yaml(folder, OWN, pictures=["?"]), "must hold an image in base64"),
    "a picture that is no image": (
        "{folder}/own.yaml",
        lambda folder: yaml(folder, OWN, pictures=["aGVsbG8="]),
        "ward_round, item w0: image 'pictures 1'",
    ),
    "a kind that nobody knows": (
        "{folder}/own.yaml",
        lambda folder: yaml(folder, OWN, kind="essay"),
        "says essay, which kinds.values does",
    ),
    "a YAML file that is not there": ("{folder}/none.yaml", lambda folder: folder.mkdir(), "cannot read config"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_file_is_one_line(tmp_path, capsys, name):
    task, make, expected = CASES[name]
    folder, out = tmp_path / "data", tmp_path / "run" / "out"
    make(folder)
    task = task.format(folder=folder)
    with ChatServer() as server, pytest.raises(SystemExit) as stop:
        run_command(main, asked([task], {task: folder}, out, server))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and expected in error, error
    assert not server.requests and not (out / "rollouts.jsonl").exists()


def test_an_item_may_have_no_image_where_the_yaml_file_says_so(tmp_path):
    folder, out = tmp_path / "data", tmp_path / "out"
    yaml(folder, OWN + "some_without_images: true\n", pictures=[])
    with ChatServer() as server:
        main(asked([str(folder / "own.yaml")], {str(folder / "own.yaml"): folder}, out, server))
    assert [row["images"] for row in lines(out / "questions.jsonl")] == [[]] and len(server.requests) == 1


def test_what_was_wrong_and_mended_goes_on_with_what_is_there(tmp_path, capsys):
    """A line was cut off after the first run: the run says so and loses nothing; mended, it is the same evaluation."""
    folder, out = tmp_path / "data", tmp_path / "run" / "out"
    path = write_jsonl(folder / "medqa.jsonl", [medqa(n) for n in range(3)])
    whole = path.read_bytes()
    with ChatServer() as server:
        run = asked(["medqa"], {"medqa": folder}, out, server)
        main(run)
        kept = (out / "rollouts.jsonl").read_bytes()
        path.write_bytes(whole[:-20])
        with pytest.raises(SystemExit) as stop:
            run_command(main, run)
        assert stop.value.code == 2 and (out / "rollouts.jsonl").read_bytes() == kept
        path.write_bytes(whole)
        main(run)
    assert len(server.requests) == 3 == len(lines(out / "rollouts.jsonl"))
