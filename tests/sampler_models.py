"""Tiny checkpoints whose samplers have something to say: random weights large enough that no answer repeats itself."""

from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file

from mede2_jax import convert, tiny
from mede2_jax.data.records import Message
from mede2_jax.engines.chat import ChatRequest
from mede2_jax.families import family_named


def write_checkpoint(to: Path, family: str, *, format: str | None = None, seed: int = 1, scale: float = 0.15) -> Path:
    """A tiny checkpoint in Hugging Face format with every parameter away from its trivial start, biases and norms too."""
    recipes = family_named(family).tiny
    recipe = recipes[format or next(iter(recipes))]
    tiny.write_tiny_checkpoint(to, texts=tiny.read_texts(tiny.SAMPLE_TEXTS), recipe=recipe)
    rng = np.random.default_rng(seed)
    tensors = load_file(to / "model.safetensors")
    for name in sorted(tensors):
        is_scale = tensors[name].ndim == 1 and tensors[name].mean() == 1
        tensors[name] = (float(is_scale) + scale * rng.standard_normal(tensors[name].shape)).astype(np.float32)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def to_model_directory(checkpoint: Path, to: Path) -> Path:
    convert.run(convert.ConvertConfig.model_validate({"from": checkpoint, "to": to}), Console(quiet=True))
    return to


def make_request(number=0, *, images=(), n=1, seed=0, words=12, text=None):
    """A question of that number, with `images` before its text."""
    rng = np.random.default_rng(number)
    question = text or " ".join(rng.choice(["what", "where", "lung", "heart", "pain", "fever", "cough", "cell", "blood", "sign"], words))
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": f"{number}: {question}?"}]
    return ChatRequest(f"q{number}", (Message(role="user", content=content),), tuple(images), n, seed)


def make_image(width, height, seed=0):
    """Noise, so that no two patches are alike."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
