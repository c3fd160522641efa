"""Open answers that a judge is asked of, and what was said."""

import json

from judge_servers import read

ITEMS = 8


def answers(*texts):
    """Replies that give these answers."""
    return [f"<think> … </think> <answer> {text} </answer>" for text in texts]


def result(tmp_path, out="out"):
    return json.loads((tmp_path / out / "score.json").read_text("utf-8")), read(tmp_path / out / "verdicts.jsonl")


def other_words(count=ITEMS):
    return answers(*(f"the C{n} substance" for n in range(count)))
