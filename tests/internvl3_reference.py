"""Tiny random InternVL3 models in PyTorch (transformers), the same weights as our parameter tree, and batches of tiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flax.traverse_util import unflatten_dict
from transformers import InternVLConfig, InternVLForConditionalGeneration

from mede2_jax.model_configs.internvl3 import config_from_hf
from mede2_jax.models.internvl3 import InternVL3, abstract_params
from mede2_jax.weights.internvl3 import weight_rules
from mede2_jax.weights.table import expected

IMAGE = 90
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0},
    "vocab_size": 96,
}
VISION = {
    "model_type": "internvl_vision",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_channels": 3,
    "patch_size": [14, 14],
    "image_size": [56, 56],
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
KINDS = {
    "300m": {"norm_type": "layer_norm", "attention_bias": True, "use_qk_norm": False},
    # Five heads, as 25 of the released one: what divides by no power of two.
    "6b": {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True, "hidden_size": 60, "num_attention_heads": 5},
}


def config_with(kind="300m", *, text=None, vision=None, **changes):
    """A -hf config.json with the encoder of that kind, some entries replaced."""
    outer = {"architectures": ["InternVLForConditionalGeneration"], "model_type": "internvl", "image_token_id": IMAGE}
    outer |= {"image_seq_length": 4, "downsample_ratio": 0.5, "tie_word_embeddings": False}
    parts = {"text_config": TEXT | (text or {}), "vision_config": VISION | KINDS[kind] | (vision or {})}
    return outer | parts | changes


def torch_model(raw, seed=0):
    """A random model with every parameter away from its trivial start: biases, norms, layer scales and embeddings too."""
    model = InternVLForConditionalGeneration(InternVLConfig(**raw)).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            start = 1.0 if "norm" in name and name.endswith("weight") else 0.5 if "lambda" in name else 0.0
            parameter.copy_(start + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def our_params(raw, tensors, layout="new"):
    """Tensors by the names of a layout, as a nested dict by our weight table."""
    config = config_from_hf(raw)
    table = weight_rules(config)
    stacks, flat = {}, {}
    for entry in expected(table, abstract_params(config), table.layout(layout)):
        array = entry.op.to_flax(tensors[entry.hf][slice(*entry.rows or (None,))])
        if entry.layer is None:
            flat[entry.path] = jnp.asarray(array)
        else:
            stacks.setdefault(entry.path, []).append(array)
    return unflatten_dict(flat | {path: jnp.asarray(np.stack(layers)) for path, layers in stacks.items()}, sep="/")


def our_graph(raw, **options):
    return nnx.graphdef(nnx.eval_shape(lambda: InternVL3(config_from_hf(raw), rngs=nnx.Rngs(0), **options)))


def original_config(raw):
    """The config.json of the original format that asks for the same model."""
    vision = dict(raw["vision_config"], model_type="intern_vit_6b", patch_size=14, image_size=raw["vision_config"]["image_size"][0])
    for theirs, name in (("qkv_bias", "attention_bias"), ("qk_normalization", "use_qk_norm")):
        vision[theirs] = vision.pop(name)
    llm = dict(raw["text_config"], architectures=["Qwen2ForCausalLM"], tie_word_embeddings=raw["tie_word_embeddings"])
    outer = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "ps_version": "v2", "select_layer": -1}
    outer |= {"downsample_ratio": 0.5, "force_image_size": vision["image_size"], "template": "internvl2_5"}
    return outer | {"llm_config": llm, "vision_config": vision}


def original_tensors(tensors):
    """Tensors of the -hf format under the original's names, q, k and v fused; by the released conversion script's mapping."""
    renames = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.vision_tower.": "vision_model.",
        "model.multi_modal_projector.layer_norm.": "mlp1.0.",
        "model.multi_modal_projector.linear_1.": "mlp1.1.",
        "model.multi_modal_projector.linear_2.": "mlp1.3.",
    }
    inner = {"encoder.layer.": "encoder.layers.", "cls_token": "class_embedding", "position_embeddings": "position_embedding"}
    inner |= {"patch_embeddings.projection": "patch_embedding", "lambda_": "ls", "attention.projection_layer": "attn.proj"}
    inner |= {"attention.": "attn.", "layernorm_before": "norm1", "layernorm_after": "norm2"}
    found, thirds = {}, {}
    for name, tensor in tensors.items():
        old, new = next((old, new) for old, new in renames.items() if name.startswith(old))
        name = new + name.removeprefix(old)
        if name.startswith("vision_model."):
            for theirs, ours in inner.items():
                name = name.replace(theirs, ours)
        for letter in "qkv":
            if f".attn.{letter}_proj" in name:
                thirds.setdefault(name.replace(f"{letter}_proj", "qkv"), {})[letter] = tensor
                break
        else:
            found[name] = tensor
    return found | {name: np.concatenate([parts[letter] for letter in "qkv"]) for name, parts in thirds.items()}


def numpy_state(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def numpy_gradients(model):
    return {name: p.grad.numpy() if p.grad is not None else np.zeros(p.shape, np.float32) for name, p in model.named_parameters()}


@dataclasses.dataclass
class Example:
    """Tokens with their images' tiles as pixels [tiles, 3, side, side], in reading order, thumbnails last."""

    tokens: np.ndarray
    images: list


