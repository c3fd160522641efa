"""Starts `python -m mede2_jax.train` as a job of several processes on this machine, each with its own CPU devices."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from cheap_programs import xla_flags

ROOT = Path(__file__).resolve().parents[2]
PROCESSES, DEVICES = 2, 8


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def job(arguments, processes=PROCESSES):
    """The processes of one job; what a failing test leaves running is ended."""
    foreign = ("JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_LOCAL_DEVICE_IDS", "SLURM_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment = {**inherited, "XLA_FLAGS": xla_flags(DEVICES // processes), "JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    address = f"--distributed.coordinator=127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mede2_jax.train", *map(str, arguments)]
    started = [
        subprocess.Popen(
            [*command, address, f"--distributed.processes={processes}", f"--distributed.process={process}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()


def ended(started):
    """(exit status, output, errors) of each."""
    outputs = [process.communicate() for process in started]
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def error_lines(errors):
    return [line for line in errors.splitlines() if line.startswith("error:")]


def wait_for(process, text):
    """Reads a process's output until a line has `text`."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}: {process.stderr.read()}")
