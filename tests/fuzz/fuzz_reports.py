"""Targets of the fuzzer: what a report reads, which may come from anywhere: scores, verdicts, replies, people's verdicts, metrics."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from fuzz_commands import quietly
from fuzz_mutators import on_json, on_lines, on_one_line
from fuzz_scores import HUB
from fuzz_target import Made, folder, target, written

REPLIES = [
    {"id": f"medxpertqa_mm/mede2/MM-{n}#{k}", "parents": [f"medxpertqa_mm/mede2/MM-{n}"], "source": "medxpertqa_mm", "images": ["a.png"],
     "metadata": {"prompt": "mede2", "item": f"MM-{n}"}, "sample": k, "response": "<think> a </think> <answer> B </answer>",
     "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}], "response_tokens": 5}
    for n in range(2) for k in range(2)
]  # fmt: skip
PEOPLE = {"rollout": "q#0", "logical_consistency": True, "image_analysis": "yes", "no_hallucination": "No", "reflection": 1}
STEPS = [{"step": 1, "loss": 0.7, "grad_norm": 1.5}, {"step": 2, "eval_loss": 0.6}, {"step": 3, "loss": 0.5, "margin": 0.1}]


@functools.cache
def _scored() -> Path:
    """A score of two items with two samples each, by the real command."""
    from mede2_jax.score.__main__ import main

    data = written("report/mm.jsonl", "".join(json.dumps(HUB | {"id": f"MM-{n}"}) + "\n" for n in range(2)).encode())
    replies = written("report/r.jsonl", _lines(REPLIES))
    out = folder() / "report" / "score"
    quietly(main, ["--task=medxpertqa_mm", f"--data={data}", f"--responses={replies}", f"--out={out}", "--resamples=100"])
    return out


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _report(name: str, data: bytes) -> None:
    """What a report has of a score of which one file is another; figures are not saved, which takes most of a report's time."""
    from mede2_jax.report.config import ReportConfig
    from mede2_jax.report.folder import Folder
    from mede2_jax.report.items import Content
    from mede2_jax.report.page import page
    from mede2_jax.report.paper_tables import paper_tables
    from mede2_jax.report.pictures import Pictures
    from mede2_jax.report.scores import read_boards
    from mede2_jax.report.sections import draw, notices, sections
    from mede2_jax.report.tables import comma_separated, markdown

    changed = folder() / "report" / "changed"
    shutil.rmtree(changed, ignore_errors=True)
    shutil.copytree(_scored(), changed)
    (changed / name).write_bytes(data)
    config = ReportConfig(resamples=100)
    models, boards = read_boards([f"a={_scored()}", f"b={changed}"])
    pictures = Pictures(Folder(folder() / "report" / "out"), inside=True, max_image_pixels=10_000)
    contents = [Content(board, pictures) for board in boards]
    drawn = draw(config, boards)
    parts = sections(config, models, contents, drawn, tuple(paper_tables(models, boards, None)), {})
    for part in parts:
        for table in (*part.tables, *part.folded):
            assert markdown(table) and comma_separated(table)
    inside = {f"{place}": [content.index(), list(content.pieces()), content.texts()] for place, content in enumerate(contents)}
    page("Report", notices(contents), parts, {figure.name: "" for figure in drawn.scores}, inside)


@target()
def report_score() -> Made:
    said = json.loads((_scored() / "score.json").read_text())
    part = said["overall"] | {"items": 1}
    judged = {"api": "gemini", "model": "m", "responses": 2, "correct": 1, "agreement": {"responses": 2, "agreement": 0.5, "kappa": None}}
    more = said | {
        "leakage": {"touched": ["MM-0"], "without_touched": part, "checked": [{"data": "a/b.jsonl", "same_files": False}]},
        "owners_figure": 0.5,
        "definition": {"path": "x.yaml"},
        "shuffles": {"by_seed": {"7": part}, "answers": {"items": 2, "changed": 1}},
        "judge": judged,
        "left_out": ["MM-9"],
        "unjudged": 1,
    }
    return [json.dumps(said).encode(), json.dumps(more).encode()], on_json, functools.partial(_report, "score.json")


@target()
def report_verdicts() -> Made:
    return [(_scored() / "verdicts.jsonl").read_bytes()], on_one_line, functools.partial(_report, "verdicts.jsonl")


@target()
def report_replies() -> Made:
    """Replies that are what was scored, as far as their digest says."""

    def run(data: bytes) -> None:
        path = written("report/changed.jsonl", data)
        said = json.loads((_scored() / "score.json").read_text())
        said["responses"] |= {"path": str(path), "digest": hashlib.sha256(data).hexdigest()}
        _report("score.json", json.dumps(said).encode())

    return [_lines(REPLIES)], on_one_line, run


@target()
def report_people() -> Made:
    from mede2_jax.report.people import read_both

    aspects = ("correctness", "logical_consistency", "image_analysis", "no_hallucination", "reflection")
    judged = {name: {"met": True} for name in aspects} | {"judge": {"engine": "offline", "model": "rules/1"}, "of": "0"}
    file = written("report/judgments.jsonl", _lines([{"id": "q#0@0", "parents": ["q#0"], "question": "q", "repeat": 0, **judged}]))
    own = {"id": "q#0@annotator-1", "parents": ["q#0"], "question": "q", "repeat": 0, **judged}
    seeds = [json.dumps(PEOPLE).encode(), json.dumps(own | {"judge": {"engine": "people", "model": "annotator-1"}}).encode()]
    return seeds, on_lines, lambda data: read_both(file, written("report/people.jsonl", data))


@target()
def label_studio_export() -> Made:
    from mede2_jax.review.annotations import read_opinions

    data = {"made_by": "mede2_jax review", "kind": "response", "id": "q#0", "of": "0", "images": [{"url": "a"}]}
    aspects = ("correctness", "logical_consistency", "image_analysis", "no_hallucination", "reflection")
    said = [{"from_name": name, "type": "choices", "value": {"choices": ["Yes"]}} for name in aspects]
    one = {"id": 1, "completed_by": 2, "result": [*said, {"from_name": "comment", "value": {"text": ["so"]}}], "updated_at": "2026"}
    tasks = [{"id": 1, "data": data, "annotations": [one, one | {"completed_by": {"id": 3}}, one | {"was_cancelled": True}]}]
    return [json.dumps(tasks).encode()], on_json, lambda text: read_opinions([written("report/export.json", text)], "response")


@target()
def report_metrics() -> Made:
    from mede2_jax.report.curves import training_figure

    def run(data: bytes) -> None:
        training_figure([str(written("report-run/metrics.jsonl", data).parent)])

    return [_lines(STEPS)], on_one_line, run


@target()
def report_funnel() -> Made:
    from mede2_jax.report.funnel import funnel_figure, read_funnel

    manifest = {
        "command": "python -m mede2_jax.pair",
        "counts": {"pairs": {"in": 5, "train": 1}, "samples": 3},
        "dropped": {"pairs": {"x": 4}},
    }

    def run(data: bytes) -> None:
        funnel_figure(read_funnel([written("report/pairs.jsonl.manifest.json", data)]))

    return [json.dumps(manifest).encode(), json.dumps(manifest | {"dropped": {"truncated": 2}}).encode()], on_json, run
