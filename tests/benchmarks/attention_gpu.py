"""Attention over key ranges on this machine's GPU: right or wrong, and how fast beside its rivals.

    python tests/benchmarks/attention_gpu.py [--tune] [--json=FILE]

Checks values and gradients against the blockwise implementation in float32, then times forward and backward of rows as training
has them. TFLOP/s counts only what queries see: 4·H a head and visible pair forward, 10·H backward. `--tune` tries tiles.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mede2_jax.models import attention_gpu
from mede2_jax.models.attention import attention, use_backend
from mede2_jax.models.attention_gpu import Tile, Tiles, fused_attention
from mede2_jax.models.attention_gpu_kernels import Kernels

ROWS = {
    # name: (rows, tokens, heads, key heads, head dimension, ranges)
    "language, one causal row": (1, 4096, 28, 4, 128, lambda n: causal([n])),
    "language, packed examples": (1, 4096, 28, 4, 128, lambda n: causal([n // 2, n // 4, n // 8, n // 8])),
    "language, pairs that share a prompt": (1, 4096, 28, 4, 128, lambda n: shared([(n // 8, n // 16, n // 16)] * 4)),
    "vision, windows": (1, 8192, 16, 16, 80, lambda n: blocks(n, 64)),
    "vision, whole images": (1, 8192, 16, 16, 80, lambda n: blocks(n, 2048)),
    "tiles of InternVL3": (8, 1025, 16, 16, 64, lambda n: blocks(n, n)),
}


def causal(lengths):
    start = np.concatenate([np.full(n, sum(lengths[:i])) for i, n in enumerate(lengths)])
    return start, np.arange(len(start)) + 1


def blocks(length, size):
    start = np.arange(length) // size * size
    return start, np.minimum(start + size, length)


def shared(pairs):
    """[chosen reversed | prompt | rejected] for (prompt, chosen, rejected) lengths, and padding."""
    start, end, offset = [], [], 0
    for prompt, chosen, rejected in pairs:
        own = offset + np.arange(chosen + prompt + rejected)
        begin = offset + chosen
        start.append(np.where(own < begin, own, begin))
        end.append(np.where(own < begin, begin + prompt, own + 1))
        offset += len(own)
    return np.concatenate(start), np.concatenate(end)


def make(name, dtype, seed=0):
    rows, tokens, heads, key_heads, width, ranges = ROWS[name]
    rng = np.random.default_rng(seed)
    start, end = ranges(tokens)
    start, end = (np.pad(x, (0, tokens - len(x))) for x in (start, end))
    shapes = [(rows, tokens, heads, width), *[(rows, tokens, key_heads, width)] * 2, (rows, tokens, heads, width)]
    q, k, v, d_out = (jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes)
    ranges = [jnp.asarray(np.tile(x, (rows, 1)).astype(np.int32)) for x in (start, end)]
    visible = float(rows * np.maximum(end - start, 0).sum() * heads * width)
    return (q, k, v, *ranges), d_out, visible


def with_backend(backend, *arguments):
    with use_backend(backend):
        return attention(*arguments)


def both(function: Callable[..., jax.Array]):
    """Forward alone, and forward with backward."""

    def backward(q, k, v, start, end, d_out):
        out, pull = jax.vjp(lambda *x: function(*x, start, end), q, k, v)
        return out, pull(d_out)

    return jax.jit(function), jax.jit(backward)


def milliseconds(function: Callable[..., Any], *arguments: Any, repeats: int = 10, rounds: int = 5) -> float:
    """The median over rounds of the mean of `repeats` calls that follow one another."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        out = [function(*arguments) for _ in range(repeats)]
        jax.block_until_ready(out)
        times.append((time.perf_counter() - begun) / repeats * 1e3)
        del out
    return statistics.median(times)


def check() -> list[dict[str, Any]]:
    """The largest relative error ‖fused − reference‖/‖reference‖ of output and gradients, with float32 and bfloat16 inputs."""
    report = []
    rng = np.random.default_rng(1)
    cases = {"random ranges": (2, 1000, 6, 2, 128), "random ranges, narrow heads": (1, 700, 4, 4, 80), "small": (3, 75, 4, 1, 16)}
    for name, (rows, tokens, heads, key_heads, width) in cases.items():
        bounds = np.sort(rng.integers(0, tokens + 1, (2, rows, tokens)), axis=0).astype(np.int32)
        bounds[:, rng.random((rows, tokens)) < 0.2] = 0
        shapes = [(rows, tokens, heads, width), *[(rows, tokens, key_heads, width)] * 2, (rows, tokens, heads, width)]
        q, k, v, d_out = (rng.standard_normal(shape, np.float32) for shape in shapes)
        with jax.default_matmul_precision("highest"):
            expected = both(functools.partial(with_backend, "xla"))[1](q, k, v, *bounds, d_out)
        for dtype in (jnp.float32, jnp.bfloat16):
            ours = both(fused_attention)[1](*(jnp.asarray(x, dtype) for x in (q, k, v)), *bounds, jnp.asarray(d_out, dtype))
            errors = [
                float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b))
                for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)
            ]
            empty = bool(jnp.any(ours[0][np.asarray(bounds[1] <= bounds[0])]))
            report.append({"check": name, "dtype": jnp.dtype(dtype).name, "out, dq, dk, dv": errors, "empty ranges give zeros": not empty})
            print(report[-1], flush=True)
    return report


