"""A command that is killed, or interrupted, at one of the steps that change a folder's entries."""

import subprocess
import sys

_CODE = """
import importlib, os, signal, sys
from mede2_jax.command import run_command
main = importlib.import_module(sys.argv[1]).main
at, number, steps = int(sys.argv[2]), int(sys.argv[3]), 0

def counted(step):
    def run(*arguments):
        global steps
        steps += 1
        if steps == at:
            os.kill(os.getpid(), number)
        return step(*arguments)
    return run

# What changes a folder's entries: all that a kill can fall between.
os.replace, os.unlink = counted(os.replace), counted(os.unlink)
run_command(main, sys.argv[4:]) if number == signal.SIGKILL else main(sys.argv[4:])
"""


def run_until(command, at, number, arguments, **options):
    """Runs `python -m mede2_jax.COMMAND` until that step, at which the signal comes; returns how it ended."""
    line = [sys.executable, "-c", _CODE, f"mede2_jax.{command}.__main__", str(at), str(int(number)), *arguments]
    return subprocess.run(line, capture_output=True, check=False, **options)
