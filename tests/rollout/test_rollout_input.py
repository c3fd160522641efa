"""What the command is given: questions and images with faults, wrong flags, and the embedded default."""

import json

import pytest
from chat_server import ChatServer
from PIL import Image
from rollouts_there import lines, rewritten

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.rollout.__main__ import main


@pytest.mark.parametrize(
    "url", ["http://me:S3CRET@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key=S3CRET", "http://me:S3CRET@127.0.0.1:99a/v1"]
)
def test_a_secret_in_a_url_is_written_nowhere(base, unbroken, tmp_path, capsys, url):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out)
    with pytest.raises(SystemExit):
        run_command(main, [*base, f"--out={out}", f"--base_url={url}"])
    assert "base_url" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert "S3CRET" not in error + "".join(path.read_text() for path in tmp_path.iterdir())


def write_questions(folder, sample, *changes):
    """The sample's first questions with these changes, each beside its images."""
    records = [json.loads(line) for line in (sample / "questions.jsonl").read_text("utf-8").splitlines()[: len(changes)]]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record | change) + "\n" for record, change in zip(records, changes, strict=True)))
    return [f"--questions={path}", f"--data.image_root={sample}"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{}, {"anwser": "B"}], r"questions.jsonl:2: unknown field 'anwser'; did you mean 'answer'\?"),
        ([{}, {"images": ["images/none.png"] * 2}], "questions.jsonl:2: image 'images/none.png' not found"),
        ([{"id": "x"}, {}, {"id": "x"}], "questions.jsonl:3: field 'id': 'x' is also that of .*questions.jsonl:1; ids must differ"),
        ([{"answer": "E"}], "questions.jsonl:1: field 'answer': 'E' is neither a letter nor a text of field 'options'"),
        ([{"chosen": "a"}], "questions.jsonl:1: this is a preference pair"),
        ([{"prompt": [{"role": "user", "content": "<|image_pad|>"}], "images": []}], "questions.jsonl:1: .*reserved token"),
        ([{"images": ["../../../README.md"]}], "questions.jsonl:1: .*outside the image root"),
    ],
)
def test_faults_in_questions_are_found_before_anything_is_asked(base, sample, tmp_path, changes, expected):
    out = tmp_path / "rollouts.jsonl"
    with ChatServer() as server, pytest.raises(UserError, match=expected):
        main([*base, *write_questions(tmp_path, sample, *changes), f"--out={out}", f"--base_url={server.url}"])
    assert not server.requests and [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_truncated_image_is_found_before_anything_is_asked(base, sample, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("pneumothorax-1a.png",):
        (tmp_path / "images" / name).write_bytes((sample / "images" / name).read_bytes()[:900])
    flags = [write_questions(tmp_path, sample, {})[0], f"--out={tmp_path / 'r.jsonl'}", "--base_url=http://127.0.0.1:9"]
    with pytest.raises(UserError, match=r"questions.jsonl:1: image 'images/pneumothorax-1a.png' is truncated or damaged"):
        main([*base, *flags])


def test_images_of_several_frames_are_told_of(base, tokenise, sample, tmp_path, capsys):
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    frames = [Image.new("RGB", (64, 48), color) for color in ("navy", "olive")]
    frames[0].save(tmp_path / "heart.gif", save_all=True, append_images=frames[1:])
    (path,) = write_questions(tmp_path, sample, {"images": ["heart.gif"], "prompt": [question]})[:1]
    with ChatServer(tokenise=tokenise) as server:
        main([*base, path, f"--out={tmp_path / 'r.jsonl'}", f"--base_url={server.url}"])
    told = "1 image file with several frames (a stack or an animation), of which the first is used: 'heart.gif'"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--out={tmp}"], "--out=.* is a folder; give a file, such as .*rollouts.jsonl"),
        (["--model={tmp}"], "is not a model directory"),
        (["--questions={tmp}/none.jsonl"], "cannot read data file"),
        (["--n=0"], "--n: .*got '0'"),
        (["--temperature=0"], "temperature=0 makes all 8 responses to a question the same; use n=1"),
        (["--shard=4/4"], "--shard: must be i/n with i from 0 to n - 1"),
        (["--shard=60/61"], "--shard=60/61 has no question: there are 48"),
        (["--engine=flax"], "engine=flax samples in this process and has no use for base_url"),
        (["--vllm.adapter={tmp}"], "vllm.adapter is for a vLLM server that this run starts"),
        (["--base_url=http://127.0.0.1:80a/v1"], "is no URL of a server"),
        (["--base_url=localhost:8000"], "is no URL of a server; write http://HOST:PORT/v1"),
        (["--base_url=http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9/v1"),
        (["--data.max_pixels=3136"], r"vLLM takes its image options from the model directory, .*\(max_pixels\)"),
        (["--data.max_tiles=3"], "Qwen2.5-VL has no data.max_tiles"),
        (["--max_new_tokens=3"], "did you mean '--max_tokens'"),
        (["--family=internvl3"], "family=internvl3 is of the tiny model"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(base, tmp_path, capsys, flags, expected):
    given = [f"--out={tmp_path / 'r.jsonl'}", "--base_url=http://127.0.0.1:9"]
    given = [flag for flag in [*base, *given] if flag.split("=")[0] not in {other.split("=")[0] for other in flags}]
    with pytest.raises(SystemExit) as stop:
        run_command(main, given + [flag.format(tmp=tmp_path) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert not list(tmp_path.iterdir())


def test_a_model_directory_of_a_newer_format_is_refused(base, tiny_model, tmp_path):
    (tmp_path / "model").mkdir()
    for path in tiny_model.iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    info = json.loads((tiny_model / "model.json").read_text()) | {"format_version": 2}
    (tmp_path / "model" / "model.json").unlink()
    (tmp_path / "model" / "model.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="format_version"):
        main([*base[1:], f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'r.jsonl'}", "--base_url=http://127.0.0.1:9"])


def test_the_embedded_default_needs_no_arguments(tokenise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with ChatServer(tokenise=tokenise) as server:
        main([f"--base_url={server.url}", "--limit=3"])
    assert len(lines(tmp_path / "runs" / "rollouts.jsonl")) == 24
    assert (tmp_path / "runs" / "tiny-qwen2_5_vl" / "model.json").exists()
    shown = capsys.readouterr().out
    assert (
        "3 questions × 8 = 24 samples; engine vllm, model runs/tiny-qwen2_5_vl" in shown.replace("\n", " ")
        and "correct, where known" in shown
    )


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (["--questions={questions}"], "--model and --out"),
        (["--model={model}"], "--questions and --out"),
        (["--questions={questions}", "--out=r.jsonl"], "--model"),
        (["--questions", "{questions}", "--engine=flax", "--n=2"], "--model and --out"),
        (["--family=internvl3", "--questions={questions}", "--out=r.jsonl"], "--model"),
        (["--model={model}", "--out=r.jsonl", "--limit=1"], "--questions"),
        (["--questions={questions}", "--base_url=http://127.0.0.1:9/v1", "--out=r.jsonl"], "--model"),
    ],
)
def test_the_tiny_model_answers_no_question_of_the_users(tiny_model, sample, tmp_path, monkeypatch, capsys, flags, missing):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_command(main, [flag.format(questions=sample / "questions.jsonl", model=tiny_model) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: missing {missing}: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
