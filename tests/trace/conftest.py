"""What histories are of: rollouts, judgments and pairs as the commands leave them."""

import json
import shutil

import pytest

from mede2_jax.judge.__main__ import main as judge
from mede2_jax.outputs.manifest import file_digest, write_manifest
from mede2_jax.pair.__main__ import main as pair


@pytest.fixture
def history(sample, tiny_model, tmp_path):
    """A folder with questions, rollouts with the manifest that sampling writes, judgments and pairs."""
    questions, rollouts = tmp_path / "questions.jsonl", tmp_path / "rollouts.jsonl"
    shutil.copy(sample / "questions.jsonl", questions)
    digest = json.loads((tiny_model / "model.json").read_text())["digest"]
    records = [json.loads(line) | {"model": digest} for line in (sample / "rollouts.jsonl").read_text("utf-8").splitlines()[:48]]
    rollouts.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    said = {
        "command": "python -m mede2_jax.rollout",
        "config": {"engine": "flax", "n": 8, "temperature": 1.0, "seed": 0},
        "model": {"path": str(tiny_model), "family": "qwen2_5_vl", "digest": digest},
        "questions": {"path": str(questions), "digest": file_digest(questions)},
        "images": {"root": str(sample)},
        "versions": {"mede2_jax": "0.1.0", "jax": "1.2.3"},
    }
    write_manifest(rollouts, said)
    judge([f"--rollouts={rollouts}", "--judge=offline", f"--out={tmp_path / 'judgments.jsonl'}"])
    pair(
        [
            f"--rollouts={rollouts}",
            f"--judgments={tmp_path / 'judgments.jsonl'}",
            f"--out={tmp_path / 'pairs.jsonl'}",
            "--eval_fraction=0.3",
        ]
    )
    return tmp_path
