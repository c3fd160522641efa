"""Runs a command for as long as its starter lives: `python watchdog.py GRACE COMMAND…`, standard input a pipe from the starter.

The pipe ends when the starter closes it or dies, killed perhaps, and could stop nothing itself. Then all processes of the command
get SIGTERM, and after GRACE seconds SIGKILL; the same when the command's first process ends and leaves others behind. The exit
status is the command's, 128 + n if signal n ended it. Only the standard library: it starts in no time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

POLL_SECONDS = 0.1


def main(grace: float, command: list[str]) -> int:
    """Runs the command; returns its exit status."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None and not asked:
        ended, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if ended:
            break
    end_group(child, grace)
    status = child.wait()
    return status if status >= 0 else 128 - status


def end_group(leader: subprocess.Popen[bytes], grace: float) -> None:
    """Ends every process of the group that `leader` began, the leader's own end included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        until = time.monotonic() + grace
        while time.monotonic() < until:
            leader.poll()  # else it stays, dead, a member of its group
            os.killpg(leader.pid, 0)
            time.sleep(POLL_SECONDS)
        os.killpg(leader.pid, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]), sys.argv[2:]))
