"""What the data tests run on: tiny tokenizer and processor directories of both families, images, and data files."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mede2_jax.tiny_checkpoints.internvl3 import SPECIAL_TOKENS as INTERNVL_SPECIAL
from mede2_jax.tiny_checkpoints.recipe import QWEN2_TOKENS as SPECIAL

REAL = Path(__file__).parents[2].parent / "shared" / "models" / "qwen2.5-vl-7b"

TEMPLATE = (
    "{%- if messages[0].role != 'system' -%}{{ '<|im_start|>system\nYou help doctors.<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
INTERNVL_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<IMG_CONTEXT>\n' }}{%- elif part.type == 'video' -%}{{ '<video>\n' }}"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
CORPUS = (
    "the patient presents with chest pain and fever",
    "a scan of the lung shows an opacity",
    "<think> reason </think> <answer> B </answer>",
) * 4


def write_processor(directory: Path, template: str = TEMPLATE, **image_settings: object) -> Path:
    """A model directory without weights: config.json, tokenizer, chat template, image processor."""
    write_tokenizer(directory, SPECIAL, template)
    vision = {"patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "temporal_patch_size": 2}
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "vision_config": vision}))
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 100_352,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings | image_settings))
    return directory


def write_internvl(
    directory: Path, *, original: bool = False, template: str = INTERNVL_TEMPLATE, tile_size: int = 56, **settings: object
) -> Path:
    """The same of InternVL3: as transformers saves it, or in the owner's format, whose template knows no images."""
    vision = {"image_size": tile_size, "patch_size": 14}
    if original:
        write_tokenizer(directory, INTERNVL_SPECIAL, TEMPLATE)
        config: dict = {"model_type": "internvl_chat", "template": "internvl2_5", "vision_config": vision, "force_image_size": tile_size}
        config |= {"dynamic_image_size": True, "use_thumbnail": True, "min_dynamic_patch": 1, "max_dynamic_patch": 12}
        config |= {"downsample_ratio": 0.5, "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}}
        images: dict = {"image_processor_type": "CLIPImageProcessor", "crop_size": tile_size, "size": tile_size, "do_center_crop": True}
        config |= settings
    else:
        names = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        write_tokenizer(directory, INTERNVL_SPECIAL, template, extra_special_tokens=names)
        tokens = (tile_size // 28) ** 2
        vision = {name: [value, value] for name, value in vision.items()}
        config = {"model_type": "internvl", "vision_config": vision, "image_seq_length": tokens, "downsample_ratio": 0.5}
        images = {"image_processor_type": "GotOcr2ImageProcessorFast", "size": {"height": tile_size, "width": tile_size}}
        images |= {"crop_to_patches": False, "min_patches": 1, "max_patches": 12, "image_mean": [0.485, 0.456, 0.406]}
        images |= {"image_std": [0.229, 0.224, 0.225], "resample": 3} | settings
        (directory / "processor_config.json").write_text(json.dumps({"image_seq_length": tokens, "processor_class": "InternVLProcessor"}))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(images))
    return directory


def write_tokenizer(directory: Path, special: tuple[str, ...], template: str, **options: object) -> None:
    """A byte-level tokenizer with these special tokens, and its chat template."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", **options)
    fast.chat_template = template
    fast.save_pretrained(directory)


def write_image(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """A smooth coloured pattern of that size."""
    rows, columns = np.mgrid[:height, :width]
    values = np.stack([rows * (seed + 1), columns * 2, rows + columns], axis=-1) % 256
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def write_jsonl(path: Path, records: list[dict]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def pairs(folder: Path, count: int, *, with_images: bool = True) -> Path:
    """Preference pairs of different lengths, two of three with one or two images."""
    records = []
    for number in range(count):
        images = [f"images/{number}_{k}.png" for k in range(number % 3)] if with_images else []
        for k, name in enumerate(images):
            write_image(folder / name, 40 + 30 * (number % 5), 60 + 50 * k, seed=number)
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": "the patient " * (1 + number % 7)}]
        records.append(
            {
                "id": f"pair-{number}",
                "prompt": [{"role": "user", "content": content}],
                "images": images,
                "chosen": f"<think> reason {number} </think>" + " chest pain" * (number % 5),
                "rejected": "fever" * (1 + number % 3),
            }
        )
    return write_jsonl(folder / "pairs.jsonl", records)


def demonstrations(folder: Path, count: int) -> Path:
    """Text and one-image demonstrations, some with two assistant turns."""
    records = []
    for number in range(count):
        images = [f"images/d{number}.png"] if number % 2 else []
        for name in images:
            write_image(folder / name, 56 + 28 * (number % 3), 84, seed=number)
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": f"what is case {number}"}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "<answer> B </answer>" * (1 + number % 4)}]
        if number % 3 == 0:
            messages += [{"role": "user", "content": "and why"}, {"role": "assistant", "content": "an opacity"}]
        records.append({"id": f"demo-{number}", "messages": messages, "images": images})
    return write_jsonl(folder / "demonstrations.jsonl", records)
