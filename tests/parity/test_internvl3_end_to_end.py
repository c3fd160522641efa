"""From records with images to logits: our processor, rows and model against transformers' processor and model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image
from transformers import AutoTokenizer, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor

from mede2_jax import tiny
from mede2_jax.data.dataset import open_dataset
from mede2_jax.data.source import DataConfig
from mede2_jax.families import model_config
from mede2_jax.weights.model_directory import load_params


class Reference(InternVLProcessor):
    """transformers' own, without the video processor that would need torchvision."""

    def check_argument_for_proper_class(self, *_):
        return None


@pytest.fixture(scope="module")
def records(sample, tmp_path_factory):
    """Demonstrations made of the sample's pairs: some with one image, some with several."""
    path = tmp_path_factory.mktemp("data") / "demonstrations.jsonl"
    pairs = [json.loads(line) for line in (sample / "preferences.jsonl").read_text().splitlines()]
    pairs = [pair for pair in pairs if len(pair["images"]) > 1][:2] + [pair for pair in pairs if len(pair["images"]) == 1][:2]
    made = [
        {"id": pair["id"], "messages": [*pair["prompt"], {"role": "assistant", "content": pair["chosen"]}], "images": pair["images"]}
        for pair in pairs
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in made))
    return path, made


@pytest.mark.slow
def test_logits_of_packed_records(sample, records, tmp_path):
    path, made = records
    checkpoint = tmp_path / "hf"
    tiny.main([f"--to={checkpoint}", "--family=internvl3"])
    directory = tiny.model_directory(tmp_path / "model", "internvl3")
    family, sizes = model_config(directory)
    processor = family.load_processor(directory)
    dataset = open_dataset(DataConfig(path=path, image_root=sample, row_tokens=8192), "sft", processor, show_progress=False)
    (plan,) = dataset.rows
    row = dataset.row(0, dataset.shape)
    assert sorted(plan) == list(range(len(made))) and row["patches"].shape[0] % 64 == 0
    params = load_params(directory, family.abstract_params(sizes))
    graph = nnx.graphdef(nnx.eval_shape(lambda: family.build(sizes, rngs=nnx.Rngs(0))))
    model = nnx.merge(graph, params)
    ours = np.asarray(model.hidden_states({name: jnp.asarray(value)[None] for name, value in row.items()}) @ model.vocabulary().T)[0]

    reference = InternVLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    images = GotOcr2ImageProcessorPil.from_pretrained(checkpoint)
    prepare = Reference(images, tokenizer, None, image_seq_length=16, chat_template=tokenizer.chat_template)
    at = 0
    for index in plan:
        record = made[index]
        text = tokenizer.apply_chat_template(record["messages"], tokenize=False)
        pictures = [Image.open(sample / name).convert("RGB") for name in record["images"]]
        inputs = prepare(images=pictures, text=text, return_tensors="pt", crop_to_patches=True, max_patches=4)
        with torch.no_grad():
            theirs = reference(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits[0].numpy()
        # Rows end each turn at its end token; the template writes a line's end after it.
        tokens = inputs["input_ids"][0].numpy()
        count = int((row["key_start"] == at).sum()) if at else int(((row["key_start"] == 0) & (row["key_end"] > 0)).sum())
        np.testing.assert_array_equal(row["tokens"][at : at + count], tokens[:count])
        assert len(tokens) - count <= 1
        assert np.abs(ours[at : at + count] - theirs[:count]).max() <= 1e-4
        at += count
