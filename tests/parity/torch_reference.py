"""Tiny random Qwen2.5-VL models in PyTorch (transformers), and the same weights as our parameter tree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flax.traverse_util import unflatten_dict
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from mede2_jax.data.qwen2_5_vl import image_geometry, mrope_positions
from mede2_jax.model_configs.qwen2_5_vl import config_from_hf
from mede2_jax.models.qwen2_5_vl import Qwen2_5VL, abstract_params
from mede2_jax.weights.qwen2_5_vl import weight_rules
from mede2_jax.weights.table import expected

IMAGE = 90
BASE = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 96,
    "image_token_id": IMAGE,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
    "bos_token_id": 94,
    "eos_token_id": 95,
    "vision_config": {
        "depth": 3,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_heads": 4,
        "out_hidden_size": 64,
        "in_chans": 3,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    },
}


def config_with(vision=None, **changes):
    """The base config with some entries replaced."""
    return {**BASE, **changes, "vision_config": {**BASE["vision_config"], **(vision or {})}}


def torch_model(raw, seed=0):
    """A random model with every parameter away from its trivial start (biases and norm scales too)."""
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**raw)).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if "norm" in name or "ln_q" in name else 0.0
            parameter.copy_(scale + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def our_params(raw, tensors):
    """Tensors by their newer Hugging Face names, as a nested dict by our weight table."""
    config = config_from_hf(raw)
    table = weight_rules(config)
    layout = next(layout for layout in table.layouts if layout.name == "new")
    stacks, flat = {}, {}
    for entry in expected(table, abstract_params(config), layout):
        array = entry.op.to_flax(tensors[entry.hf])
        if entry.layer is None:
            flat[entry.path] = jnp.asarray(array)
        else:
            stacks.setdefault(entry.path, []).append(array)
    return unflatten_dict(flat | {path: jnp.asarray(np.stack(layers)) for path, layers in stacks.items()}, sep="/")


def numpy_state(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def numpy_gradients(model):
    return {name: p.grad.numpy() if p.grad is not None else np.zeros(p.shape, np.float32) for name, p in model.named_parameters()}


def our_graph(raw, **options):
    return nnx.graphdef(nnx.eval_shape(lambda: Qwen2_5VL(config_from_hf(raw), rngs=nnx.Rngs(0), **options)))


@dataclasses.dataclass
class Example:
    """Tokens with their images; patches in raster order of merge units, as transformers takes them."""

    tokens: np.ndarray
    grids: list
    patches: list


def make_example(rng, parts, *, vocab=80, merge=2):
    """`parts` lists text lengths (int) and image grids (height, width in patches), in order."""
    tokens, grids, patches = [], [], []
    for part in parts:
        if isinstance(part, int):
            tokens.append(rng.integers(0, vocab, part))
        else:
            tokens += [[92], np.full(part[0] * part[1] // merge**2, IMAGE), [93]]
            grids.append(part)
            patches.append(rng.standard_normal((part[0] * part[1], 1176)).astype(np.float32))
    return Example(np.concatenate(tokens).astype(np.int32), grids, patches)


def torch_inputs(example):
    inputs = {"input_ids": torch.tensor(example.tokens[None].astype(np.int64))}
    if example.grids:
        inputs["pixel_values"] = torch.tensor(np.concatenate(example.patches))
        inputs["image_grid_thw"] = torch.tensor([(1, *grid) for grid in example.grids])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    return inputs


def make_batch(raw, rows, *, tokens=None, patches=None):
    """Rows of packed examples as a batch of causal text; every token is scored but each example's first."""
    vision = raw["vision_config"]
    merge, window = vision["spatial_merge_size"], vision["window_size"] // vision["spatial_merge_size"] // vision["patch_size"]
    tokens = tokens or max(sum(len(e.tokens) for e in row) for row in rows)
    total_patches = max(sum(len(p) for e in row for p in e.patches) for row in rows)
    patches = total_patches if patches is None else patches
    batch = {
        "tokens": np.zeros((len(rows), tokens), np.int32),
        "positions": np.zeros((len(rows), 3, tokens), np.int32),
        "key_start": np.zeros((len(rows), tokens), np.int32),
        "key_end": np.zeros((len(rows), tokens), np.int32),
        "image_index": np.full((len(rows), tokens), -1, np.int32),
        "patches": np.zeros((len(rows), patches, 1176), np.float32),
        "patch_positions": np.zeros((len(rows), patches, 2), np.int32),
        **{f"patch_{k}_{e}": np.zeros((len(rows), patches), np.int32) for k in ("window", "image") for e in ("start", "end")},
        "scored_index": np.zeros((len(rows), tokens), np.int32),
        "scored_target": np.zeros((len(rows), tokens), np.int32),
        "scored_response": np.full((len(rows), tokens), -1, np.int32),
    }
    for b, row in enumerate(rows):
        at = patch_at = scored_at = 0
        for number, example in enumerate(row):
            n = len(example.tokens)
            span = slice(at, at + n)
            batch["tokens"][b, span] = example.tokens
            batch["positions"][b, :, span] = mrope_positions(example.tokens == IMAGE, example.grids, merge)
            batch["key_start"][b, span] = at
            batch["key_end"][b, span] = np.arange(at + 1, at + n + 1)
            scored = slice(scored_at, scored_at + n - 1)
            batch["scored_index"][b, scored] = np.arange(at, at + n - 1)
            batch["scored_target"][b, scored] = example.tokens[1:]
            batch["scored_response"][b, scored] = number
            image_tokens = at + np.flatnonzero(example.tokens == IMAGE)
            for grid, pixels in zip(example.grids, example.patches, strict=True):
                geometry = image_geometry(grid, merge, window)
                here = slice(patch_at, patch_at + len(pixels))
                units = pixels.reshape(-1, merge**2, pixels.shape[-1])
                batch["patches"][b, here] = units[geometry.unit_order].reshape(-1, pixels.shape[-1])
                batch["patch_positions"][b, here] = geometry.patch_positions
                batch["patch_window_start"][b, here] = geometry.window_start + patch_at
                batch["patch_window_end"][b, here] = geometry.window_end + patch_at
                batch["patch_image_start"][b, here], batch["patch_image_end"][b, here] = patch_at, patch_at + len(pixels)
                count = len(geometry.unit_index)
                batch["image_index"][b, image_tokens[:count]] = geometry.unit_index + patch_at // merge**2
                image_tokens, patch_at = image_tokens[count:], patch_at + len(pixels)
            at, scored_at = at + n, scored_at + n - 1
    return jax.tree.map(jnp.asarray, batch)


def logits(graph, params, batch):
    model = nnx.merge(graph, params)
    return model.hidden_states(batch) @ model.vocabulary().T


def largest_gap(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
