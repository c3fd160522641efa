"""A project of Label Studio's as it exports one, without Label Studio; and the commands on it."""

import json
from pathlib import Path

from mede2_jax.reasoning.rubric import ASPECTS
from mede2_jax.review.__main__ import main


def read(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def lines(path, records):
    Path(path).write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return Path(path)


def manifest(path):
    return json.loads(Path(f"{path}.manifest.json").read_text("utf-8"))


def tasks(folder):
    return json.loads((folder / "tasks.json").read_text("utf-8"))


def annotation(person, verdicts, comment=None, updated="2026-01-01T10:00:00.000000Z", **fields):
    """One annotation; `verdicts` by criterion, None: the person has left it out."""
    result = [
        {"id": f"r{place}", "from_name": name, "to_name": "response", "type": "choices", "origin": "manual", "value": {"choices": [said]}}
        for place, (name, met) in enumerate(verdicts.items())
        if met is not None and (said := "Yes" if met else "No")
    ]
    if comment is not None:
        result.append({"id": "c", "from_name": "comment", "to_name": "response", "type": "textarea", "value": {"text": [comment]}})
    more = {"id": 1, "was_cancelled": False, "ground_truth": False, "lead_time": 4.2, "updated_at": updated, "project": 1, "task": 1}
    return {**more, "completed_by": person, "result": result, **fields}


def all_met(names=ASPECTS, **others):
    return {**dict.fromkeys(names, True), **others}


def project(path, some, annotations):
    """An export: the tasks, each with the annotations that `annotations` gives of its data."""
    found = [
        {"id": number, "data": one["data"], "annotations": annotations(one["data"]), "predictions": [], "meta": {}, "project": 1}
        for number, one in enumerate(some, 1)
    ]
    path.write_text(json.dumps(found), "utf-8")
    return path


def review(step, *flags, **options):
    main([step, *flags, *(f"--{name}={value}" for name, value in options.items())])
