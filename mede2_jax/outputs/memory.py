"""How much memory a process took."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """This process's largest resident size in bytes; on Linux not from getrusage, which starts from the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
