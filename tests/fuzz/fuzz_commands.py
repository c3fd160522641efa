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


def _command(run: Callable[[Path], None], name: str, mutate: Mutator, outputs: Sequence[str]) -> Made:
    """One file of the chain in another's place; what the command writes is not there before."""
    place = folder() / f"{run.__name__}-{name}"
    shutil.copytree(chain(), place)

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
}.items():
    target(name=_name)(functools.partial(_command, *_arguments))
