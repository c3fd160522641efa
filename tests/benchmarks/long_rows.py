"""A row of 32,768 tokens with 16 images, whole on one device and split over eight: the same loss, gradient and step.

    JAX_PLATFORMS=cpu .venv-test/bin/python tests/benchmarks/long_rows.py [--tokens=32768] [--images=16] [--sequence=8]

Of the tiny model, in float32, on a CPU; minutes, since each layer sees 32,768 keys.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROWS_FULL = 0.97


def main() -> None:
    """Makes the row, trains a step both ways, and prints the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--sequence", type=int, default=8)
    given = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={given.sequence}")
    sys.path[:0] = [str(TESTS), str(TESTS / "train")]
    from mede2_jax.parallel.host import prepare_host

    prepare_host()
    from training import make_config, one_device_inputs

    from mede2_jax import tiny
    from mede2_jax.embedded import SAMPLE
    from mede2_jax.train.inputs import open_inputs

    with tempfile.TemporaryDirectory() as folder:
        model = tiny.model_directory(Path(folder) / "model")
        data = demonstration(Path(folder) / "long.jsonl", model, given.tokens, given.images)
        parts = {"vision": "lora", "projector": "full", "language": "lora"}
        config = make_config(data, SAMPLE, stage="sft", data={"row_tokens": given.tokens}, parts=parts, remat="full")
        whole = step(one_device_inputs(config, model), model, "one device")
        mesh = type(config.mesh)(fsdp=1, sequence=given.sequence)
        split = step(open_inputs(config.model_copy(update={"mesh": mesh}), model), model, f"sequence={given.sequence}")
    print(f"loss {whole[0]:.6f} and {split[0]:.6f}, gradient norm {whole[1]:.6f} and {split[1]:.6f}")
    print(f"largest difference of a trained parameter after the step: {largest(whole[2], split[2]):.1e}")


def demonstration(path: Path, model: Path, tokens: int, images: int) -> Path:
    """One record that nearly fills the row: a question with many images, a long text, and an answer of a quarter of it."""
    from mede2_jax.embedded import SAMPLE
    from mede2_jax.families import model_config

    chat = model_config(model)[0].load_processor(model).chat
    pictures = sorted(str(file.relative_to(SAMPLE)) for file in (SAMPLE / "images").iterdir())
    chosen = [pictures[number % len(pictures)] for number in range(images)]
    line = "no fluid is seen at the left base, and so the shadow is not an effusion; "
    each = len(chat.tokenizer(line, add_special_tokens=False)["input_ids"])
    lines = int(tokens * ROWS_FULL - images * 400) // each
    parts = [{"type": "image"} for _ in chosen] + [{"type": "text", "text": line * (lines * 3 // 4)}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": line * (lines // 4)}]
    path.write_text(json.dumps({"id": "long", "messages": turns, "images": chosen}) + "\n", encoding="utf-8")
    return path


def step(setup, model, name):
    """(loss, gradient norm, trained parameters after it)."""
    import jax
    from training import moved_params

    from mede2_jax.data.loader import make_loader
    from mede2_jax.train.optimizer import make_optimizer
    from mede2_jax.train.state import init_state
    from mede2_jax.train.step import Steps

    began = time.perf_counter()
    optimizer = make_optimizer(setup.config.optimizer.model_copy(update={"eps": 1e-3, "warmup_ratio": 0.0}), 1e-3, 10)
    steps = Steps(setup.spec, setup.loss, optimizer, setup.mesh, chunk=256)
    state = init_state(setup.spec, moved_params(setup, model), optimizer, setup.mesh, seed=0)
    with make_loader(setup.train, setup.shape, rows_per_step=1, epochs=1, seed=0) as loader:
        state, metrics = steps.train(state, steps.place(next(iter(loader)), micro=True))
    found = float(metrics["loss"]), float(metrics["grad_norm"]), jax.device_get(state.trainable)
    print(
        f"{name}: a row of {setup.shape.tokens:,} tokens and {setup.shape.patches:,} patches, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return found


def largest(one, other) -> float:
    """Of all differences."""
    from training import largest_gap

    return largest_gap(one, other)


if __name__ == "__main__":
    main()