def rivals() -> dict[str, Callable[..., jax.Array]]:
    found = {"fused": fused_attention, "xla": functools.partial(with_backend, "xla")}
    try:
        import tokamax

        def tokamax_attention(q, k, v, start, end):
            from tokamax._src.ops.attention import base

            mask = base.Mask(k_start=start[:, None], k_end=end[:, None])
            return tokamax.dot_product_attention(q, k, v, mask=mask, implementation="mosaic")

        found["tokamax"] = tokamax_attention
    except ImportError as error:
        print("no tokamax:", error)
    return found


def cudnn_causal(q, k, v, start, end):
    """Only for one causal row: cuDNN has no key ranges."""
    del start, end
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def compare() -> list[dict[str, Any]]:
    report = []
    for name in ROWS:
        arguments, d_out, visible = make(name, jnp.bfloat16)
        functions = rivals() | ({"cuDNN": cudnn_causal} if "one causal" in name else {})
        for rival, function in functions.items():
            try:
                forward, backward = both(function)
                ahead = milliseconds(forward, *arguments)
                whole = milliseconds(backward, *arguments, d_out)
            except Exception as error:
                print(name, rival, "failed:", type(error).__name__, str(error).splitlines()[:1], flush=True)
                continue
            back = whole - ahead
            report.append(
                {
                    "rows": name,
                    "of": rival,
                    "forward_ms": round(ahead, 3),
                    "backward_ms": round(back, 3),
                    "forward_tflops": round(4 * visible / ahead / 1e9, 1),
                    "backward_tflops": round(10 * visible / back / 1e9, 1),
                }
            )
            print(report[-1], flush=True)
    return report


def tune() -> list[dict[str, Any]]:
    """Each kernel alone, with every tile that compiles."""
    options = {
        "forward": [(128, 64, 8, 3), (128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 3), (128, 64, 4, 3), (128, 32, 4, 3), (128, 128, 8, 3)],
        "d_q": [(128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2), (64, 128, 8, 2), (128, 128, 8, 2), (128, 32, 8, 3)],
        "d_kv": [(64, 128, 8, 2), (64, 128, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3), (32, 128, 8, 3), (128, 128, 8, 2), (32, 64, 4, 3)],
    }
    report = []
    for name in ("language, packed examples", "vision, whole images"):
        arguments, d_out, visible = make(name, jnp.bfloat16)
        q, k = arguments[:2]
        default = attention_gpu.HALF
        kernels = Kernels(default, q.shape[3], q.shape[2] // k.shape[2], False)
        out, normaliser = jax.jit(lambda *x, kernels=kernels: attention_gpu._forward(kernels, *x))(*arguments)
        delta = jnp.einsum("btnh,btnh->bnt", d_out, out, preferred_element_type=jnp.float32)
        calls = {
            "forward": (attention_gpu._forward, arguments, 4),
            "d_q": (attention_gpu._queries_backward, (*arguments, d_out, normaliser, delta), 6),
            "d_kv": (attention_gpu._keys_backward, (*arguments, d_out, normaliser, delta), 8),
        }

        def compiled(job, calls=calls, default=default, q=q, k=k):
            kind, shape = job
            tiles = Tiles(**{"forward": default.forward, "d_q": default.d_q, "d_kv": default.d_kv, kind: Tile(*shape)})
            kernels = Kernels(tiles, q.shape[3], q.shape[2] // k.shape[2], False)
            function, given, _ = calls[kind]
            begun = time.perf_counter()
            try:
                return jax.jit(functools.partial(function, kernels)).lower(*given).compile(), time.perf_counter() - begun
            except Exception as error:
                return str(error).splitlines()[0][:120], time.perf_counter() - begun

        jobs = [(kind, shape) for kind, shapes in options.items() for shape in shapes]
        with ThreadPoolExecutor(12) as pool:
            for (kind, shape), (function, seconds) in zip(jobs, pool.map(compiled, jobs), strict=True):
                if isinstance(function, str):
                    print(name, kind, shape, function, flush=True)
                    continue
                _, given, products = calls[kind]
                took = milliseconds(function, *given)
                rate = products * visible / took / 1e9
                report.append({"rows": name, "kernel": kind, "tile": shape, "ms": round(took, 4), "tflops": round(rate, 1)})
                print(f"{name:28} {kind:8} {shape!s:20} {took:8.3f} ms {rate:7.1f} TFLOP/s  (compiled in {seconds:.1f} s)", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}", flush=True)
    report = {"device": device.device_kind, "jax": jax.__version__, "check": check(), "compare": compare()}
    if given.tune:
        report["tune"] = tune()
        for (name, kind), rows in itertools.groupby(report["tune"], key=lambda row: (row["rows"], row["kernel"])):
            row = min(rows, key=lambda row: row["ms"])
            print("best", name, kind, row["tile"], row["ms"], "ms", row["tflops"], "TFLOP/s")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
