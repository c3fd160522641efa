"""What the command is given: rollouts with faults, images, wrong flags, and the embedded default."""

import json

import pytest
from judging import Engine, manifest, read, reply, with_engine, write

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.judge.__main__ import main
from mede2_jax.outputs.manifest import write_manifest


@pytest.mark.parametrize(
    "flags", [["--judge=gemini"], ["--judge", "openai", "--model=m"], ["--model=m"], ["--judge=gemini", "--out=j.jsonl"]]
)
def test_the_sample_is_judged_by_nobody_whom_the_user_names(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_command(main, flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: missing --rollouts") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"response": None}, r"r.jsonl:1: field 'response' must be text, found null"),
        ({"smaple": 1}, r"r.jsonl:1: unknown field 'smaple'; did you mean 'sample'\?"),
        ({"parents": []}, r"r.jsonl:1: field 'parents' must hold the question's id"),
        ({"id": "sample-case-pneumothorax-1#1"}, r"r.jsonl:2: field 'id': .* is also that of .*r.jsonl:1"),
        ({"answer": "Z"}, r"r.jsonl:1: field 'answer': 'Z' is neither a letter nor a text of field 'options'"),
        ({"metadata": {}}, r"r.jsonl:1: field 'metadata.link' must be a text: .*needs --judge=gemini or openai"),
    ],
)
def test_faults_in_rollouts_are_one_line(rollouts, sample, tmp_path, capsys, change, expected):
    path = write(tmp_path / "r.jsonl", [rollouts[0] | change, *rollouts[1:3]])
    with pytest.raises(UserError, match=expected):
        main([f"--rollouts={path}", "--judge=offline", f"--out={tmp_path / 'j.jsonl'}"])
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_missing_image_is_found_before_anything_is_asked(rollouts, tmp_path, monkeypatch):
    path = write(tmp_path / "r.jsonl", rollouts[:8])
    engine = with_engine(monkeypatch, Engine(lambda request: reply()))
    with pytest.raises(UserError, match=r"r.jsonl:1: image 'images/pneumothorax-1a.png' not found"):
        main([f"--rollouts={path}", "--judge=gemini", f"--out={tmp_path / 'j.jsonl'}"])
    assert not engine.requests


def test_images_are_found_through_the_manifest_of_the_rollouts(rollouts, sample, tmp_path, monkeypatch, capsys):
    path, out = write(tmp_path / "r.jsonl", rollouts[:8]), tmp_path / "j.jsonl"
    write_manifest(path, {"command": "python -m mede2_jax.rollout", "images": {"root": str(sample)}})
    engine = with_engine(monkeypatch, Engine(lambda request: reply()))
    main([f"--rollouts={path}", "--judge=gemini", f"--out={out}"])
    assert all(len(request.images) == 1 for request in engine.requests) and manifest(out)["images"] == {"root": str(sample)}
    assert f"images of {path}: paths start from {sample}, as its manifest says" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("root", ["/", "{sample}"])
def test_a_manifest_that_came_with_rollouts_sends_no_other_picture_to_an_api(rollouts, sample, tmp_path, monkeypatch, root):
    private = str(sample / "images" / "pneumothorax-1a.png").removeprefix("/" if root == "/" else f"{sample}/")
    path, out = write(tmp_path / "r.jsonl", [rollouts[0] | {"images": [private]}]), tmp_path / "j.jsonl"
    said = {"command": "python -m mede2_jax.rollout", "images": {"root": root.format(sample=sample)}}
    (tmp_path / "r.jsonl.manifest.json").write_text(json.dumps(said))
    engine = with_engine(monkeypatch, Engine(lambda request: reply()))
    with pytest.raises(UserError, match=r"says that image paths start from .* give --image_root=FOLDER"):
        main([f"--rollouts={path}", "--judge=gemini", f"--out={out}"])
    assert not engine.requests and not out.exists()
    main([f"--rollouts={path}", "--judge=gemini", f"--out={out}", f"--image_root={said['images']['root']}"])
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rollouts={tmp}/none.jsonl"], "cannot read data file"),
        (["--out={tmp}"], "is a folder; give a file, such as .*judgments.jsonl"),
        (["--judge=claude"], "--judge: .*'offline', 'gemini' or 'openai'"),
        (["--judge=openai"], "judge=openai needs a model"),
        (["--free_texts=judge"], "judge=offline cannot tell whether two texts mean the same"),
        (["--judge=openai", "--model=m", "--thinking=5"], "thinking and block are Gemini's"),
        (["--judge=offline", "--repeat=3"], "judge=offline says the same every time"),
        (["--judge=offline", "--max_cost=3", "--model=x"], "judge=offline asks no API and has no use for model, max_cost"),
        (["--judge=gemini", "--base_url=http://me:S3CRET@host/"], "base_url: must hold no user, password or key"),
        (["--judge=gemini", "--base_url=https://host/v1?key=S3CRET"], "base_url: must hold no user, password or key"),
        (["--judge=gemini", "--base_url=localhost:80"], "base_url: must be a URL"),
        (["--repeat=0"], "--repeat"),
        (["--engine=gemini"], "did you mean '--judge'"),
        (["--budget=4"], "did you mean '--max_cost'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(offline, tmp_path, capsys, flags, expected):
    given = [f"--out={tmp_path / 'j.jsonl'}", *offline]
    given = [flag for flag in given if flag.split("=")[0] not in {other.split("=")[0] for other in flags}]
    with pytest.raises(SystemExit) as stop:
        run_command(main, given + [flag.format(tmp=tmp_path) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "S3CRET" not in error
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert not list(tmp_path.iterdir())


def test_the_file_of_rollouts_is_not_written_over(offline, sample, rollouts, tmp_path):
    path = write(tmp_path / "r.jsonl", rollouts)
    with pytest.raises(UserError, match="is the file of rollouts"):
        main([f"--rollouts={path}", "--judge=offline", f"--out={path}"])
    assert read(path) == rollouts


def test_the_embedded_default_needs_no_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([])
    assert len(read(tmp_path / "runs" / "judgments.jsonl")) == 336
    shown = capsys.readouterr().out
    assert "336 responses × 1 to judge of 384; judge offline, rules/1" in shown and "all four: positive" in shown
