"""A command that asks a server and is killed again and again, by how much was answered and never by the clock."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from cheap_programs import one_device
from waiting import finished

ROOT = Path(__file__).resolve().parents[1]


class Lives:
    """Kills the process that asks when it has been given so many answers in its life, in the moment in which it asks for one more."""

    def __init__(self, answers, drop):
        self.answers, self.drop, self.lock = answers, drop, threading.Lock()
        self.life, self.given, self.pid, self.kept = 0, 0, None, []
        self.asked = [[] for _ in range(len(answers) + 1)]

    def __call__(self, number, body):
        with self.lock:
            self.asked[self.life].append(json.dumps(body, sort_keys=True))
            if self.pid is None or self.life == len(self.answers) or self.given < self.answers[self.life]:
                self.given += 1
                return
            os.kill(self.pid, signal.SIGKILL)
        raise self.drop

    def run(self, module, command, files):
        """`python -m mede2_jax.MODULE`, one life after the other, and the last one to its end; `kept` has the lines of the files at each
        death, by the file's name."""
        environment = one_device()
        for life in range(len(self.answers) + 1):
            with self.lock:
                self.life, self.given, self.pid = life, 0, None
                process = subprocess.Popen(
                    [sys.executable, "-m", f"mede2_jax.{module}", *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
                )
                self.pid = process.pid
            finished(process)
            assert process.returncode == (0 if life == len(self.answers) else -signal.SIGKILL), life
            self.kept.append({(file.name, row) for file in files for row in whole_lines(file)})


def whole_lines(path):
    """Those that were written to their end."""
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
