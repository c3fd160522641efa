"""The Flax sampler against transformers' `generate` in PyTorch: the same tokens, one for one."""

import json

import numpy as np
import pytest
import torch
from internvl3_reference import numpy_state, original_tensors
from safetensors.numpy import load_file, save_file
from sampler_models import make_image, make_request, to_model_directory, write_checkpoint
from transformers import AutoTokenizer, GenerationConfig, InternVLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mede2_jax.data.internvl3 import IMAGENET_MEAN, IMAGENET_STD
from mede2_jax.data.rows import prompt_tokens
from mede2_jax.engines.chat import Sampling, token_rules
from mede2_jax.engines.flax.config import FlaxConfig
from mede2_jax.engines.flax.sampler import FlaxSampler
from mede2_jax.families import family_named, model_config
from mede2_jax.parallel.mesh_config import MeshConfig

TOKENS = 128
CONFIG = FlaxConfig(slots=2, samples=2, max_prompt_tokens=1024, dtype="float32", steps=32, mesh=MeshConfig(data=1))
IMAGES = {"text": (), "longer text": (), "one image": ((300, 200),), "three images": ((120, 260), (448, 448), (330, 90))}
MODELS = {"qwen2_5_vl": Qwen2_5_VLForConditionalGeneration, "internvl3": InternVLForConditionalGeneration}


def requests():
    return [
        make_request(
            number,
            images=[make_image(*size, seed=number + k) for k, size in enumerate(sizes)],
            words=279 if name == "longer text" else 12,
        )
        for number, (name, sizes) in enumerate(IMAGES.items())
    ]


def chat_text(tokenizer, request):
    turns = [message.model_dump() for message in request.messages]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def qwen_inputs(checkpoint, request):
    """Token ids and pixels as transformers prepares them (its own processor wants torchvision, for video)."""
    tokenizer, images = AutoTokenizer.from_pretrained(checkpoint), Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
    before, *after = chat_text(tokenizer, request).split("<|image_pad|>")
    inputs = {}
    if request.images:
        inputs = dict(images(list(request.images), return_tensors="pt"))
        counts = inputs["image_grid_thw"].prod(-1) // 4
        before += "".join("<|image_pad|>" * int(count) + text for count, text in zip(counts, after, strict=True))
    inputs["input_ids"] = tokenizer(before, return_tensors="pt")["input_ids"]
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    return inputs


class TorchlessInternVLProcessor(InternVLProcessor):
    """transformers' own, without the video processor that would need torchvision."""

    def check_argument_for_proper_class(self, *_):
        return None


def internvl_inputs(checkpoint, request):
    tokenizer, images = AutoTokenizer.from_pretrained(checkpoint), GotOcr2ImageProcessorPil.from_pretrained(checkpoint)
    prepare = TorchlessInternVLProcessor(images, tokenizer, None, image_seq_length=16, chat_template=tokenizer.chat_template)
    options = {"crop_to_patches": True, "max_patches": images.max_patches} if request.images else {}
    found = prepare(images=list(request.images) or None, text=chat_text(tokenizer, request), return_tensors="pt", **options)
    return {name: found[name] for name in ("input_ids", "pixel_values") if name in found}


def generate(model, inputs, rules):
    """Greedy tokens of transformers, and by how much each was the best."""
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=TOKENS,
        repetition_penalty=1.0,
        eos_token_id=list(rules.stop),
        pad_token_id=rules.stop[0],
        suppress_tokens=list(rules.banned),
        return_dict_in_generate=True,
        output_scores=True,
    )
    with torch.no_grad():
        found = model.generate(**inputs, generation_config=settings)
    best = torch.stack(found.scores)[:, 0].topk(2).values
    return found.sequences[0, inputs["input_ids"].shape[1] :].tolist(), float((best[:, 0] - best[:, 1]).min())


def sampled(directory, config=CONFIG):
    with FlaxSampler(directory, Sampling(temperature=0, max_tokens=TOKENS), config) as sampler:
        replies = {reply.request.id: reply for reply in sampler.answer(requests())}
    return [replies[f"q{number}"] for number in range(len(IMAGES))]


def rules_of(directory):
    family, sizes = model_config(directory)
    return token_rules(family.load_processor(directory), sizes.language.vocab_size)


def check(reply, tokens, prompt_length, margin):
    assert margin > 1e-4, "a tie: the comparison would say nothing"
    assert len(set(tokens)) > TOKENS // 3, "an answer that repeats itself tells little"
    assert len(tokens) == TOKENS
    assert reply.prompt_tokens == prompt_length
    assert reply.completions[0].token_ids == tuple(tokens)


def tie(checkpoint):
    """Makes the embedding the vocabulary projection too, as in Qwen2.5-VL 3B."""
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tied"), [("qwen2_5_vl", False), ("qwen2_5_vl", True), ("internvl3", False)])
def test_greedy_tokens_are_those_of_generate(family, tied, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "hf", family)
    if tied:
        tie(checkpoint)
    directory = to_model_directory(checkpoint, tmp_path / "model")
    model = MODELS[family].from_pretrained(checkpoint, dtype=torch.float32).eval()
    inputs = {"qwen2_5_vl": qwen_inputs, "internvl3": internvl_inputs}[family]
    rules, answers = rules_of(directory), []
    for request, reply in zip(requests(), sampled(directory), strict=True):
        given = inputs(checkpoint, request)
        tokens, margin = generate(model, given, rules)
        check(reply, tokens, given["input_ids"].shape[1], margin)
        answers.append(tokens)
    assert len({tuple(answer[:4]) for answer in answers}) == len(answers), "the answers must depend on the prompts"


@pytest.mark.slow
def test_the_original_format_answers_as_the_same_weights_in_transformers(tmp_path):
    """transformers knows no original template: token ids are ours, pixels and everything after it transformers'."""
    hf = write_checkpoint(tmp_path / "hf", "internvl3")
    model = InternVLForConditionalGeneration.from_pretrained(hf, dtype=torch.float32).eval()
    original = write_checkpoint(tmp_path / "original", "internvl3", format="original")
    save_file(original_tensors(numpy_state(model)), original / "model.safetensors", metadata={"format": "pt"})
    directory = to_model_directory(original, tmp_path / "model")
    processor = family_named("internvl3").load_processor(directory)
    model.config.image_token_id = model.model.config.image_token_id = processor.image_token_id
    config = json.loads((directory / "config.json").read_text())
    images = GotOcr2ImageProcessorPil(image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
    size = config["force_image_size"]
    tiling = {"crop_to_patches": True, "min_patches": config["min_dynamic_patch"], "max_patches": config["max_dynamic_patch"]}
    for request, reply in zip(requests(), sampled(directory), strict=True):
        grids = [processor.grid(image.height, image.width) for image in request.images]
        ids = prompt_tokens(request.messages, processor, grids)
        given = {"input_ids": torch.tensor(ids[None].astype(np.int64))}
        if request.images:
            pixels = images(list(request.images), size={"height": size, "width": size}, return_tensors="pt", **tiling)
            given["pixel_values"] = pixels["pixel_values"]
        tokens, margin = generate(model, given, rules_of(directory))
        check(reply, tokens, len(ids), margin)
