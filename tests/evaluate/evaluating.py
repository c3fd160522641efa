"""Command lines of evaluations, and what they leave."""

import json


def flags(tasks, data, model, out, server, *more):
    folders = ",".join(str(data[name]) for name in tasks)
    at = [f"--base_url={server.url}"] if server is not None else []
    return [f"--task={','.join(tasks)}", f"--data={folders}", f"--model={model}", f"--out={out}", "--max_tokens=64", *at, *more]


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def result(out, task, prompt):
    return json.loads((out / task / prompt / "score.json").read_text("utf-8"))
