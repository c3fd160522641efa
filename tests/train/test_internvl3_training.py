"""InternVL3 through the trainer: layouts and meshes that change no number, whole runs in both formats, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from rich.console import Console
from test_equivalence import FULL, LORA, TOLERANCE, laid_out, take_steps
from trainer_process import outcome, start, train, training_metrics
from training import largest_gap, make_config, one_device_inputs, short_pairs
from transformers import InternVLForConditionalGeneration

from mede2_jax import tiny
from mede2_jax.config import UserError
from mede2_jax.convert import ConvertConfig
from mede2_jax.convert import run as convert
from mede2_jax.train.inputs import open_inputs
from mede2_jax.train.run import run
from mede2_jax.weights.params import ParamReader


@pytest.fixture(scope="module")
def pairs(sample, tmp_path_factory):
    """Six pairs; some have several images, some images several tiles."""
    return short_pairs(sample, tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny.model_directory(tmp_path_factory.mktemp("tiny") / "model", "internvl3", "original")


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"shared_prompt": False}, {"packing": False}], ids=["unshared", "unpacked"])
def test_the_layout_of_rows_changes_nothing(pairs, sample, tiny_internvl, other):
    (one, _, one_gradients), setup = laid_out(pairs, sample, tiny_internvl, parts=FULL)
    (two, _, two_gradients), apart = laid_out(pairs, sample, tiny_internvl, parts=FULL, data=other)
    assert setup.train.statistics().token_fill != apart.train.statistics().token_fill, "the layouts must differ"
    assert setup.shape.patches % 64 == 0 and setup.shape.patches > 64 * len(setup.train)
    assert abs(one - two) <= TOLERANCE
    assert largest_gap(one_gradients, two_gradients) <= TOLERANCE
    for part in ("vision", "projector", "language"):
        assert max(float(np.abs(g).max()) for g in jax.tree.leaves(one_gradients[part])) > 1e-4, part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "mesh"), [(FULL, {"data": 2, "fsdp": 2, "tensor": 2}), (LORA, {"data": 1, "fsdp": 1, "tensor": 8})], ids=["full", "lora"]
)
def test_eight_devices_equal_one(pairs, sample, tiny_internvl, parts, mesh):
    config = make_config(pairs, sample, rows_per_step=4, parts=parts, data={"packing": False})
    one = take_steps(one_device_inputs(config, tiny_internvl), tiny_internvl, count=2)
    sharded = open_inputs(config.model_copy(update={"mesh": type(config.mesh)(**mesh)}), tiny_internvl)
    assert sharded.mesh.size == 8
    eight = take_steps(sharded, tiny_internvl, count=2)
    assert one[0] == pytest.approx(eight[0], abs=TOLERANCE)
    assert largest_gap(one[1], eight[1]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hf", "original"])
def test_a_run_ends_in_a_model_of_its_own_format(pairs, sample, tiny_internvl, original, form, tmp_path):
    start = {"hf": tiny_internvl, "original": original}[form]
    parts = {"hf": LORA, "original": {**LORA, "vision": "frozen"}}[form]
    options = {"parts": parts, "output": tmp_path / "run", "max_steps": 3, "optimizer": {"learning_rate": 3e-3}, "mesh": {"fsdp": 8}}
    config = make_config(pairs, sample, rows_per_step=8, data={"packing": False}, **options)
    run(config, start, Console(quiet=True))
    losses = [record["loss"] for record in training_metrics(tmp_path / "run")]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5) and losses[-1] < losses[0]
    before, after = ParamReader(start / "params"), ParamReader(tmp_path / "run" / "model" / "params")
    for path in before.infos:
        adapted = path.endswith("kernel") and "patch_embed" not in path and parts[path.split("/")[0]] == "lora"
        assert np.array_equal(before.read(path), after.read(path)) is not adapted, path
    names = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert ("vision_tower" in names) is (form == "hf") and ("language_model" in names)
    convert(ConvertConfig.model_validate({"from": tmp_path / "run" / "model", "to": tmp_path / "out"}), Console(quiet=True))
    if form == "hf":
        _, info = InternVLForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    again = convert(ConvertConfig.model_validate({"from": tmp_path / "out", "to": tmp_path / "back"}), Console(quiet=True))
    assert again.digest == json.loads((tmp_path / "run" / "model" / "model.json").read_text())["digest"]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_in_the_same_bits(sample, tiny_internvl, tmp_path):
    """With the vision tower and dropout in training; killed once in each third of the run."""
    (tmp_path / "pairs.jsonl").write_text("".join((sample / "preferences.jsonl").read_text().splitlines(keepends=True)[:12]))
    arguments = [
        f"--model={tiny_internvl}",
        f"--data.path={tmp_path / 'pairs.jsonl'}",
        f"--data.image_root={sample}",
        *("--data.row_tokens=1024", "--data.packing=false", "--rows_per_step=2", "--epochs=2", "--checkpoint.every=2", "--log_every=1"),
        *("--parts.vision=lora", "--parts.projector=full", "--lora.dropout=0.1", "--optimizer.learning_rate=0.003"),
        *("--compute_dtype=float32", "--remat=none"),
    ]
    status, output = train([*arguments, f"--output={tmp_path / 'unbroken'}"])
    assert status == 0, output
    run = tmp_path / "run"
    for step in (3, 7, 11):
        process = start([*arguments, f"--output={run}", "--resume"])
        assert any(f"step {step}/12" in line for line in process.stdout)
        process.kill()
        process.communicate()
    status, output = train([*arguments, f"--output={run}", "--resume"])
    assert status == 0 and "resumed from the checkpoint of step" in output, output
    assert outcome(run) == outcome(tmp_path / "unbroken")
    assert "no adapter/: it could not hold parts.projector, trained in full" in output
    assert not (run / "adapter").exists(), "it would be part of what was trained, and look like all of it"


def changed(model, to, file, **values):
    shutil.copytree(model, to)
    content = json.loads((to / file).read_text())
    for name, value in values.items():
        *parents, last = name.split("__")
        at = content
        for parent in parents:
            at = at[parent]
        at[last] = value
    (to / file).write_text(json.dumps(content))
    return to


def test_adapters_that_peft_could_not_hold_are_refused_before_training(pairs, sample, original):
    with pytest.raises(UserError, match=r"vision/blocks/attention/k_proj' lies fused .* set parts.vision to frozen or full"):
        one_device_inputs(make_config(pairs, sample, parts=LORA), original)


def test_rows_past_the_scaled_positions_are_refused(pairs, sample, tiny_internvl, tmp_path):
    model = changed(tiny_internvl, tmp_path / "model", "config.json", text_config__max_position_embeddings=512)
    with pytest.raises(UserError, match=r"rows of \d+ tokens, but past 512 .* set data.row_tokens=512 or less") as error:
        one_device_inputs(make_config(pairs, sample), model)
    assert "\n" not in str(error.value)
    one_device_inputs(make_config(pairs, sample, data={"row_tokens": 512}), model)


def test_a_tokenizer_past_the_embedding_is_refused_unless_no_text_can_hold_it(pairs, sample, tiny_internvl, tmp_path):
    """transformers adds `<video>` to the -hf tokenizer, past the embedding; no text may hold it. Anything else is a fault."""
    setup = one_device_inputs(make_config(pairs, sample), tiny_internvl)
    assert setup.processor.chat.tokenizer.convert_tokens_to_ids("<video>") == setup.sizes.language.vocab_size
    tokens = json.loads((tiny_internvl / "tokenizer_config.json").read_text())["extra_special_tokens"] | {"audio_token": "<audio>"}
    model = changed(tiny_internvl, tmp_path / "model", "tokenizer_config.json", extra_special_tokens=tokens)
    with pytest.raises(UserError, match=r"the tokenizer has 1538 tokens, the model's embedding 1536 and none for '<audio>'"):
        one_device_inputs(make_config(pairs, sample), model)


def test_text_that_names_a_video_is_refused(sample, tiny_internvl, tmp_path):
    record = {"id": "d", "messages": [{"role": "user", "content": "See <video> here"}, {"role": "assistant", "content": "Yes."}]}
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match="<video>"):
        one_device_inputs(make_config(tmp_path / "d.jsonl", sample, stage="sft"), tiny_internvl)
