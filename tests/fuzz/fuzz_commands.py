"""Targets of the fuzzer: whole commands, of whose files one is changed."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz_mutators import Mutator, on_json, on_one_line
from fuzz_target import Made, folder, target

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
RESPONSES = 48
"""Of six questions."""


def judged(place: Path) -> None:
    """Judges the rollouts in a folder."""
    from mede2_jax.judge.__main__ import main

    quietly(main, [f"--rollouts={place / 'rollouts.jsonl'}", "--judge=offline", f"--out={place / 'judgments.jsonl'}"])


def paired(place: Path) -> None:
    """Pairs what was judged."""
    from mede2_jax.pair.__main__ import main

    files = [f"--rollouts={place / 'rollouts.jsonl'}", f"--judgments={place / 'judgments.jsonl'}", f"--out={place / 'pairs.jsonl'}"]
    quietly(main, [*files, "--eval_fraction=0"])


def traced(place: Path) -> None:
    """Shows the first pair's history."""
    from mede2_jax.trace.__main__ import main

    known = json.loads((chain() / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[0])["id"]
    quietly(main, [known, f"--pairs={place / 'pairs.jsonl'}", "--limit=0"])


def traced_score(place: Path) -> None:
    """Shows a score's history."""
    from mede2_jax.trace.__main__ import main

    quietly(main, [f"--score={place / 'scores'}"])


@functools.cache
def scored() -> Path:
    """The chain, a run that was trained on its pairs, and a score of its model's replies; moved, so that all is found beside."""
    from mede2_jax.score.__main__ import main

    place = folder() / "scoring"
    shutil.copytree(chain(), place)
    for name in ("checkpoints", "model"):
        (place / name).mkdir()
    parents = [f"sha256:{'0' * 64}"]
    info = {"family": "qwen2_5_vl", "digest": f"sha256:{'1' * 64}", "parents": parents, "dtype": "float32"}
    (place / "model" / "model.json").write_text(json.dumps(info))
    data = {"train": {"path": "pairs.jsonl", "file_digest": "0" * 64, "examples": 24, "skipped": {"too long": 2}}}
    config = {"stage": "dpo", "optimizer": {"learning_rate": 1e-6}, "lora": {"rank": 8}}
    trained = {"version": "0", "folder": str(place), "config": config, "model": "sft/model", "digests": parents, "data": data}
    (place / "manifest.json").write_text(json.dumps(trained))
    row = {
        "question": "Which?",
        "options": {"A": "x", "B": "y", "C": "z", "D": "w"},
        "answer": "x",
        "answer_idx": "A",
        "meta_info": "step1",
    }
    (place / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (place / "replies.jsonl").write_text(json.dumps({"id": "medqa-0#0", "parents": ["medqa-0"], "sample": 0, "response": "A"}) + "\n")
    model = {"path": str(place / "model"), "digest": info["digest"], "family": "qwen2_5_vl"}
    checked = [{"benchmark": "medqa", "digest": "", "thresholds": {"ngram": 13}, "matches": [{"id": "medqa-0", "record": "q"}]}]
    said = {"command": "python -m mede2_jax.evaluate", "config": {"n": 1}, "model": model, "leakage": {"checked": checked}}
    (place / "replies.jsonl.manifest.json").write_text(json.dumps(said))
    quietly(main, ["--task=medqa", f"--data={place / 'rows.jsonl'}", f"--responses={place / 'replies.jsonl'}", f"--out={place / 'scores'}"])
    return place.rename(folder() / "scored")


def rescored(place: Path) -> None:
    """Scores the replies, whose history says what was found in the training data."""
    from mede2_jax.score.__main__ import main

    quietly(main, ["--task=medqa", f"--data={place / 'rows.jsonl'}", f"--responses={place / 'replies.jsonl'}"])


@functools.cache
def chain() -> Path:
    """A folder with rollouts, their judgments and pairs, each with its manifest."""
    place = folder() / "chain"
    place.mkdir(exist_ok=True)
    lines = (SAMPLE / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()[:RESPONSES]
    (place / "rollouts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copytree(SAMPLE / "images", place / "images", dirs_exist_ok=True)
    said = {"command": "python -m mede2_jax.rollout", "config": {"n": 8}, "images": {"root": str(place)}}
    (place / "rollouts.jsonl.manifest.json").write_text(json.dumps(said))
    judged(place)
    paired(place)
    return place


def _command(
    run: Callable[[Path], None], name: str, mutate: Mutator, outputs: Sequence[str], made: Callable[[], Path] | None = None
) -> Made:
    """One file of the chain in another's place; what the command writes is not there before."""
    place = folder() / f"{run.__name__}-{name.replace('/', '-')}"
    shutil.copytree((made or chain)(), place)

    def go(data: bytes) -> None:
        for output in outputs:
            for file in (*place.glob(f"{output}*"), *place.glob(f".{output}*")):
                file.unlink()
        (place / name).write_bytes(data)
        run(place)

    return [(place / name).read_bytes()], mutate, go


def quietly(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Runs a command; whatever it prints is something that a terminal may have."""
    from mede2_jax.foreign import visible

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        main(arguments)
    printed = said.getvalue()
    assert printed == visible(printed), printed


for _name, _arguments in {
    "judge": (judged, "rollouts.jsonl", on_one_line, ["judgments.jsonl"]),
    "judge_manifest": (judged, "rollouts.jsonl.manifest.json", on_json, ["judgments.jsonl"]),
    "judge_again": (judged, "judgments.jsonl", on_one_line, []),
    "judge_again_manifest": (judged, "judgments.jsonl.manifest.json", on_json, []),
    "pair": (paired, "judgments.jsonl", on_one_line, ["pairs.jsonl"]),
    "pair_manifest": (paired, "judgments.jsonl.manifest.json", on_json, ["pairs.jsonl"]),
    "trace": (traced, "pairs.jsonl", on_one_line, []),
    "trace_manifest": (traced, "pairs.jsonl.manifest.json", on_json, []),
    "trace_score": (traced_score, "scores/score.json", on_json, [], scored),
    "trace_run": (traced_score, "manifest.json", on_json, [], scored),
    "leakage": (rescored, "replies.jsonl.manifest.json", on_json, [], scored),
}.items():
    target(name=_name)(functools.partial(_command, *_arguments))
