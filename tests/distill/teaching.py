"""Questions, teachers' responses to them, and the command that distils."""

import json
from pathlib import Path

from mede2_jax.distill.__main__ import main

SAID = (
    "The patient has had a fever for {number} days, and the joint of the great toe is red and swollen. "
    "A sprain would need an injury, which nobody speaks of. Uric acid may be normal in an attack, so it does not decide. "
    "Crystals that are negatively birefringent would prove it. Let me check again whether anything else fits: "
    "an infection would come with chills, and there are none. I stay with it."
)


def lines(path, records):
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def read(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def manifest(path):
    return json.loads(Path(f"{path}.manifest.json").read_text("utf-8"))


def question(number, **fields):
    text = f"Case {number}: a toe hurts. What is it?\nAnswer Choices: (A) gout (B) sprain"
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": text}]
    return {"id": f"q{number}", "prompt": prompt, "options": {"A": "gout", "B": "sprain"}, "answer": "A", "images": []} | fields


def thought(number):
    return SAID.format(number=number)


def response(number, said=None, answer="A"):
    return f"<think> {thought(number) if said is None else said} </think> <answer> {answer} </answer>"


def rollout(of, text, sample=0, model="teacher", **fields):
    row = {"id": f"{of['id']}#{sample}", "parents": [of["id"]], "sample": sample, "response": text, "seed": sample, "model": model}
    return {**of, **row, "finish_reason": "stop", "prompt_tokens": 1, "response_tokens": 1, **fields}


def distill(folder, questions, files, *flags):
    """The command on files of rollouts by name; the ids of the demonstrations."""
    lines(folder / "q.jsonl", questions)
    paths = [lines(folder / f"{name}.jsonl", rows) for name, rows in files.items()]
    main([f"--questions={folder / 'q.jsonl'}", f"--rollouts={','.join(paths)}", f"--out={folder / 'd.jsonl'}", *flags])
    return [one["id"] for one in read(folder / "d.jsonl")]


def left(folder):
    return {one["id"]: (one["step"], one["reason"]) for one in read(folder / "d.dropped.jsonl")}
