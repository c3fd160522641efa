"""Pictures, conversations and references of InternVL3's processor."""

import numpy as np
from PIL import Image

from mede2_jax.data.records import Message

OWNER = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
TILE = 56
SIZES = {
    "square": (200, 200),
    "wide": (60, 400),
    "tall": (500, 70),
    "tiny": (3, 5),
    "huge": (1500, 2100),
    "thin": (2, 399),
    "tile": (56, 56),
}


def picture(height, width):
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(height).integers(0, 60, (height, width, 3))
    return Image.fromarray(((np.stack([rows, columns * 2, rows + columns], axis=-1) + noise) % 256).astype(np.uint8))


def messages(*turns):
    """Turns as (role, parts…), None for an image."""
    made = []
    for role, *parts in turns:
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        made.append(Message.model_validate({"role": role, "content": content}))
    return made


def tiles_of(processor, encoded):
    """[tiles, 3, size, size] from patches, by where they say they lie."""
    side, patch = processor.tiling.side, processor.tiling.patch_size
    tiles = np.full((len(encoded.patches) // side**2, 3, side * patch, side * patch), np.nan, dtype=np.float32)
    for number, (values, (row, column)) in enumerate(zip(encoded.patches, encoded.geometry.patch_positions, strict=True)):
        at = np.s_[number // side**2, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        tiles[at] = values.reshape(3, patch, patch)
    return tiles


def widened(processor, conversation, sizes):
    tokens = processor.chat.prompt(conversation)
    return np.repeat(tokens, processor.token_repeats(tokens, [processor.grid(*size) for size in sizes]))


def decode(processor, tokens):
    return processor.chat.tokenizer.decode(list(map(int, tokens)), skip_special_tokens=False)


def owners_text(*turns):
    """ChatML as the owner's `internvl2_5` conversation writes it."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"
