"""`python -m mede2_jax`: all commands in one list, and each of them runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from mede2_jax.__main__ import COMMANDS, main
from mede2_jax.config import UserError

PACKAGE = Path(__file__).resolve().parents[1] / "mede2_jax"


def mede2(*arguments):
    return subprocess.run([sys.executable, "-m", "mede2_jax", *arguments], capture_output=True, text=True, check=False)


def test_every_command_of_the_package_is_listed_once(capsys):
    modules = [path for path in (*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__main__.py")) if path != PACKAGE / "__main__.py"]
    runs = [path for path in modules if "run_command(main)" in path.read_text()]
    commands = {path.parent.name if path.name == "__main__.py" else path.stem for path in runs}
    assert commands == set(COMMANDS)
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-len(COMMANDS) :]] == list(COMMANDS)


@pytest.mark.slow
def test_a_command_runs_as_its_module_does():
    ran = mede2("trace", "--help")
    assert ran.returncode == 0 and "--pairs" in ran.stdout
    ran = mede2("judge", "--repaet=2")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1) and "--repeat" in ran.stderr


def test_an_unknown_command_is_one_line():
    ran = mede2("rolout")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"error: unknown command 'rolout' (did you mean 'rollout'?); the commands are {', '.join(COMMANDS)}\n"
    with pytest.raises(UserError, match="unknown command"):
        main(["\x1b]0;x\x07"])


def test_commands_that_need_no_device_begin_without_jax():
    """Nor without another library that takes a second to import."""
    code = f"""
import importlib, sys
for command in {sorted(set(COMMANDS) - {"tiny", "convert", "plan", "benchmark", "train"})}:
    try:
        importlib.import_module(f"mede2_jax.{{command}}.__main__")
    except ModuleNotFoundError:
        importlib.import_module(f"mede2_jax.{{command}}")
    for heavy in {{"jax", "torch", "transformers", "matplotlib", "scipy.stats", "orbax"}} & sys.modules.keys():
        sys.exit(f"{{command}} imports {{heavy}}")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
