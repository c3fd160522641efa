"""Random checkpoints of any config, written tensor by tensor; also a command: `python random_checkpoint.py CONFIG_JSON DIR`.

To repeat the measurement of a full-size conversion (7.5 GB a directory, some minutes):

    python tests/weights/random_checkpoint.py config.json random-3b
    python -m mede2_jax.convert --from=random-3b --to=random-3b-model      # prints seconds, MB/s, peak memory, digest
    python -m mede2_jax.convert --from=random-3b-model --to=random-3b-back

or, asserting that memory stays under 3 GB: `MEDE2_TEST_3B=1 pytest tests/weights/test_memory.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mede2_jax.families import family_of
from mede2_jax.weights.hf import CheckpointWriter
from mede2_jax.weights.table import Entry, expected
from mede2_jax.weights.transfer import in_layer_order

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
CHUNK = 2**24


def tiny_config(*, tied: bool = False, **text: int) -> dict[str, Any]:
    """A released-style (flat) config.json with every kind of tensor; no two sizes equal, so that no axis can be confused."""
    vision = dict(depth=3, hidden_size=32, intermediate_size=44, num_heads=2, in_chans=3, out_hidden_size=48, patch_size=14)
    vision |= dict(
        spatial_merge_size=2, window_size=112, fullatt_block_indexes=[1], tokens_per_second=2, temporal_patch_size=2, hidden_act="silu"
    )
    sizes = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, vocab_size=100)
    tokens = dict(vision_start_token_id=90, vision_end_token_id=91, image_token_id=92, video_token_id=93)
    other = dict(rms_norm_eps=1e-6, rope_theta=1e6, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}, tie_word_embeddings=tied)
    kind = {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"], "torch_dtype": "bfloat16"}
    return kind | sizes | tokens | other | {"vision_config": vision} | text


def released_config(size: str) -> dict[str, Any]:
    """The released 3B, 7B, 32B or 72B, in the numbers a weight table depends on."""
    text = {
        "3b": dict(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2),
        "7b": dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4),
        "32b": dict(hidden_size=5120, intermediate_size=27648, num_hidden_layers=64, num_attention_heads=40, num_key_value_heads=8),
        "72b": dict(hidden_size=8192, intermediate_size=29568, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8),
    }[size]
    config = tiny_config(tied=size == "3b", **text, vocab_size=151936 if size == "3b" else 152064)
    vision = dict(depth=32, hidden_size=1280, num_heads=16, out_hidden_size=text["hidden_size"], fullatt_block_indexes=[7, 15, 23, 31])
    vision["intermediate_size"] = 3420 if size in ("3b", "7b") else 3456
    return config | {"vision_config": config["vision_config"] | vision, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}


def entries_of(config: dict[str, Any], layout: str = "hub") -> list[Entry]:
    """Every tensor of a checkpoint of this config."""
    family = family_of(config)
    model = family.config_from_hf(config)
    table = family.weight_rules(model)
    return in_layer_order(expected(table, family.abstract_params(model, np.float32), table.layout(layout)))


def write_checkpoint(
    directory: Path, config: dict[str, Any], *, layout: str = "hub", dtype: np.dtype = BFLOAT16, shard_bytes: int = 4 * 10**9, seed: int = 0
) -> None:
    """Writes config.json and random tensors, a block of rows at a time."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    write_companions(directory)
    random = np.random.default_rng(seed)
    shapes = {entry.hf: entry.hf_shape for entry in entries_of(config, layout)}
    with CheckpointWriter(directory, [(name, dtype, shape) for name, shape in shapes.items()], shard_bytes) as writer:
        for name, shape in shapes.items():
            rows = max(1, CHUNK // max(1, int(np.prod(shape[1:]))))
            for start in range(0, shape[0], rows):
                block = random.standard_normal((min(rows, shape[0] - start), *shape[1:]), np.float32)
                writer.write(name, block.astype(dtype), start=start)


def write_companions(directory: Path) -> None:
    """Empty files where a checkpoint has tokenizer, chat template and image processor: enough to convert, not to train."""
    for name in ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json"):
        (directory / name).write_text("{}")


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))
