"""What a tiny checkpoint is made by, and the parts that all with a Qwen2 decoder share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Shapes = Iterator[tuple[str, tuple[int, ...]]]
"""Names and shapes of tensors."""
Ids = Mapping[str, int]
"""Special tokens and their ids."""

QWEN2_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""The special tokens that every Qwen2 tokenizer has, in its order."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A tiny checkpoint in one of its family's formats, all but the tokenizer's words and the numbers in its weights."""

    special_tokens: tuple[str, ...]
    """In the order in which the released tokenizers number them, after the vocabulary of the text."""
    files: Callable[[int, Ids], dict[str, dict[str, Any]]]
    """(rows of the embedding, ids) to the content of each JSON file but tokenizer.json; config.json is among them."""
    tensor_shapes: Callable[[Mapping[str, Any]], Shapes]
    """config.json to every tensor's hub name and shape."""


def decoder_shapes(config: Mapping[str, Any], *, prefix: str, head: str) -> Shapes:
    """The decoder's tensors: `prefix` is what their names start with, `head` the vocabulary projection's name."""
    width, vocab, feed = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    kv_width = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield f"{prefix}embed_tokens.weight", (vocab, width)
    for layer in range(config["num_hidden_layers"]):
        block = f"{prefix}layers.{layer}"
        for name, out in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)):
            yield f"{block}.self_attn.{name}.weight", (out, width)
            yield f"{block}.self_attn.{name}.bias", (out,)
        yield f"{block}.self_attn.o_proj.weight", (width, width)
        yield f"{block}.mlp.gate_proj.weight", (feed, width)
        yield f"{block}.mlp.up_proj.weight", (feed, width)
        yield f"{block}.mlp.down_proj.weight", (width, feed)
        yield f"{block}.input_layernorm.weight", (width,)
        yield f"{block}.post_attention_layernorm.weight", (width,)
    yield f"{prefix}norm.weight", (width,)
    yield head, (vocab, width)


def chat_template(*, opening: str = "", image: str, video: str) -> str:
    """A ChatML template in Jinja: `opening` comes first, `image` and `video` stand for such parts."""
    return f"""\
{opening}{{%- for message in messages -%}}
{{{{- '<|im_start|>' + message.role + '\\n' -}}}}
{{%- if message.content is string -%}}
{{{{- message.content -}}}}
{{%- else -%}}
{{%- for part in message.content -%}}
{{%- if part.type == 'image' -%}}
{{{{- '{image}' -}}}}
{{%- elif part.type == 'video' -%}}
{{{{- '{video}' -}}}}
{{%- else -%}}
{{{{- part.text -}}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- endif -%}}
{{{{- '<|im_end|>\\n' -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
{{{{- '<|im_start|>assistant\\n' -}}}}
{{%- endif -%}}"""


def linear_shapes(name: str, shape: tuple[int, int]) -> Shapes:
    """A linear layer's weight [out, in] and bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def tokenizer_config(ids: Ids, chat_template: str, special_tokens: Iterable[str]) -> dict[str, Any]:
    """tokenizer_config.json."""
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(ids[token]): {"content": token, **added} for token in special_tokens},
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 8192,
        "chat_template": chat_template,
    }
