"""Targets of the fuzzer: data, options, replies, and the files that a run keeps."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable
from typing import Any

import fuzz_seeds as seeds
from fuzz_mutators import on_bytes, on_flags, on_images, on_json, on_lines, on_safetensors, on_text, on_yaml
from fuzz_target import Made, folder, target, written

from mede2_jax.config import UserError

ANSWER_WORDS = (
    "<answer>|</answer>|<think>|</think>|**|\\boxed{|}|The answer is |option |Answer: B|(B)|B.|\\text{|$|so the final answer"
    "|A or B|≠|“|Ｂ|答案|答案：|选B|、|。|（|<b>|</b>|<sup>|&lt;|\\neq|\\(|\\textbf{|**B**.|T2*|.5|10⁶|½"
    "|\u200b|!=|E. coli|Yes, |No. |is correct"
)


@target()
def records() -> Made:
    from mede2_jax.data.readers import detect_format, read_own, read_record
    from mede2_jax.data.record_file import RecordFile
    from mede2_jax.data.records import Demonstration, Judgment, PreferencePair, Question, Rollout

    def run(data: bytes) -> None:
        file = RecordFile(written("records.jsonl", data))
        for number in range(len(file)):
            raw, where = file[number], "r:1"
            formats = {detect_format(raw), "mede2", "sharegpt", "trl"}
            readings = [
                functools.partial(read_record, raw, kind, one, where) for kind in (Demonstration, PreferencePair) for one in formats
            ]
            readings += [functools.partial(read_own, raw, kind, where) for kind in (Question, Rollout, Judgment)]
            faults = []
            for reading in readings:
                try:
                    reading().model_dump_json()
                except UserError as fault:
                    faults.append(fault)
            if len(faults) == len(readings):
                raise faults[number % len(faults)]
            for fault in faults:
                if not str(fault).isprintable():
                    raise fault

    return seeds.RECORDS, on_lines, run


@target()
def image() -> Made:
    from mede2_jax.data.images import decode_image, image_size

    def run(data: bytes) -> None:
        size = image_size(data, "a.png", 200_000)
        found = decode_image(data, "a.png", 200_000)
        assert found.mode == "RGB" and (found.height, found.width) == size, (found, size)

    return seeds.images(), on_images, run


@target()
def train_yaml() -> Made:
    from mede2_jax.train.config import TrainConfig

    return seeds.YAML, on_yaml("lora", "optimizer", "data", "mesh", "stage", "rank", "targets", "path"), _parsed_yaml(TrainConfig)


@target()
def convert_yaml() -> Made:
    from mede2_jax.convert import ConvertConfig

    return [b"from: a\nto: b\nlayout: new\n", b"from: a\nto: b\nmax_shard_gb: 2\n"], on_yaml("from", "to"), _parsed_yaml(ConvertConfig)


@target()
def prices() -> Made:
    from mede2_jax.engines.paid.cost import PRICES, find_price

    return [PRICES.read_bytes(), seeds.PRICES], on_yaml("models", "as_of", "name"), lambda data: find_price("a", written("p.yaml", data))


@target(UserError, SystemExit)
def train_flags() -> Made:
    from mede2_jax.flags import parse
    from mede2_jax.train.config import TrainConfig

    def run(data: bytes) -> None:
        arguments = [line.replace("\0", "") for line in data.decode("utf-8", "surrogateescape").split("\n")]
        # The help takes a second, and is the same whatever else is there.
        arguments = [argument for argument in arguments if not argument.startswith("-h") and argument != "--help"]
        parse(TrainConfig, arguments, program="train", description="d")

    names = [
        "lora.rank",
        "stage",
        "data.path",
        "lora.targets",
        "mesh.data",
        "config",
        "resume",
        "optimizer.learning_rate",
        "lora",
        "parts.vision",
    ]
    return seeds.FLAGS, on_flags(*names), run


@target()
def reference() -> Made:
    from mede2_jax.train.reference import load_reference

    return seeds.references(), on_safetensors, lambda data: load_reference(written("reference.safetensors", data), "sha256:a")


@target()
def metrics() -> Made:
    from mede2_jax.train.metrics import _keep_until

    return seeds.METRICS, on_lines, lambda data: _keep_until(written("metrics.jsonl", data), 2)


@target()
def cache() -> Made:
    from mede2_jax.engines.paid.cache import Cache
    from mede2_jax.engines.paid.outcome import Outcome

    good = seeds.cache(folder() / "seed.sqlite")
    number = iter(range(10**9))

    def run(data: bytes) -> None:
        path = written(f"cache{next(number)}.sqlite", data)
        try:
            with Cache(path) as opened:
                opened.get("a" * 64)
                opened.put("c" * 64, Outcome(text="x"), api="a", model="m", cost=0.5)
        finally:
            for file in folder().glob(f"{path.name}*"):
                file.unlink()

    return [good], on_bytes, run


@target()
def cached_outcome() -> Made:
    import sqlite3

    from mede2_jax.engines.paid.cache import Cache

    path = folder() / "outcome.sqlite"
    seeds.cache(path)

    def run(data: bytes) -> None:
        text: Any = data
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode()
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.execute("UPDATE outcomes SET outcome = ?", (text,))
            file.commit()
        with Cache(path) as opened:
            opened.get("a" * 64)

    return [seeds.OUTCOME], on_json, run


def _replies() -> tuple[type[BaseException], ...]:
    from mede2_jax.engines.wire.attempts import Failed, MalformedReply, Refused

    return UserError, Failed, MalformedReply, Refused


@target(*_replies())
def openai_reply() -> Made:
    from mede2_jax.engines.chat import ChatRequest
    from mede2_jax.engines.paid.openai import read_reply
    from mede2_jax.engines.wire.openai_reply import completions, parse_reply

    request = ChatRequest(id="q", messages=(), images=(), n=1, seed=0)

    def run(data: bytes) -> None:
        reply = parse_reply(data)
        _shown(read_reply(reply).reason)
        completions(reply, request, logprobs=False, with_ids=False)
        completions(reply, request, logprobs=True, with_ids=True)

    return seeds.OPENAI, on_json, run


@target(*_replies())
def gemini_reply() -> Made:
    from mede2_jax.engines.paid.gemini_reply import read_reply

    return seeds.GEMINI, on_json, lambda data: _shown(read_reply(data.decode("utf-8", "replace")).reason)


@target(*_replies())
def api_error() -> Made:
    import httpx2

    from mede2_jax.engines.paid.gemini import _fault

    statuses = (400, 401, 404, 408, 413, 418, 429, 500, 503)

    def run(data: bytes) -> None:
        response = httpx2.Response(statuses[sum(data) % len(statuses)], content=data, headers={"content-type": "application/json"})
        fault = _fault("http://a", response)
        rest = getattr(fault, "rest", None)
        assert rest is None or 0 <= rest < 1e12, rest
        raise fault

    return seeds.API_ERRORS, on_json, run


def _unreadable() -> type[BaseException]:
    from mede2_jax.reasoning.judge_reply import Unreadable

    return Unreadable


@target(_unreadable())
def judge_reply() -> Made:
    from mede2_jax.reasoning.rubric import read_reply

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        try:
            read_reply(text, reasons=False)
        except _unreadable():
            read_reply(text, reasons=True)

    return seeds.JUDGE_REPLIES, on_json, run


@target(_unreadable())
def question_remark() -> Made:
    from mede2_jax.reasoning.remarks import changed_beside, read_refinement, read_types

    before = "<image 1> A 40-year-old man has no fever. The film shows a mass of 3 cm. What is it?"

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        try:
            read_types(text)
        except _unreadable():
            refined = read_refinement(text)
            changed_beside(before, refined)
            changed_beside(text, refined)

    return seeds.QUESTION_REMARKS, on_json, run


@target()
def final_answer() -> Made:
    from mede2_jax.reasoning.answers import final_answer, grade, normalised

    options = {"A": "Pneumothorax", "B": "Pleural effusion", "C": "No finding (x ≠ y)"}

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        final_answer(text)
        normalised(text)
        for truth, choices in (("B", options), ("pleural effusion", options), ("pleural effusion", None), ("B", None), ("yes", None)):
            grade(text, truth, choices)
        assert grade(text, None) is None and grade(text, "…") != "correct"

    words = [" " * 9000, "(" * 500, "\n" * 3000, "\u0301" * 300, *ANSWER_WORDS.split("|")]
    return seeds.RESPONSES, on_text(*words), run


@target()
def run_manifest() -> Made:
    """Of a training run, when it is resumed."""
    from mede2_jax.train.run_directory import _check_same_inputs

    manifest = json.loads(seeds.RUN_MANIFEST)
    return [seeds.RUN_MANIFEST], on_json, lambda data: _check_same_inputs(written("run/manifest.json", data).parent, manifest)


@target()
def run_config() -> Made:
    """Of a training run, when it is resumed."""
    from mede2_jax.config import to_yaml
    from mede2_jax.train.config import TrainConfig
    from mede2_jax.train.run_directory import _check_same_config

    config = TrainConfig.model_validate({"output": folder() / "resumed"})
    good = to_yaml(config).encode()
    return [good], on_yaml("lora", "data"), lambda data: _check_same_config(config) if written("resumed/config.yaml", data) else None


@target()
def output_manifest() -> Made:
    from mede2_jax.outputs.image_root import image_root
    from mede2_jax.outputs.manifest import manifest_path, read_manifest

    place = written("o/rollouts.jsonl", b"")

    def run(data: bytes) -> None:
        manifest_path(place).write_bytes(data)
        read_manifest(place)
        image_root(place, None)

    return [seeds.OUTPUT_MANIFEST.replace(b'"."', json.dumps(str(place.parent)).encode())], on_json, run


def _parsed_yaml(kind: Any) -> Callable[[bytes], Any]:
    from mede2_jax.flags import parse

    def run(data: bytes) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            parse(kind, [f"--config={written('c.yaml', data)}"], program="x", description="d")

    return run


def _shown(text: str) -> None:
    """What a user reads although nothing was refused."""
    from mede2_jax.foreign import visible

    assert text == visible(text) and "\n" not in text and len(text) < 3000, text
