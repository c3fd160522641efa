"""A tiny Qwen2.5-VL checkpoint with random weights, in the Hugging Face format of the released ones.

    python -m mede2_jax.tiny --to=DIR

For tests, smoke runs and the embedded default of training: everything about it is real (config, names, tokenizer, chat template,
processor) except the size and the weights. The same arguments give the same bytes. Its tokenizer is trained on the given texts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from rich.console import Console
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mede2_jax import convert
from mede2_jax.config import Config, UserError, parse, run_command

SAMPLE_TEXTS = tuple(
    Path(__file__).resolve().parents[1] / "data" / "sample" / f"{name}.jsonl" for name in ("demonstrations", "preferences")
)
# In the order in which the released tokenizers number them, after the vocabulary of the text.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# How Qwen2 cuts text into words before merging: contractions, letters, single digits, punctuation, line ends, spaces.
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
CHAT_TEMPLATE = """\
{%- if not messages or messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""


class TinyConfig(Config):
    """Where the checkpoint goes, and its variable sizes."""

    to: Path
    """Folder to write the checkpoint into."""
    texts: tuple[Path, ...] = SAMPLE_TEXTS
    """Files whose text the tokenizer learns its words from (JSONL records or plain text)."""
    vocab_size: int = pydantic.Field(1536, ge=320, le=65536)
    """Rows of the embedding; the tokenizer has at most as many tokens."""
    seed: int = 0
    """Of the random weights."""


def main(argv: Sequence[str]) -> None:
    """Writes the checkpoint."""
    config = parse(
        TinyConfig,
        argv,
        program="python -m mede2_jax.tiny",
        description="Write a tiny Qwen2.5-VL checkpoint in Hugging Face format, for tests, smoke runs and the embedded default of "
        "training. The weights are random: it knows nothing.",
    )
    if config.to.exists() and (not config.to.is_dir() or any(config.to.iterdir())):
        raise UserError(f"--to={config.to} exists; choose another directory, or delete it")
    write_tiny_checkpoint(config.to, texts=read_texts(config.texts), seed=config.seed, vocab_size=config.vocab_size)
    print(f"wrote a tiny random Qwen2.5-VL checkpoint to {config.to}")


def write_tiny_checkpoint(to: str | Path, *, texts: Sequence[str], seed: int = 0, vocab_size: int = 1536) -> None:
    """Writes config.json, model.safetensors (float32), tokenizer, image processor and generation config into `to`.

    Args:
        to: Folder, made if needed.
        texts: What the tokenizer learns its words from.
        seed: Of the weights.
        vocab_size: Rows of the embedding and of the head.

    Raises:
        UserError: `vocab_size` does not hold the 256 bytes and the special tokens.
    """
    to = Path(to)
    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise UserError(f"vocab_size {vocab_size} is too small; give at least {256 + len(SPECIAL_TOKENS)}")
    to.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, vocab_size)
    ids = {token: tokenizer.get_vocab()[token] for token in SPECIAL_TOKENS}
    config = model_config(vocab_size, ids)
    tokenizer.save(str(to / "tokenizer.json"))
    _write_json(to / "tokenizer_config.json", tokenizer_config(ids))
    _write_json(to / "config.json", config)
    _write_json(to / "preprocessor_config.json", preprocessor_config())
    _write_json(to / "generation_config.json", generation_config(ids))
    rng = np.random.default_rng(seed)
    tensors = {name: _initial(rng, name, shape) for name, shape in tensor_shapes(config)}
    save_file(tensors, str(to / "model.safetensors"), metadata={"format": "pt"})


