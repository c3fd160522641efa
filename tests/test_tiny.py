"""The tiny checkpoint is a real one to transformers, and the same bytes every time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from mede2_jax import tiny
from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.weights.model_info import read_info

SHARED = Path(__file__).resolve().parents[2] / "shared"
MESSAGES = [
    {"role": "system", "content": "Be careful."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Look:\n"}, {"type": "image"}, {"type": "image"}, {"type": "text", "text": " Why?"}],
    },
    {"role": "assistant", "content": "<think> naïve 12.5 mmol/L </think>"},
    {"role": "user", "content": "And now?"},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    to = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny.write_tiny_checkpoint(to, texts=tiny.read_texts(tiny.SAMPLE_TEXTS))
    return to


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return AutoTokenizer.from_pretrained(checkpoint)


def test_transformers_uses_every_weight_and_gives_logits(checkpoint, tokenizer):
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    images = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)(images=[Image.new("RGB", (70, 90), "red")], return_tensors="pt")
    units = int(images["image_grid_thw"].prod()) // 4
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}], tokenize=False, add_generation_prompt=True
    )
    tokens = tokenizer(prompt.replace("<|image_pad|>", "<|image_pad|>" * units), return_tensors="pt")
    types = (tokens["input_ids"] == model.config.image_token_id).int()
    with torch.no_grad():
        logits = model(**tokens, **images, mm_token_type_ids=types).logits
    assert logits.shape == (1, tokens["input_ids"].shape[1], 1536)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.01


def test_ids_in_the_config_are_the_tokenizers(checkpoint, tokenizer):
    config = json.loads((checkpoint / "config.json").read_text())
    for key, token in {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "eos_token_id": "<|im_end|>",
        "bos_token_id": "<|endoftext|>",
    }.items():
        assert tokenizer.encode(token) == [config[key]]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(tokenizer) <= config["vocab_size"]


def test_text_survives_the_tokenizer_and_loading_changes_nothing(checkpoint, tokenizer):
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    for text in (
        "<think> pO₂ 6.1 kPa; it's 38.4 °C </think>\n\n<answer> naïve \U0001f600</answer>",
        "  two  spaces\r\n12345",
        "<|im_start|>user\n",
    ):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert ids == saved.encode(text).ids
    words = tiny.read_texts(tiny.SAMPLE_TEXTS)[1]
    assert len(tokenizer.encode(words)) < len(words) / 3  # it has learnt words, not only bytes


@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:2], MESSAGES[3:]])
@pytest.mark.parametrize("generation", [True, False])
def test_chat_template_renders_as_the_released_one(tokenizer, messages, generation):
    released = SHARED / "models" / "qwen2.5-vl-7b" / "chat_template.json"
    if not released.exists():
        pytest.skip("the released chat template is not beside the checkout")
    template = json.loads(released.read_text())["chat_template"]
    ours = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation, chat_template=template)
    assert ours == theirs


def test_the_layout_is_the_released_one(checkpoint):
    from safetensors import safe_open

    released = SHARED / "models" / "qwen2.5-vl-7b"
    if not released.exists():
        pytest.skip("the released files are not beside the checkout")
    names = set(json.loads((released / "model.safetensors.index.json").read_text())["weight_map"])
    with safe_open(checkpoint / "model.safetensors", "np") as file:
        assert {name.replace(".3.", ".27.") for name in file.keys()} <= names  # noqa: SIM118
        assert len(file.keys()) == 3 + 4 * 12 + 1 + 4 * 12 + 5
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (checkpoint, released))
    assert set(theirs) - {"transformers_version"} <= set(ours)
    assert set(theirs["vision_config"]) == set(ours["vision_config"])


@pytest.mark.slow
def test_the_command_is_deterministic_across_processes(checkpoint, tmp_path):
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "mede2_jax.tiny", f"--to={tmp_path / 'again'}"], check=True, env=environment)
    for path in checkpoint.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_another_seed_gives_other_weights(checkpoint, tmp_path):
    tiny.write_tiny_checkpoint(tmp_path, texts=["abc"], seed=1, vocab_size=400)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 400
    assert (tmp_path / "model.safetensors").read_bytes() != (checkpoint / "model.safetensors").read_bytes()


def test_the_model_directory_is_made_once_and_again_when_stale(tmp_path):
    to = tiny.model_directory(tmp_path / "runs" / "tiny")
    digest, made = read_info(to).digest, (to / "model.json").stat().st_mtime_ns
    assert (tiny.model_directory(to) / "model.json").stat().st_mtime_ns == made
    (to / "tokenizer.json").write_text("{}")
    tiny.model_directory(to)
    assert (to / "tokenizer.json").read_text() != "{}"
    assert read_info(to).digest == digest


def test_user_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere.jsonl.*--texts"):
        tiny.main([f"--to={tmp_path / 'out'}", "--texts=nowhere.jsonl"])
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"bad.jsonl: not UTF-8 JSON Lines"):
        tiny.main([f"--to={tmp_path / 'out'}", f"--texts={tmp_path / 'bad.jsonl'}"])
    with pytest.raises(UserError, match=r"--vocab_size: .*320.*got '12'"):
        tiny.main([f"--to={tmp_path / 'out'}", "--vocab_size=12"])


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(tiny.main, [f"--to={small_disk / 'out'}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: No space left on device") and error.count("\n") == 1
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, there):
    to = tmp_path / "out"
    if there:
        to.mkdir()  # an empty directory may be filled

    def interrupted(*_):
        assert list(tmp_path.rglob("config.json")), "it comes while files are written"
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "_initial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.main([f"--to={to}"])
    assert list(tmp_path.rglob("*")) == [to] * there
    monkeypatch.undo()
    tiny.main([f"--to={to}"])
    assert (to / "model.safetensors").exists()


def test_files_have_the_usual_mode(checkpoint):
    umask = os.umask(0o022)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in checkpoint.iterdir()} == {0o666 & ~umask}


def test_a_model_directory_that_lost_a_file_is_made_again(tmp_path):
    to = tiny.model_directory(tmp_path / "tiny")
    (to / "tokenizer.json").unlink()
    assert (tiny.model_directory(to) / "tokenizer.json").exists()


def test_an_existing_directory_is_not_touched(tmp_path):
    (tmp_path / "config.json").write_text("precious")
    with pytest.raises(UserError, match="exists; choose another"):
        tiny.main([f"--to={tmp_path}"])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_line_of_jsonl_ends_at_a_line_feed_only(tmp_path):
    """U+2028 and U+0085 may stand in a JSON text as they are."""
    records = tmp_path / "t.jsonl"
    records.write_text('{"a": "one\u2028two\u0085three"}\n\n{"a": "four"}\n', encoding="utf-8")
    assert tiny.read_texts([records]) == ["one\u2028two\u0085three", "four"]
