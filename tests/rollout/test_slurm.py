"""The SLURM array script: what its tasks would run."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from mede2_jax.rollout.config import RolloutConfig

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "slurm" / "rollout.sh"
GIVEN = ["--model=runs/my model", "--questions=q.jsonl", "--out=rollouts/mm.jsonl", "--n=4"]


def submit(arguments, index=None, count=1, first=0):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    if index is not None:
        array = {"TASK_ID": index, "TASK_COUNT": count, "TASK_MIN": first, "TASK_MAX": first + count - 1}
        environment |= {f"SLURM_ARRAY_{name}": str(value) for name, value in array.items()}
    return subprocess.run(["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)


def options(shown):
    """The flags after `python -m mede2_jax.rollout`."""
    words = shlex.split(shown)
    assert words[:3] == ["cd", str(SCRIPT.parents[2]), "&&"] and words[4:6] == ["-m", "mede2_jax.rollout"]
    return dict(word.removeprefix("--").split("=", 1) for word in words[6:])


def test_tasks_partition_the_questions_into_files_of_their_own():
    outs = set()
    for index in range(3):
        result = submit([*GIVEN, "--dry_run"], index, 3)
        assert (result.returncode, result.stderr) == (0, "")
        given = options(result.stdout)
        assert set(given) <= set(RolloutConfig.model_fields)
        assert (given["model"], given["n"], given["shard"], given["engine"]) == ("runs/my model", "4", f"{index}/3", "vllm")
        assert RolloutConfig(shard=given["shard"]).part == (index, 3)
        outs.add(given["out"])
    assert outs == {f"rollouts/mm-0000{index}-of-00003.jsonl" for index in range(3)}


def test_without_an_array_it_is_one_shard():
    assert options(submit([*GIVEN, "--dry_run"]).stdout)["shard"] == "0/1"


@pytest.mark.parametrize(
    ("arguments", "array", "expected"),
    [
        (["--model=m"], {}, "missing --out=FILE.jsonl"),
        (["--out", "x"], {}, "write --out=FILE.jsonl"),
        ([*GIVEN, "--shard=0/2"], {}, "leave --shard out"),
        ([*GIVEN, "--base_url=http://a"], {}, "leave --base_url out"),
        (GIVEN, {"index": 2, "count": 1, "first": 2}, "begins at 0 and leaves none out: submit the whole array"),
    ],
)
def test_mistakes_are_one_line(arguments, array, expected):
    result = submit([*arguments, "--dry_run"], **array)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and expected in result.stderr
