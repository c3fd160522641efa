"""The tiny InternVL3 checkpoints are real ones: to transformers (-hf), and to our own reader in both formats."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from mede2_jax import tiny
from mede2_jax.config import UserError
from mede2_jax.data.internvl3 import InternVL3Processor
from mede2_jax.families import model_config
from mede2_jax.train.__main__ import main as train
from mede2_jax.weights.model_info import read_info

ADDED = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for form in ("hf", "original"):
        tiny.main([f"--to={folder / form}", "--family=internvl3", f"--format={form}"])
    return folder


def test_transformers_uses_every_weight_and_gives_logits(checkpoints):
    model, info = InternVLForConditionalGeneration.from_pretrained(checkpoints / "hf", dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    tokens = torch.tensor([[1, *[model.config.image_token_id] * 32, 5]])
    with torch.no_grad():
        logits = model(input_ids=tokens, pixel_values=torch.randn(2, 3, 112, 112)).logits
    assert logits.shape == (1, 34, 1536) and torch.isfinite(logits).all() and logits.std() > 0.01


@pytest.mark.parametrize("form", ["hf", "original"])
def test_ids_and_added_tokens(checkpoints, form):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "hf")
    config = json.loads((checkpoints / form / "config.json").read_text())
    vocabulary = json.loads((checkpoints / form / "tokenizer.json").read_text())["added_tokens"]
    ids = [next(token["id"] for token in vocabulary if token["content"] == name) for name in ADDED]
    assert ids == list(range(ids[0], ids[0] + 9)) and ids[-1] < 1536, "in the released order, the last of the vocabulary"
    assert [tokenizer.encode(name) for name in ADDED] == [[number] for number in ids]
    end = {"hf": "<|im_end|>", "original": "<|endoftext|>"}[form]
    text = config["text_config" if form == "hf" else "llm_config"]
    assert tokenizer.encode(end) == [text["eos_token_id"]]
    assert config.get("image_token_id") == (ids[2] if form == "hf" else None)


def test_both_formats_are_one_model_of_one_family(checkpoints, tmp_path):
    (family, hf), (other, original) = (model_config(checkpoints / form) for form in ("hf", "original"))
    assert family is other and family.name == "internvl3"
    assert (hf.language, hf.vision, hf.grid, hf.merge) == (original.language, original.vision, original.grid, original.merge)
    for form in ("hf", "original"):
        to = tiny.model_directory(tmp_path / form, "internvl3", form)
        assert read_info(to).family == "internvl3"
        processor = InternVL3Processor.load(to)
        assert processor.tiling.side == hf.grid and processor.patch_dim == hf.vision.patch_dim
        assert processor.tiling.tile_tokens == (hf.grid // hf.merge) ** 2
        assert (processor.tiling.min_tiles, processor.tiling.max_tiles, processor.tiling.thumbnail) == (1, 4, True)
    names = {form: set(load_file(checkpoints / form / "model.safetensors")) for form in ("hf", "original")}
    assert "vision_model.encoder.layers.3.attn.qkv.weight" in names["original"]
    assert "vision_tower.encoder.layer.3.attention.q_proj.weight" in names["hf"]


def test_the_hf_template_has_no_system_prompt_of_its_own(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "hf")
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n<IMG_CONTEXT>\nWhat?<|im_end|>\n<|im_start|>assistant\n"


def test_the_same_arguments_give_the_same_bytes(checkpoints, tmp_path):
    tiny.main([f"--to={tmp_path / 'again'}", "--family=internvl3"])
    for path in (checkpoints / "hf").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family=internvl3", "--format=gguf"], r"--format=gguf: internvl3 checkpoints come as hf or original"),
        (["--format=original"], r"--format=original: qwen2_5_vl checkpoints come as hf"),
        (["--family=llava"], r"--family: .*qwen2_5_vl.*internvl3.*got 'llava'"),
    ],
)
def test_user_mistakes_are_one_line(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        tiny.main([f"--to={tmp_path / 'out'}", *arguments])
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "family"), [([], "qwen2_5_vl"), (["--family=internvl3"], "internvl3")])
def test_training_without_a_model_makes_one_of_the_family(monkeypatch, arguments, family):
    started = []
    monkeypatch.setattr(tiny, "model_directory", lambda to, family: to / family)
    monkeypatch.setattr("mede2_jax.train.__main__.run", lambda config, model, console: started.append(model))
    train(arguments)
    assert started == [Path("runs") / f"tiny-{family}" / family]


def test_a_family_is_not_given_with_a_model(tmp_path):
    with pytest.raises(UserError, match="family=internvl3 is of the tiny model made when no model is given; leave it out") as error:
        train(["--family=internvl3", f"--model={tmp_path}", f"--output={tmp_path / 'run'}"])
    assert "\n" not in str(error.value)
