"""Runs `python -m mede2_jax.train` as a user does: a process of its own with one CPU device."""

import json
import subprocess
import sys
from pathlib import Path

from cheap_programs import one_device
from waiting import finished

ROOT = Path(__file__).resolve().parents[2]


def environment():
    """The user's environment, with compiled programs shared between the processes of a test session."""
    return one_device(JAX_PLATFORMS="cpu", COLUMNS="200")


def start(arguments, **options):
    command = [sys.executable, "-m", "mede2_jax.train", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def train(arguments):
    """(exit status, output)."""
    process = start(arguments)
    output, _ = finished(process)
    return process.returncode, output


def metrics(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def training_metrics(run):
    return [record for record in metrics(run) if "loss" in record]


def outcome(run):
    """What a run ends in, to the last bit."""
    adapter = Path(run) / "adapter" / "adapter_model.safetensors"
    digest = json.loads((Path(run) / "model" / "model.json").read_text())["digest"]
    return digest, adapter.read_bytes() if adapter.exists() else b""
