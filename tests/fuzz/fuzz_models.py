"""Targets of the fuzzer: the files of models, checkpoints and adapters."""

from __future__ import annotations

import functools
import json
from typing import Any

import fuzz_seeds as seeds
from fuzz_mutators import Mutator, on_json, on_safetensors, on_text
from fuzz_target import Made, folder, target, written

TEMPLATE_WORDS = (
    "{{ 1/0 }}|{% if %}|{{ x.y.z }}|{{ messages[9] }}|{{ messages[0].content + 'a' }}|{%- endfor -%}|{{ 'a' * 3 }}|{{ messages }}|{#"
    "|{{ ().__class__ }}|{{ strftime_now('%Y') }}|{% set a = 1 %}|{{ a() }}|{{ messages[0]['content'] }}|{{ '<|im_end|>' }}"
)


@target()
def config_qwen2_5_vl() -> Made:
    return seeds.configs("qwen2_5_vl"), on_json, _config


@target()
def config_internvl3() -> Made:
    return seeds.configs("internvl3"), on_json, _config


@target()
def config_shapes() -> Made:
    import numpy as np

    def run(data: bytes) -> None:
        family, config = _config(data)
        family.weight_rules(config)
        family.abstract_params(config, np.float32)

    return [*seeds.configs("qwen2_5_vl"), *seeds.configs("internvl3")], on_json, run


def _processor(family: str, name: str, mutate: Mutator) -> Made:
    """One file of a model directory, whose others are good: it is opened, a prompt is rendered and an image encoded."""
    from PIL import Image

    from mede2_jax.data.processor_files import quiet_transformers
    from mede2_jax.data.records import Message
    from mede2_jax.families import family_named

    quiet_transformers()
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    place = folder() / f"{family}-{name}"
    seeds.write_model_directory(place, family)
    if name == "chat_template.json":  # the released models have one, the tiny ones the newer file
        (place / name).write_text(json.dumps({"chat_template": (place / "chat_template.jinja").read_text("utf-8")}), "utf-8")
    kind, picture = family_named(family).load_processor, Image.new("RGB", (70, 50), "red")  # type: ignore[arg-type]
    conversation = [Message.model_validate({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]})]

    def run(data: bytes) -> None:
        (place / name).write_bytes(data)
        processor = kind(place)
        processor.chat.prompt(conversation)
        encoded = processor.encode_image(picture)
        assert encoded.patches.shape[1] == processor.patch_dim and abs(encoded.patches).max() < float("inf")

    return [(place / name).read_bytes()], mutate, run


TEMPLATE = on_text("{{ raise_exception('\x1b[2J') }}", *TEMPLATE_WORDS.split("|"))
"""No loops: one that counts to a billion is refused after five seconds."""
for _name, _arguments in {
    "preprocessor_qwen2_5_vl": ("qwen2_5_vl", "preprocessor_config.json", on_json),
    "preprocessor_internvl3": ("internvl3", "preprocessor_config.json", on_json),
    "host_config_qwen2_5_vl": ("qwen2_5_vl", "config.json", on_json),
    "host_config_internvl3": ("internvl3", "config.json", on_json),
    "tokenizer_config": ("qwen2_5_vl", "tokenizer_config.json", on_json),
    "tokenizer": ("qwen2_5_vl", "tokenizer.json", on_json),
    "chat_template": ("qwen2_5_vl", "chat_template.jinja", TEMPLATE),
    "chat_template_json": ("qwen2_5_vl", "chat_template.json", on_json),
}.items():
    target(name=_name)(functools.partial(_processor, *_arguments))


@target()
def adapter() -> Made:
    import numpy as np

    from mede2_jax.families import family_of
    from mede2_jax.weights.peft import CONFIG, TENSORS, import_adapter

    raw = json.loads(seeds.configs("qwen2_5_vl")[0])
    family = family_of(raw)
    model = family.config_from_hf(raw)
    table, shapes = family.weight_rules(model), family.abstract_params(model, np.float32)
    place = folder() / "adapter"
    seeds.write_adapter(place, table, shapes)

    def run(data: bytes) -> None:
        (place / CONFIG).write_bytes(data)
        found = import_adapter(place, table, shapes)
        assert np.isfinite(found.scale) and 0 <= found.dropout <= 1

    assert (place / TENSORS).is_file()
    return [(place / CONFIG).read_bytes()], on_json, run


@target()
def model_info() -> Made:
    from mede2_jax.weights.model_info import read_info

    return [seeds.MODEL_INFO], on_json, lambda data: read_info(written("m/model.json", data).parent)


@target()
def params_metadata() -> Made:
    from mede2_jax.weights.params import TREE_METADATA, ParamReader

    place = seeds.write_params(folder() / "params")
    good = (place / TREE_METADATA).read_bytes()

    def run(data: bytes) -> None:
        (place / TREE_METADATA).write_bytes(data)
        ParamReader(place)

    return [good], on_json, run


@target()
def safetensors() -> Made:
    from mede2_jax.weights.hf import CheckpointReader

    def run(data: bytes) -> None:
        with CheckpointReader(written("s/model.safetensors", data).parent) as reader:
            for name in list(reader.tensors)[:3]:
                reader.read(name)

    return seeds.safetensors(), on_safetensors, run


@target()
def index() -> Made:
    from mede2_jax.weights.hf import INDEX, CheckpointReader

    written("i/model-00001-of-00001.safetensors", seeds.safetensors()[0])

    def run(data: bytes) -> None:
        CheckpointReader(written(f"i/{INDEX}", data).parent)

    return [seeds.INDEX], on_json, run


def _config(data: bytes) -> Any:
    from mede2_jax.families import model_config

    return model_config(written("c/config.json", data).parent)
