"""How commands end: one line and an exit status for a mistake, a full disk, Ctrl-C and SIGTERM."""

import os
import signal
import subprocess
import sys

import jax
import pytest
from waiting import finished

from mede2_jax.command import run_command
from mede2_jax.config import UserError


def test_run_command_prints_one_line_and_exits_2(capsys):
    def fail(argv):
        raise UserError("bad\nthing")

    with pytest.raises(SystemExit) as stop:
        run_command(fail, [])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: bad thing\n"


def test_run_command_reports_a_full_disk_but_not_a_bug(capsys):
    def full(argv):
        raise OSError(28, "No space left on device", "out/params")

    with pytest.raises(SystemExit):
        run_command(full, [])
    assert capsys.readouterr().err == "error: No space left on device: out/params; choose another place\n"
    with pytest.raises(ZeroDivisionError):
        run_command(lambda argv: 1 / 0, [])


@pytest.mark.parametrize("use", [lambda path: path.resolve(strict=True), lambda path: path.read_bytes(), lambda path: list(path.iterdir())])
def test_a_link_that_leads_back_to_itself_is_one_line(use, tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SystemExit) as stop:
        run_command(lambda argv: use(tmp_path / "loop"), [])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and f"{tmp_path / 'loop'}" in said and "; choose another place" in said


def test_a_full_device_is_one_line_and_another_fault_of_jax_is_not(capsys):
    def full(argv):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 64.44GiB with allocator GPU_0_bfc on device 0. [more]"
        )

    with pytest.raises(SystemExit) as stop:
        run_command(full, [])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the device is full: Out of memory while trying to allocate 64.44GiB; lower rows_per_step")
    assert said.count("\n") == 1

    def broken(argv):
        raise jax.errors.JaxRuntimeError("INTERNAL: something")

    with pytest.raises(jax.errors.JaxRuntimeError):
        run_command(broken, [])


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("MEDE2_TRACEBACK", "1")

    def fail(argv):
        raise UserError("bad")

    with pytest.raises(UserError):
        run_command(fail, [])


SLEEPER = """
import pathlib, sys, time
from mede2_jax.command import run_command
def main(argv):
    half = pathlib.Path(argv[0])
    half.write_text("half")
    try:
        print("begun", flush=True)
        for _ in range(600):  # a signal just before it does not wake a sleeper
            time.sleep(0.1)
    finally:
        half.unlink()
run_command(main)
"""


def stopped(command, number, **options):
    """(exit status, standard error) of a command that a signal meets once it has said that it is there."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *command], **pipes, **options)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, error = finished(process)
    return process.returncode, error


STOPS = [(signal.SIGINT, (130, "error: interrupted\n")), (signal.SIGTERM, (143, "error: terminated\n"))]


@pytest.mark.parametrize(("number", "outcome"), STOPS, ids=["ctrl-c", "sigterm"])
def test_a_signal_cleans_up_and_is_one_line(tmp_path, number, outcome):
    assert stopped(["-c", SLEEPER, str(tmp_path / "half")], number) == outcome
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["convert", "tiny", "train", "rollout"])
@pytest.mark.parametrize(("number", "outcome"), STOPS, ids=["ctrl-c", "sigterm"])
def test_a_signal_while_modules_are_imported_is_one_line(tmp_path, command, number, outcome):
    (tmp_path / "numpy.py").write_text("import time\nprint('begun', flush=True)\nfor _ in range(600):\n    time.sleep(0.1)\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert stopped(["-m", f"mede2_jax.{command}", "--help"], number, env=os.environ | {"PYTHONPATH": paths}) == outcome


@pytest.mark.parametrize(("number", "outcome"), STOPS, ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("where", ["destructor", "collected", "weakref"])
def test_a_signal_that_python_swallows_comes_again(where, number, outcome):
    """An error that a handler raises within a destructor, or what the collector calls, is never heard of."""
    code = f"""
import gc, os, time, weakref
from mede2_jax.command import run_command
class Held:
    def __del__(self): os.kill(os.getpid(), {int(number)}); time.sleep(0.5)
class Plain: pass
def main(_):
    if {where!r} == "weakref":
        one = Plain(); kept = weakref.ref(one, lambda _: (os.kill(os.getpid(), {int(number)}), time.sleep(0.5))); del one
    else:
        one = Held()
        if {where!r} == "collected": one.me = one; del one; gc.collect()
        else: del one
    print("passed over", flush=True)
    for _ in range(300): time.sleep(0.1)
    print("to the end")
run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (*outcome, "passed over\n")


def test_an_ignored_signal_stays_ignored(tmp_path):
    """As in a shell's background job, or under nohup."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + SLEEPER.replace("600", "10")
    assert stopped(["-c", code, str(tmp_path / "half")], signal.SIGINT) == (0, "")


def test_importing_the_package_leaves_signals_alone():
    code = "import signal; before = [signal.getsignal(n) for n in (2, 15)]; import mede2_jax.config"
    subprocess.run([sys.executable, "-c", f"{code}; assert before == [signal.getsignal(n) for n in (2, 15)]"], check=True)
