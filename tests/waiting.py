"""How tests wait: until something is so, never by the clock. What hangs is ended by pytest's own limit (`timeout` in pyproject.toml)."""

import time

HANG = 3600.0
"""Seconds of what must not be waited for: far past that limit, so that a test which waits for it fails on any machine."""


def until(condition, process=None):
    """Returns when the condition holds, or the process has ended."""
    while not condition() and (process is None or process.poll() is None):
        time.sleep(0.01)


def finished(process):
    """(output, errors) of a process that ends by itself."""
    try:
        return process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
