"""Targets of the fuzzer: the files of an evaluation that is gone on with, of which one is changed, and those of one that is compared."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

from fuzz_commands import quietly
from fuzz_mutators import Mutator, on_json, on_one_line
from fuzz_target import Made, folder, target

NOWHERE = "http://127.0.0.1:9/v1"
"""Nobody answers there: an evaluation that wants more than it has ends in one line."""
LETTERS = "ABCD"
FILES = ("rollouts.jsonl", "second_turns.jsonl")


@functools.cache
def evaluation() -> Path:
    """A folder with three items of MedQA, asked in one turn and in two, in two orders of their options, and scored: nothing is missing."""
    place = folder() / "evaluation"
    place.mkdir()
    rows = [
        {
            "question": f"Case {n}?",
            "options": {letter: f"drug {letter}{n}" for letter in LETTERS},
            "answer_idx": LETTERS[n],
            "meta_info": "step1",
        }
        for n in range(3)
    ]
    (place / "medqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with _Answers():
        evaluated(place)
    shutil.copytree(place / "out", place / "other")
    return place


class _Answers:
    """The paid engine answers by itself, without a network, while inside `with`."""

    def __enter__(self) -> None:
        from mede2_jax.engines.paid.openai import OpenAIAPI
        from mede2_jax.engines.paid.outcome import Outcome

        async def ask(api: OpenAIAPI, body: dict[str, object]) -> Outcome:
            letter = LETTERS[int(str(body["seed"])) % 4]
            return Outcome(text=f"<answer> {letter} </answer>", prompt_tokens=9, response_tokens=5, model="m-1")

        self.kept, OpenAIAPI.ask = OpenAIAPI.ask, ask  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        from mede2_jax.engines.paid.openai import OpenAIAPI

        OpenAIAPI.ask = self.kept  # type: ignore[method-assign]


def evaluated(place: Path, *more: str) -> None:
    """Evaluates, or goes on."""
    from mede2_jax.evaluate.__main__ import main

    os.environ.setdefault("OPENAI_API_KEY", "fuzz-fuzz-fuzz")
    how = ["--engine=openai", "--api_model=m", f"--base_url={NOWHERE}", "--patience=0", "--first_rest=0.001", "--cache=none"]
    asked = ["--task=medqa", f"--data={place / 'medqa.jsonl'}", "--prompt=mede2,cot", "--shuffle_options=1,2", "--resamples=100"]
    quietly(main, [*asked, f"--out={place / 'out'}", *how, *more])


def _gone_on_with(name: str, mutate: Mutator) -> Made:
    place = folder() / f"evaluation-{name.replace('/', '-')}"
    shutil.copytree(evaluation(), place)
    more = [f"--against={place / 'other'}"] if name.startswith("other/") else []

    def run(data: bytes) -> None:
        shutil.rmtree(place / "out")
        shutil.copytree(evaluation() / "out", place / "out")
        (place / name).write_bytes(data)
        before = {file: (place / "out" / file).read_bytes() for file in FILES}
        try:
            evaluated(place, *more)
        finally:
            for file, held in before.items():
                now = (place / "out" / file).read_bytes() if (place / "out" / file).exists() else b""
                whole = held[: held.rfind(b"\n") + 1]
                assert now.startswith(whole), f"{file} has lost lines"

    return [(evaluation() / name).read_bytes()], mutate, run


for _name, _arguments in {
    "evaluate_questions": ("out/questions.jsonl", on_one_line),
    "evaluate_rollouts": ("out/rollouts.jsonl", on_one_line),
    "evaluate_second_turns": ("out/second_turns.jsonl", on_one_line),
    "evaluate_manifest": ("out/rollouts.jsonl.manifest.json", on_json),
    "evaluate_against_score": ("other/medqa/cot/score.json", on_json),
    "evaluate_against_verdicts": ("other/medqa/cot/verdicts.jsonl", on_one_line),
}.items():
    target(name=_name)(functools.partial(_gone_on_with, *_arguments))