def make_example(rng, parts, *, vocab=80, side=56, per_tile=4):
    """`parts` lists text lengths (int) and images by how many tiles they have ((n,)), in order."""
    tokens, images = [], []
    for part in parts:
        if isinstance(part, int):
            tokens.append(rng.integers(0, vocab, part))
        else:
            tokens += [[92], np.full(part[0] * per_tile, IMAGE), [93]]
            images.append(rng.standard_normal((part[0], 3, side, side)).astype(np.float32))
    return Example(np.concatenate(tokens).astype(np.int32), images)


def torch_inputs(example):
    inputs = {"input_ids": torch.tensor(example.tokens[None].astype(np.int64))}
    if example.images:
        inputs["pixel_values"] = torch.tensor(np.concatenate(example.images))
    return inputs


def cut(tiles, patch=14):
    """Tiles [n, 3, side, side] as their patches' rows [n · G², 3 · 14 · 14], in raster order."""
    count, channels, side, _ = tiles.shape
    grid = side // patch
    patches = tiles.reshape(count, channels, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5)
    return patches.reshape(count * grid * grid, -1)


def make_batch(raw, rows, *, tokens=None, tiles=None):
    """Rows of packed examples as a batch of causal text; every token is scored but each example's first."""
    config = config_from_hf(raw)
    per_tile, units = config.grid**2, (config.grid // config.merge) ** 2
    tokens = tokens or max(sum(len(e.tokens) for e in row) for row in rows)
    count = max(sum(len(image) for e in row for image in e.images) for row in rows) if tiles is None else tiles
    patches = count * per_tile
    batch = {name: np.zeros((len(rows), tokens), np.int32) for name in ("tokens", "positions", "key_start", "key_end")}
    batch |= {name: np.zeros((len(rows), tokens), np.int32) for name in ("scored_index", "scored_target")}
    batch |= {name: np.full((len(rows), tokens), -1, np.int32) for name in ("image_index", "scored_response")}
    batch |= {f"patch_{k}_{e}": np.zeros((len(rows), patches), np.int32) for k in ("window", "image") for e in ("start", "end")}
    batch["patches"] = np.zeros((len(rows), patches, config.vision.patch_dim), np.float32)
    batch["patch_positions"] = np.zeros((len(rows), patches, 2), np.int32)
    for b, row in enumerate(rows):
        at = tile = scored_at = 0
        for number, example in enumerate(row):
            n = len(example.tokens)
            span, scored = slice(at, at + n), slice(scored_at, scored_at + n - 1)
            batch["tokens"][b, span], batch["positions"][b, span] = example.tokens, np.arange(n)
            batch["key_start"][b, span], batch["key_end"][b, span] = at, np.arange(at + 1, at + n + 1)
            batch["scored_index"][b, scored], batch["scored_target"][b, scored] = np.arange(at, at + n - 1), example.tokens[1:]
            batch["scored_response"][b, scored] = number
            places = at + np.flatnonzero(example.tokens == IMAGE)
            batch["image_index"][b, places] = tile * units + np.arange(len(places))
            for image in example.images:
                here = slice(tile * per_tile, (tile + len(image)) * per_tile)
                batch["patches"][b, here] = cut(image)
                of_tile = np.repeat(np.arange(tile, tile + len(image)), per_tile) * per_tile
                batch["patch_window_start"][b, here], batch["patch_window_end"][b, here] = of_tile, of_tile + per_tile
                batch["patch_image_start"][b, here], batch["patch_image_end"][b, here] = here.start, here.stop
                places_in_tile = np.stack(np.divmod(np.arange(per_tile), config.grid), axis=-1)
                batch["patch_positions"][b, here] = np.tile(places_in_tile, (len(image), 1))
                tile += len(image)
            at, scored_at = at + n, scored_at + n - 1
    return jax.tree.map(jnp.asarray, batch)
