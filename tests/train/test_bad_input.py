"""Data, images and weights that cannot be used: one line, exit status 2, and no run directory."""

import contextlib
import io
import json
import shutil
import struct
import time
import zlib

import pytest
from PIL import Image
from trainer_process import start, train
from waiting import finished

from mede2_jax.command import run_command
from mede2_jax.train import __main__ as command
from mede2_jax.train.__main__ import main


def record(**changes):
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}
    base = {"id": "a", "prompt": [user], "images": ["a.png"], "chosen": "A line.", "rejected": "A dot."}
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def png(width=56, height=56):
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, format="PNG")
    return out.getvalue()


def enormous_png():
    """A few bytes that claim to be 60,000 × 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def refused(capsys, arguments):
    """The one line a command ends with."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, [str(argument) for argument in arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture
def arguments(tmp_path, tiny_model):
    (tmp_path / "a.png").write_bytes(png())
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps(record()) + "\n")
    return [f"--model={tiny_model}", f"--data.path={data}", f"--output={tmp_path / 'run'}"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "b", "prompt"', ["pairs.jsonl:2", "not valid JSON"]),
        (json.dumps(record(id="b", chosen=None)), ["pairs.jsonl:2", "'chosen'"]),
        (json.dumps(record(id="b", chosen=7)), ["pairs.jsonl:2", "chosen"]),
        (json.dumps(record(id="b", images=["a.png", "a.png"])), ["pairs.jsonl:2", "image"]),
        (json.dumps(record(id="b", images=[])), ["pairs.jsonl:2", "image"]),
        (json.dumps(record(id="b", images=["gone.png"])), ["pairs.jsonl:2", "gone.png"]),
        (json.dumps(record(id="b", images=["../../etc/passwd"])), ["pairs.jsonl:2", "passwd"]),
        (json.dumps(record(id="b", images=["cut.png"])), ["pairs.jsonl:2", "cut.png"]),
        (json.dumps(record(id="b", images=["enormous.png"])), ["pairs.jsonl:2", "enormous.png", "pixels"]),
        (json.dumps(record(id="b", chosen="see <|image_pad|>")), ["pairs.jsonl:2", "<|image_pad|>"]),
        (json.dumps(record()), ["pairs.jsonl:2", "'id'"]),
    ],
    ids=[
        "broken",
        "lacks field",
        "wrong type",
        "two images",
        "no image",
        "missing",
        "escapes",
        "truncated",
        "enormous",
        "token",
        "same id",
    ],
)
def test_a_bad_record_names_file_line_and_field(line, expected, arguments, tmp_path, capsys):
    (tmp_path / "cut.png").write_bytes(png()[:-40])
    (tmp_path / "enormous.png").write_bytes(enormous_png())
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write(line + "\n")
    message = refused(capsys, arguments)
    for part in expected:
        assert part in message, message
    assert not (tmp_path / "run").exists()


def test_unknown_flag_and_yaml_key_suggest_the_nearest(arguments, tmp_path, capsys):
    assert "--lora.rank" in refused(capsys, [*arguments, "--lora.rnk=8"])
    config = tmp_path / "config.yaml"
    config.write_text("optimizer:\n  learning_rte: 1.0e-4\n")
    message = refused(capsys, [*arguments, f"--config={config}"])
    assert "optimizer.learning_rte" in message and "learning_rate" in message and "config.yaml" in message


@pytest.mark.parametrize("data", [["--data.path=mine.jsonl"], ["--data.path", "mine.jsonl"], ["--stage=sft", "--data.path=mine.jsonl"]])
def test_who_forgets_the_model_is_told_what_is_trained(data, tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_tiny_model", lambda family: tiny_model)
    with pytest.raises(SystemExit):
        run_command(main, [*data, "--output=run"])
    captured = capsys.readouterr()
    assert captured.out == "no --model: a tiny random one is trained on mine.jsonl\n" and captured.err.startswith("error: ")
    with pytest.raises(SystemExit):
        run_command(main, [*data, "--output=run", f"--model={tiny_model}"])
    assert "tiny random" not in capsys.readouterr().out


def test_a_model_directory_without_a_weight_is_refused(arguments, tmp_path, tiny_model, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert "language/head/embedding" in refused(capsys, [*arguments[1:], f"--model={broken}"])
    assert not (tmp_path / "run").exists()


def test_a_model_directory_of_another_shape_is_refused(arguments, tmp_path, tiny_model, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 320}))
    message = refused(capsys, [*arguments[1:], f"--model={broken}"])
    assert "256" in message and "320" in message
    assert not (tmp_path / "run").exists()


def test_no_model_names_the_command_that_makes_one(tmp_path, sample, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("stage: dpo\n")
    assert "mede2_jax.convert" in refused(capsys, [f"--config={config}", f"--data.path={sample / 'preferences.jsonl'}"])


DISK = ["--data.row_tokens=640", "--rows_per_step=1", "--compute_dtype=float32", "--checkpoint.every=2", "--log_every=1"]


def test_a_disk_too_small_is_refused_before_anything_is_written(medium_disk, arguments, capsys):
    (medium_disk / "filler").write_bytes(bytes(20_000_000))
    message = refused(capsys, [*arguments[:2], f"--output={medium_disk / 'run'}"])
    assert "no space left" in message and "GB" in message
    assert [path.name for path in medium_disk.iterdir()] == ["filler"]


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_whole_checkpoints_and_no_half_model(medium_disk, sample, tiny_model):
    arguments = [
        f"--model={tiny_model}",
        f"--data.path={sample / 'preferences.jsonl'}",
        f"--output={medium_disk / 'run'}",
        "--max_steps=40",
    ]
    process = start([*arguments, *DISK])
    metrics = medium_disk / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        time.sleep(0.02)
    # Unbuffered: what a buffer still held would be written, and fail, where the file is closed.
    with (medium_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(1 << 16))
    output, _ = finished(process)
    assert process.returncode == 2, output
    progress = ("step", "dpo of", "train:", "skipped", "reference", "compiling")
    errors = [line for line in output.splitlines() if not line.startswith(progress)]
    assert len(errors) == 1 and errors[0].startswith("error: ") and "space" in errors[0].lower(), output
    assert not list((medium_disk / "run").glob("*model*"))
    (medium_disk / "filler").unlink()
    status, output = train([*arguments, *DISK, "--resume"])
    assert status == 0 and "resumed from the checkpoint of step" in output, output
