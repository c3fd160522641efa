"""What XLA is told before it makes several devices of a CPU, as for a rehearsal of a mesh."""

from __future__ import annotations

import os
import re

THREADS = 8
"""For each device."""


def prepare_host() -> None:
    """Called before JAX looks for devices; what the user chose stays.

    Collectives that are ready at once each hold a thread of one pool until all devices have come to theirs. XLA's pool has a thread for
    each device or core, whichever are more: where one device holds two, another may never get its own, and the step never ends.
    """
    forced = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if forced and int(forced[-1]) > 1:
        os.environ.setdefault("PJRT_NPROC", str(max(os.cpu_count() or 1, THREADS * int(forced[-1]))))
