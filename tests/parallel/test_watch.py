"""Three processes that watch one another, without JAX: however one ends, the others end with a line that says so."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import finished

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 3
PROGRAM = textwrap.dedent(
    """
    import pathlib, sys, time
    from mede2_jax.parallel.watch import Watch

    process, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])

    def publish(name, value):
        (folder / "partial").write_text(value)
        (folder / "partial").rename(folder / name)

    def look_up(name):
        while not (folder / name).exists():
            time.sleep(0.01)
        return (folder / name).read_text()

    with Watch(process, 3, "127.0.0.1", publish=publish, look_up=look_up) as watch:
        print("ready", flush=True)
        told = sys.stdin.readline().strip() or time.sleep(300)
        if told == "fail":
            watch.end_all("no\\nsuch file", 2)
        if told.startswith("fail at length "):
            watch.end_all(chr(int(told.split()[-1])) * 100_000, 2)
        if told == "close":
            watch.close()
            sys.stdin.readline()
    print("well", flush=True)
    """
)


@pytest.fixture
def processes(tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    started = [
        subprocess.Popen(
            [*command, str(process), str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        for process in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def tell(process, word):
    process.stdin.write(word + "\n")
    process.stdin.flush()


@pytest.mark.parametrize("killed", range(PROCESSES))
def test_a_killed_one_ends_the_others(processes, killed):
    processes[killed].kill()
    for number, process in enumerate(processes):
        _, errors = finished(process)
        if number != killed:
            assert process.returncode == 1
            assert errors == f"error: process {killed} of 3 was killed or lost; start the job again with --resume\n"


@pytest.mark.parametrize("failed", range(PROCESSES))
def test_an_error_is_everyones(processes, failed):
    tell(processes[failed], "fail")
    for process in processes:
        _, errors = finished(process)
        assert (process.returncode, errors) == (2, f"error: process {failed} of 3: no such file\n")


@pytest.mark.parametrize("letter", ["🧪", "x", "\\", '"', "肺", "\x1b"], ids=ascii)
def test_a_long_error_is_everyones_too(processes, letter):
    """Longer than a line may be, in characters that take up to twelve bytes each when they are sent."""
    tell(processes[1], f"fail at length {ord(letter)}")
    said = "\\x1b" if letter == "\x1b" else letter  # a terminal would obey it
    for process in processes:
        _, errors = finished(process)
        assert process.returncode == 2 and errors.startswith(f"error: process 1 of 3: {said * 3}") and errors.endswith("…\n")
        assert 4000 < len(errors) < 5000 and errors.count("\n") == 1


def test_who_ends_well_ends_nobody(processes):
    for process in processes:
        tell(process, "close")
    for process in processes:  # one after another, long after the first is gone
        tell(process, "go")
        output, errors = finished(process)
        assert (process.returncode, output, errors) == (0, "well\n", "")
