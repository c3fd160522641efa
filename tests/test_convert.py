"""The converter against transformers' own checkpoints: bit-exact both ways in both layouts, and clean failures."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from waiting import finished

from mede2_jax.config import UserError
from mede2_jax.convert import ConvertConfig, run
from mede2_jax.weights import staging
from mede2_jax.weights.model_info import read_info

NEW = (("model.", "model.language_model."), ("visual.", "model.visual."))
TEXT = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, vocab_size=100)
VISION = dict(depth=3, hidden_size=32, intermediate_size=44, num_heads=2, out_hidden_size=48, fullatt_block_indexes=[1])
COMPANIONS = ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json")
ROPE = {"type": "mrope", "mrope_section": [1, 1, 2]}
TOKENS = dict(vision_start_token_id=90, vision_end_token_id=91, image_token_id=92, video_token_id=93)


def torch_model(tied: bool) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    text = TEXT | dict(rope_scaling=ROPE, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=VISION, tie_word_embeddings=tied, **TOKENS)
    return Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)


def save(model, directory, **options):
    """A checkpoint, with empty files where its tokenizer and processor would be."""
    model.save_pretrained(directory, **options)
    for name in COMPANIONS:
        (directory / name).write_text("{}")


def saved(directory, *, tied=False, layout="hub"):
    """A checkpoint that transformers saved, renamed into the other layout if asked; what it saves by itself is checked."""
    save(torch_model(tied), directory, max_shard_size="20KB")
    files = sorted(directory.glob("*.safetensors"))
    assert len(files) > 1
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert "model.layers.0.input_layernorm.weight" in index["weight_map"] and ("lm_head.weight" in index["weight_map"]) is not tied
    if layout == "new":
        for file in files:
            save_file({renamed(name): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
        index["weight_map"] = {renamed(name): file for name, file in index["weight_map"].items()}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def renamed(name: str) -> str:
    return next((new + name.removeprefix(old) for old, new in NEW if name.startswith(old)), name)


def tensors(directory) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def convert(source, to, **options):
    return run(ConvertConfig.model_validate({"from": source, "to": to, **options}), Console(quiet=True))


def command(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "mede2_jax.convert", *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["hub", "new"])
def test_there_and_back_is_bit_exact(tmp_path, layout, tied):
    source = saved(tmp_path / "hf", tied=tied, layout=layout)
    convert(source, tmp_path / "model")
    for out in ("hub", "new"):
        convert(tmp_path / "model", tmp_path / out, layout=out, max_shard_gb=4e-5)
        assert len(list((tmp_path / out).glob("*.safetensors"))) > 1
    assert_same(tensors(tmp_path / layout), tensors(source))
    hub, new = tensors(tmp_path / "hub"), tensors(tmp_path / "new")
    assert_same(new, {renamed(name): tensor for name, tensor in hub.items()})
    assert (tmp_path / layout / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert (tmp_path / layout / "generation_config.json").read_bytes() == (source / "generation_config.json").read_bytes()
    for out in ("hub", "new"):
        loaded, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / out, dtype="auto", output_loading_info=True)
        assert not any(info.get(kind) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same(dict(loaded.state_dict()), dict(torch_model(tied).state_dict()))


def test_dtype_is_cast_and_declared(tmp_path):
    source = saved(tmp_path / "hf")
    assert convert(source, tmp_path / "model", dtype="float32").nbytes == 2 * convert(source, tmp_path / "plain").nbytes
    assert read_info(tmp_path / "model").dtype == "float32"
    convert(tmp_path / "model", tmp_path / "wide")
    assert_same(tensors(tmp_path / "wide"), {name: tensor.float() for name, tensor in tensors(source).items()})
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    convert(tmp_path / "model", tmp_path / "narrow", dtype="bfloat16")
    assert_same(tensors(tmp_path / "narrow"), tensors(source))
    assert (tmp_path / "narrow" / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_a_repeated_tied_head_must_be_equal(tmp_path):
    source = tmp_path / "hf"
    save(torch_model(True), source)
    file = source / "model.safetensors"
    stored = load_file(file)
    save_file(stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}, file)
    convert(source, tmp_path / "model")
    save_file(stored | {"lm_head.weight": stored["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(UserError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        convert(source, tmp_path / "other")


def test_layers_of_several_dtypes_need_a_choice(tmp_path):
    source = tmp_path / "hf"
    save(torch_model(False), source)
    stored = load_file(source / "model.safetensors")
    stored["model.layers.1.mlp.up_proj.weight"] = stored["model.layers.1.mlp.up_proj.weight"].float()
    save_file(stored, source / "model.safetensors")
    with pytest.raises(UserError, match="bfloat16, float32; choose one with --dtype"):
        convert(source, tmp_path / "model")
    convert(source, tmp_path / "model", dtype="bfloat16")


def break_weights(directory, change):
    name = "model.layers.1.self_attn.k_proj.weight"
    file = directory / json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"][name]
    if change == "shard":
        file.unlink()
        return file.name
    if change == "truncated":
        os.truncate(file, file.stat().st_size - 10)
        return file.name
    stored = load_file(file)
    tensor = stored.pop(name)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    if change == "missing":
        del index["weight_map"][name]
    elif change == "extra":
        stored |= {name: tensor, "model.layers.9.weight": tensor.clone()}
        index["weight_map"]["model.layers.9.weight"] = file.name
        name = "model.layers.9.weight"
    elif change == "shape":
        stored[name] = tensor.T.contiguous()
    save_file(stored, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return name


@pytest.mark.slow
@pytest.mark.parametrize("change", ["shard", "truncated", "missing", "extra", "shape"])
def test_wrong_weights_end_in_one_line_and_leave_nothing(tmp_path, change):
    source = saved(tmp_path / "hf")
    named = break_weights(source, change)
    done = command(f"--from={source}", f"--to={tmp_path / 'model'}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and named in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def one_file(directory):
    """A checkpoint saved as one file into a folder that had held shards: its index is left over."""
    source = saved(directory)
    newer = {name: (tensor + 1).contiguous() for name, tensor in tensors(source).items()}
    save_file(newer, source / "model.safetensors", metadata={"format": "pt"})
    return source


@pytest.mark.parametrize("left", ["all shards", "the first", "the last", "one that is damaged", "one that is empty", "a part of the index"])
def test_two_sets_of_weights_are_not_chosen_between(tmp_path, left):
    source = one_file(tmp_path / "hf")
    first, *others = sorted(source.glob("model-*.safetensors"))
    if left == "a part of the index":
        index = json.loads((source / "model.safetensors.index.json").read_text())
        index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file == first.name}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
    elif left != "all shards":
        for file in [first, *others[:-1]] if left == "the last" else others:
            file.unlink()
    if left == "one that is damaged":
        os.truncate(first, first.stat().st_size - 10)
    elif left == "one that is empty":
        first.write_bytes(b"")
    with pytest.raises(UserError, match=r"holds two sets of weights, model.safetensors and the shards of .*index.json .*; delete the one"):
        convert(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("beside", [None, "model-of-another.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "model.pth"])
def test_an_index_whose_shards_are_gone_is_passed_over_as_transformers_does(tmp_path, beside):
    source = one_file(tmp_path / "hf")
    for number, file in enumerate(sorted(source.glob("model-*.safetensors"))):
        file.rename(source / beside) if beside and not number else file.unlink()
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.bfloat16).get_input_embeddings().weight
    convert(source, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert_same(ours, load_file(source / "model.safetensors"))
    assert torch.equal(theirs, ours["model.embed_tokens.weight"])


def test_one_file_that_its_own_index_lists_is_no_second_set(tmp_path):
    source = one_file(tmp_path / "hf")
    for file in source.glob("model-*.safetensors"):
        file.unlink()
    names = load_file(source / "model.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    convert(source, tmp_path / "model")


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        (None, "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}, r"quantization_config \(bitsandbytes\) says"),
        (None, "quantization_config", {"quant_method": "gptq\x1b[2J"}, r"\(gptq\\x1b\[2J\) says"),
        ("text_config", "quantization_config", {"bits": 4}, r"text_config.quantization_config says"),
        (None, "compression_config", {"format": "pack-quantized"}, r"compression_config says"),
        (None, "quantization_config", "awq", r"quantization_config says"),
        ("vision_config", "quantization_config", {"quant_method": "fp8"}, r"vision_config.quantization_config \(fp8\) says"),
        ("text_config", "compression_config", {"quant_method": "compressed-tensors"}, r"compression_config \(compressed-tensors\) says"),
        ("text_config", "quantization_config", {}, r"text_config.quantization_config says"),  # what transformers cannot load
        (None, "quantization_config", False, r"quantization_config says"),
    ],
    ids=[
        *("bitsandbytes", "a name with control characters", "of a part", "compressed tensors", "no object"),
        *("of the vision tower", "compressed tensors of a part", "empty", "false"),
    ],
)
def test_plain_weights_under_a_config_of_quantised_ones_are_refused(tmp_path, section, key, value, expected):
    source = saved(tmp_path / "hf")
    config = json.loads((source / "config.json").read_text())
    (config if section is None else config.setdefault(section, {}))[key] = value
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=expected) as error:
        convert(source, tmp_path / "model")
    assert "take it out if they are plain" in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "model").exists()
    (config if section is None else config[section])[key] = None
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from={hf}", "--to={hf}"], "exists"),
        (["--from={hf}", "--to={hf}", "--overwrite"], "is or holds --from"),
        (["--from={hf}/none", "--to={out}"], "no such directory; a checkpoint on the hub must be downloaded first"),
        (["--from={empty}", "--to={out}"], "config.json"),
        (["--from={hf}", "--to={out}", "--layuot=new"], "did you mean '--layout'"),
        (["--from={hf}", "--to={out}", "--adapter={empty}"], "adapter_config.json"),
        (["--to={out}"], "--from"),
    ],
)
def test_wrong_arguments_end_in_one_line(tmp_path, arguments, words):
    source, empty = saved(tmp_path / "hf"), tmp_path / "empty"
    empty.mkdir()
    done = command(*(argument.format(hf=source, out=tmp_path / "out", empty=empty) for argument in arguments))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "hf"]


def wide_model(directory):
    """3 MB in bfloat16."""
    model = torch_model(False)
    model.model.language_model.resize_token_embeddings(15000)
    model.lm_head = torch.nn.Linear(48, 15000, bias=False, dtype=torch.bfloat16)
    model.config.text_config.vocab_size = 15000
    save(model, directory)
    return directory


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("exporting", [False, True])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path, small_disk, monkeypatch, exporting, checked):
    """Whether seen beforehand, or met while writing because others fill the disk too."""
    source = wide_model(tmp_path / "hf")
    if exporting:
        convert(source, tmp_path / "model")
        source = tmp_path / "model"
    if not checked:
        monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**12}))
    with pytest.raises((UserError, OSError), match="free" if checked else "(?i)no space left") as error:
        convert(source, small_disk / "out")
    assert isinstance(error.value, UserError) or error.value.errno == 28
    assert not list(small_disk.iterdir())


@pytest.mark.slow
def test_the_command_on_a_full_disk(tmp_path, small_disk):
    source = wide_model(tmp_path / "hf")
    done = command(f"--from={source}", f"--to={small_disk / 'out'}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "GB free" in done.stderr
    assert not list(small_disk.iterdir())


def test_changed_parameters_are_not_exported(tmp_path):
    convert(saved(tmp_path / "hf"), tmp_path / "model")
    largest = max(tmp_path.glob("model/params/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(UserError, match="changed or damaged"):
        convert(tmp_path / "model", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model"]


@pytest.mark.parametrize("name", COMPANIONS)
def test_a_checkpoint_that_cannot_be_trained_is_refused_at_once(tmp_path, name):
    """Not by training, after hours of copying: it must have a tokenizer, a chat template and an image processor."""
    source = saved(tmp_path / "hf")
    (source / name).unlink()
    next(source.glob("*.safetensors")).unlink()  # weights are not looked at before
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        convert(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.slow
def test_the_command_shows_a_table_and_a_digest_to_copy(tmp_path):
    done = command(f"--from={saved(tmp_path / 'hf')}", f"--to={tmp_path / 'model [1]'}")
    assert done.returncode == 0 and not done.stderr
    assert f"{tmp_path / 'hf'} → {tmp_path / 'model [1]'}" in done.stdout.splitlines()
    parameters = sum(int(np.prod(tensor.shape)) for tensor in tensors(tmp_path / "hf").values())
    assert f"{parameters:,}" in done.stdout and "peak memory" in done.stdout and "MB/s" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "sha256" in line]
    assert line == f"digest {read_info(tmp_path / 'model [1]').digest}" and len(line) <= 80


@pytest.mark.slow
def test_templates_that_differ_are_told_and_one_that_is_none_is_refused_at_once(tmp_path):
    source = saved(tmp_path / "hf")
    (source / "chat_template.jinja").unlink()
    (source / "chat_template.json").write_text(json.dumps({"chat_template": "one"}))
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": "two"}))
    done = command(f"--from={source}", f"--to={tmp_path / 'model'}")
    assert done.returncode == 0 and not done.stderr
    line = (
        "chat template: that of chat_template.json, as AutoProcessor and vLLM take it; tokenizer_config.json has another, which is not used"
    )
    assert line in done.stdout.splitlines()
    (source / "chat_template.json").write_text(json.dumps({"chat_template": 5}))
    next(source.glob("*.safetensors")).unlink()  # weights are not looked at before
    with pytest.raises(UserError, match=r"chat_template\.json: chat_template must be text, found 5"):
        convert(source, tmp_path / "other")


@pytest.mark.slow
def test_no_digest_but_that_of_what_was_written(tmp_path):
    """An export that changes the parameters has none: what it read is not what it wrote."""
    source = saved(tmp_path / "hf")
    digest = convert(source, tmp_path / "model").digest
    assert digest == read_info(tmp_path / "model").digest
    assert convert(tmp_path / "model", tmp_path / "same").digest == digest
    assert convert(tmp_path / "model", tmp_path / "also", dtype="bfloat16").digest == digest
    assert convert(tmp_path / "model", tmp_path / "wide", dtype="float32").digest is None
    assert "sha256" not in command(f"--from={tmp_path / 'model'}", f"--to={tmp_path / 'cast'}", "--dtype=float32").stdout
    wide = convert(source, tmp_path / "model32", dtype="float32").digest
    assert wide == read_info(tmp_path / "model32").digest != digest


HANGING = """
import pathlib, sys, time
from mede2_jax import convert
from mede2_jax.command import run_command
def hang(*arguments, **options):
    print("begun", flush=True)
    for _ in range(600):  # a signal just before it does not wake a sleeper
        time.sleep(0.1)
convert.import_tensors = hang
run_command(convert.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_leaves_nothing(tmp_path, number, status, line):
    arguments = [f"--from={saved(tmp_path / 'hf')}", f"--to={tmp_path / 'model'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HANGING, *arguments], env=os.environ | {"JAX_PLATFORMS": "cpu"}, **pipes)
    assert process.stdout.readline() == "begun\n"
    assert (tmp_path / ".model.partial").is_dir()
    process.send_signal(number)
    _, error = finished(process)
    assert (process.returncode, error) == (status, f"error: {line}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