def model_directory(to: Path) -> Path:
    """The model directory of the tiny checkpoint of the sample texts: the one in `to` if it is there and current, else a new one.

    Raises:
        UserError: The sample data is missing, or `to` is in use by something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder)
        write_tiny_checkpoint(checkpoint, texts=read_texts(SAMPLE_TEXTS))
        # The weights follow from the seed, so these files tell whether the sample data or this module has changed.
        names = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
        current = (to / "model.json").exists() and all((to / n).read_bytes() == (checkpoint / n).read_bytes() for n in names)
        if not current:
            to.parent.mkdir(parents=True, exist_ok=True)
            wanted = convert.ConvertConfig.model_validate({"from": checkpoint, "to": to, "overwrite": to.exists()})
            convert.run(wanted, Console(quiet=True))
    return to


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The text of JSONL records (every string in them) or of plain files.

    Raises:
        UserError: A file cannot be read, or a `.jsonl` file has a broken line.
    """
    texts: list[str] = []
    for path in paths:
        try:
            content = Path(path).read_text(encoding="utf-8")
            texts += (
                [text for line in content.splitlines() for text in _strings(json.loads(line))] if path.suffix == ".jsonl" else [content]
            )
        except OSError as error:
            raise UserError(f"cannot read {str(path)!r}: {error.strerror}; give files to learn words from with --texts") from None
        except ValueError as error:
            raise UserError(f"{path}: not UTF-8 JSON Lines: {error}") from None
    return texts


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer as Qwen2's: text vocabulary first, then the special tokens; `vocab_size` tokens at most."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def model_config(vocab_size: int, ids: dict[str, int]) -> dict[str, Any]:
    """config.json, laid out as in the released checkpoints."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "max_position_embeddings": 8192,
        "max_window_layers": 4,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": vocab_size,
        "vision_config": {
            "depth": 4,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
        },
    }


def tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    """tokenizer_config.json."""
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(ids[token]): {"content": token, **added} for token in SPECIAL_TOKENS},
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 8192,
        "chat_template": CHAT_TEMPLATE,
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json: CLIP's mean and standard deviation, and at most 448² pixels an image."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 56 * 56,
        "max_pixels": 448 * 448,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def generation_config(ids: dict[str, int]) -> dict[str, Any]:
    """generation_config.json: stop at the end of the turn or of the text."""
    end_of_text, end_of_turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    return {
        "bos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "eos_token_id": [end_of_turn, end_of_text],
        "do_sample": True,
        "temperature": 0.000001,
        "repetition_penalty": 1.05,
    }


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor's hub name and shape."""
    width, vocab, feed = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    kv_width = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocab, width)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, out in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)):
            yield f"{prefix}.self_attn.{name}.weight", (out, width)
            yield f"{prefix}.self_attn.{name}.bias", (out,)
        yield f"{prefix}.self_attn.o_proj.weight", (width, width)
        yield f"{prefix}.mlp.gate_proj.weight", (feed, width)
        yield f"{prefix}.mlp.up_proj.weight", (feed, width)
        yield f"{prefix}.mlp.down_proj.weight", (width, feed)
        yield f"{prefix}.input_layernorm.weight", (width,)
        yield f"{prefix}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (vocab, width)
    yield from _vision_shapes(config["vision_config"])


def _vision_shapes(vision: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, feed, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = width * vision["spatial_merge_size"] ** 2
    yield "visual.patch_embed.proj.weight", (width, vision["in_chans"], vision["temporal_patch_size"], patch, patch)
    linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linears |= {"mlp.gate_proj": (feed, width), "mlp.up_proj": (feed, width), "mlp.down_proj": (width, feed)}
    for block in range(vision["depth"]):
        for norm in ("norm1", "norm2"):
            yield f"visual.blocks.{block}.{norm}.weight", (width,)
        for name, shape in linears.items():
            yield f"visual.blocks.{block}.{name}.weight", shape
            yield f"visual.blocks.{block}.{name}.bias", shape[:1]
    yield "visual.merger.ln_q.weight", (width,)
    for name, shape in {"0": (merged, merged), "2": (vision["out_hidden_size"], merged)}.items():
        yield f"visual.merger.mlp.{name}.weight", shape
        yield f"visual.merger.mlp.{name}.bias", shape[:1]


def _initial(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Biases 0, norm scales 1, all else normal with the released configs' initializer_range."""
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return rng.normal(0.0, 0.02, shape).astype(np.float32)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
