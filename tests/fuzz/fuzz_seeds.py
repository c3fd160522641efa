"""Good inputs of every parser that is fuzzed."""

from __future__ import annotations

import functools
import io
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def as_json(*values: Any) -> list[bytes]:
    """Each as a JSON text."""
    return [json.dumps(value, ensure_ascii=False).encode() for value in values]


USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}
ASSISTANT = {"role": "assistant", "content": "<think> A line. </think> <answer> B </answer>"}
QUESTION = {
    "id": "q",
    "prompt": [USER],
    "images": ["a.png"],
    "answer": "B",
    "options": {"A": "Effusion", "B": "None"},
    "metadata": {"a": 1},
}
VERDICT = {"met": True, "reason": "It is."}
RECORDS = as_json(
    {"id": "d", "messages": [USER, ASSISTANT], "images": ["a.png"]},
    {"id": "p", "prompt": [USER], "images": ["a.png"], "chosen": "A line.", "rejected": "A dot.", "parents": ["a"], "source": "s"},
    QUESTION,
    QUESTION
    | {"id": "q#0", "parents": ["q"], "sample": 0, "response": "B", "finish_reason": "stop", "prompt_tokens": 3, "response_tokens": 2}
    | {"seed": 1, "model": "sha256:a", "token_ids": [1, 2], "logprobs": [-0.5, -1.0]},
    {"id": "q#0@0", "parents": ["q#0"], "question": "q", "repeat": 0, "of": "ab", "outcome": "correct", "correctness": VERDICT}
    | {"logical_consistency": VERDICT, "image_analysis": VERDICT, "no_hallucination": VERDICT, "reflection": VERDICT | {"met": False}}
    | {"judge": {"engine": "gemini", "model": "g", "prompt": "p/1"}, "raw": "{}", "usage": {"prompt_tokens": 3, "cost": 0.1}},
    {"conversations": [{"from": "human", "value": "<image>Why?"}, {"from": "gpt", "value": "So."}], "images": ["a.png"], "system": "Help."},
    {
        "conversations": [{"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    {"messages": [{"role": "user", "content": "<image>Why?"}, ASSISTANT], "images": ["a.png"], "tools": "[]"},
    {"prompt": [{"role": "user", "content": "Why?"}], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "b"}]},
    {"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "b"}], "images": ["a.png"]},
    {"prompt": [USER], "completion": [ASSISTANT], "image": "a.png", "label": True},
    {"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "Why?"}]}, ASSISTANT]},
    {"messages": [{"role": "user", "content": "Why?"}, ASSISTANT | {"weight": 0}, USER, ASSISTANT | {"weight": 1.0}], "images": ["a.png"]},
    {"conversations": [{"from": "human", "value": "Why?", "loss": False}, {"from": "gpt", "value": "So.", "loss": True}], "score": 0.5},
    {"messages": [USER, ASSISTANT, USER, ASSISTANT], "images": ["a.png", "b.png"], "unscored": [1], "weight": 1, "tools": None},
    {"instruction": "Why?", "input": "", "output": "So."},
)

YAML = [
    b"# a run\nstage: dpo\noutput: runs/a\nmodel: models/a\nlora:\n  rank: 8\n  alpha: 16.0\n  targets: [q_proj, v_proj]\n"
    b"data:\n  path: a.jsonl\n  row_tokens: 1024\nmesh: {data: 1, fsdp: -1}\noptimizer:\n  learning_rate: 1.0e-4\n",
    b"stage: sft\nepochs: 2\nparts:\n  vision: frozen\n  language: &kind lora\n  projector: *kind\ncheckpoint:\n  every: 10\n",
]
PRICES = b"as_of: 2026-11-01\nmodels:\n- {name: a, input: 1, output: 3}\n- {name: b, input: 0.5, output: 1.5}\n"
FLAGS = [
    b"--stage=dpo\n--lora.rank=8\n--data.path=a.jsonl\n--lora.targets=q_proj,v_proj\n--resume",
    b"--stage\nsft\n--lora.targets\nq_proj\nv_proj\n--mesh.data=1\n--no-data.packing\n--optimizer.learning_rate=1e-4",
]

MODEL_INFO = as_json({"family": "qwen2_5_vl", "format_version": 1, "digest": "sha256:a", "parents": ["sha256:b"], "dtype": "float32"})[0]
INDEX = as_json(
    {
        "metadata": {"total_size": 32},
        "weight_map": {name: "model-00001-of-00001.safetensors" for name in ("a", "b.weight")},
    }
)[0]
METRICS = as_json({"step": 1, "loss": 0.7, "time": 1.5}, {"step": 2, "loss": 0.6}, {"step": 2, "eval_loss": 0.5}, {"step": 3, "loss": 0.4})
OUTCOME = as_json(
    {"text": "So.", "finish_reason": "stop", "reason": "", "is_final": True, "prompt_tokens": 3, "response_tokens": 2, "model": "m"}
)[0]

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "So.", "refusal": None}, "finish_reason": "stop"}
OPENAI = as_json(
    {"id": "c", "model": "gpt", "choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
    {
        "model": "m",
        "choices": [CHOICE | {"logprobs": {"content": [{"token": "a", "logprob": -0.5}]}, "token_ids": [5]}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        "prompt_token_ids": [1, 2, 3],
    },
    {"choices": [CHOICE | {"message": {"refusal": "No."}}], "usage": {"prompt_tokens": 3}},
    {"choices": [CHOICE | {"finish_reason": "content_filter"}], "usage": {"prompt_tokens": 3}},
)
GEMINI = as_json(
    {
        "candidates": [{"content": {"parts": [{"text": "Hm.", "thought": True}, {"text": "So."}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 1},
        "modelVersion": "gemini-3",
    },
    {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH"}]}},
    {"candidates": [{"finishReason": "RECITATION", "finishMessage": "No.", "safetyRatings": []}], "usageMetadata": {"promptTokenCount": 3}},
    {"candidates": [{"content": {"parts": []}, "finishReason": "MAX_TOKENS"}]},
)
API_ERRORS = as_json(
    {"error": {"message": "Wrong key.", "code": "invalid_api_key", "type": "error", "param": None}},
    {"error": {"code": 429, "message": "Slow.", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "RetryInfo", "retryDelay": "37s"}]}},
    {"error": {"message": "No money.", "code": "insufficient_quota"}},
    {"detail": [{"loc": ["body"], "msg": "bad"}]},
    {"message": "no"},
)
_ASPECTS = ("Answer_Correctness", "Logical_Consistency", "Image_Analysis_Involvement", "No_Hallucination", "Reflection_Presence")
JUDGE_REPLIES = as_json(
    dict.fromkeys(_ASPECTS, "Yes"),
    dict.fromkeys(_ASPECTS, "No") | {"confidence": 0.5},
    {aspect: {"Reason": "It is.", "Verdict": "yes"} for aspect in _ASPECTS},
)
QUESTION_REMARKS = as_json(
    {"Pattern_Recognition": {"Reason": "It is.", "Verdict": "Yes"}, "Knowledge_Recall": {"Reason": "It is not.", "Verdict": "No"}},
    {
        "Removed": ["The film shows a mass of 3 cm."],
        "Question": "<image 1> A 40-year-old man has no fever. What is it?",
    },
    {"Removed": [], "Question": "<image 1> A 40-year-old man has no fever. The film shows a mass of 3 cm. What is it?"},
)
RESPONSES = [
    b"<think> The image shows fluid. </think> <answer> B. Pleural effusion </answer>",
    b"<think>\nIt is not A.\n</think>\nThe final answer is **B**.",
    "So, the answer is \\boxed{B}.\nAnswer: (b) “pleural effusion” – ≠ 胸腔积液".encode(),
    b"<answer>A or B</answer><answer>B</answer>",
    "<think>Perhaps <answer>A</answer>?</think> 因此，正确答案是（Ｂ）、胸腔积液 \u200b".encode(),
    "<answer>$\\boxed{\\textbf{B}}$. <b>p</b> \\neq .5&nbsp;× 10<sup>⁻6</sup>, T_2^* or **T2***</answer>".encode(),
    b"<answer>Yes, there is. B. cereus, not C; B is correct</answer>",
]
RUN_MANIFEST = as_json(
    {
        "model": "m",
        "digests": ["sha256:a", None],
        "data": {
            "train": {"path": "a.jsonl", "digest": "sha256:b", "examples": 3},
            "eval": {"path": "a", "digest": "sha256:c", "examples": 1},
        },
    }
)[0]
OUTPUT_MANIFEST = as_json(
    {
        "command": "python -m mede2_jax.rollout",
        "config": {"n": 8, "seed": 0},
        "images": {"root": "."},
        "questions": {"path": "q.jsonl", "digest": "sha256:a"},
        "failed": [{"id": "q", "sample": 0, "reason": "no"}],
        "versions": {"jax": "1"},
        "seconds": 1.5,
    }
)[0]


@functools.cache
def checkpoint(family: str) -> Path:
    """A tiny checkpoint of a family: config, tokenizer, image processor, weights."""
    from mede2_jax.families import family_named
    from mede2_jax.tiny import write_tiny_checkpoint

    place = Path(tempfile.mkdtemp(prefix="mede2-fuzz-seed-"))
    recipe = next(iter(family_named(family).tiny.values()))  # type: ignore[arg-type]
    texts = ["the scan of the lung shows an opacity", "<think> reason </think> <answer> B </answer>"]
    write_tiny_checkpoint(place, texts=texts, vocab_size=300, recipe=recipe)
    (place / "model.safetensors").unlink()
    return place


@functools.cache
def configs(family: str) -> list[bytes]:
    """config.json in each form in which it comes."""
    from mede2_jax.families import family_named

    ids = {token: 256 + number for number, token in enumerate(family_named(family).tiny["hf"].special_tokens)}  # type: ignore[arg-type]
    found = [recipe.files(300, ids)["config.json"] for recipe in family_named(family).tiny.values()]  # type: ignore[arg-type]
    if family == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": found[0]["rope_scaling"]["mrope_section"], "rope_theta": 1e6}
        text = {name: value for name, value in found[0].items() if not name.startswith(("rope", "vision", "image", "video"))}
        outer = {name: value for name, value in found[0].items() if name.startswith(("model_type", "vision", "image", "video", "tie"))}
        found.append(outer | {"text_config": text | {"rope_parameters": rope}})
    return as_json(*found)


def write_model_directory(to: Path, family: str) -> None:
    """A model directory without weights; the chat template in a file of its own."""
    shutil.copytree(checkpoint(family), to, dirs_exist_ok=True)
    settings = json.loads((to / "tokenizer_config.json").read_text())
    (to / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (to / "tokenizer_config.json").write_text(json.dumps(settings))


def write_adapter(to: Path, table: Any, shapes: Any) -> None:
    """A PEFT adapter of one layer's projections."""
    from mede2_jax.weights.peft import Adapter, _linears, export_adapter

    path, entry = next((path, entry) for path, entry in _linears(table, shapes, table.layouts[-1]).values() if path.endswith("q_proj"))
    layers = sum(other == path for other, _ in _linears(table, shapes, table.layouts[-1]).values())
    pair = np.zeros((layers, entry.hf_shape[1], 2), np.float32), np.zeros((layers, 2, entry.hf_shape[0]), np.float32)
    export_adapter(to, Adapter({path: pair}, 2, 4.0), table, shapes)


def write_params(to: Path) -> Path:
    """Parameters as a model directory has them."""
    from mede2_jax.weights.params import ParamWriter

    with ParamWriter(to) as writer:
        for name in ("language/norm/scale", "language/embed/embedding"):
            writer.create(name, (4, 2), np.dtype(np.float32))
            writer.write(name, np.ones((4, 2), np.float32))
    return to


def safetensors() -> list[bytes]:
    """Whole files."""
    from safetensors.numpy import save

    return [
        save({"a": np.ones((2, 2), np.float32), "b.weight": np.ones(4, np.float32)}, {"format": "pt"}),
        save({"a": np.ones(3, np.float16)}),
    ]


def references() -> list[bytes]:
    """Reference log-probabilities."""
    from safetensors.numpy import save

    tables = {"train": np.zeros((3, 2), np.float32), "eval": np.zeros((1, 2), np.float32)}
    return [save(tables, {"digest": "sha256:a", "done": '{"train": 2, "eval": 1}'})]


def cache(path: Path) -> bytes:
    """The bytes of a cache with two outcomes; the file itself stays."""
    from mede2_jax.engines.paid.cache import Cache
    from mede2_jax.engines.paid.outcome import Outcome

    with Cache(path) as opened:
        for digest in ("a" * 64, "b" * 64):
            opened.put(digest, Outcome(text="So.", prompt_tokens=3), api="gemini", model="m", cost=0.1)
    file = sqlite3.connect(path)
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()
    return path.read_bytes()


def images() -> list[bytes]:
    """Each format and mode."""
    rows, columns = np.mgrid[:24, :30]
    rgb = Image.fromarray(np.stack([rows * 9, columns * 8, rows + columns], -1).astype(np.uint8))
    wide = Image.fromarray((rows * 1000 + columns).astype(np.uint16))
    found: list[bytes] = []

    def save(picture: Image.Image, kind: str, **options: Any) -> None:
        out = io.BytesIO()
        picture.save(out, kind, **options)
        found.append(out.getvalue())

    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        save(rgb.convert(mode), "PNG")
    save(wide, "PNG")
    save(rgb, "PNG", transparency=(0, 0, 0))
    for mode in ("RGB", "L", "CMYK"):
        save(rgb.convert(mode), "JPEG")
    save(rgb, "JPEG", progressive=True, exif=_turned())
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        save(rgb, "TIFF", compression=compression)
    save(wide, "TIFF")
    save(rgb.convert("L").convert("F"), "TIFF")
    save(rgb, "WEBP", lossless=True)
    save(rgb, "WEBP", quality=50)
    save(rgb.convert("P"), "GIF")
    save(rgb.convert("P"), "GIF", save_all=True, append_images=[rgb.convert("P")])
    save(rgb, "BMP")
    return found


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
