"""MedE² in JAX: teach a vision-language model medical reasoning by SFT, then DPO."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__version__ = "0.1.0"


def _end_at_once(number: int, _: FrameType | None) -> None:
    """One line and out: nothing has been begun yet, and an exception might be lost or reported in the middle of an import."""
    os.write(2, b"error: interrupted\n" if number == signal.SIGINT else b"error: terminated\n")
    os._exit(128 + number)


# A command imports for seconds before `run_command` takes over. Python's name for it is "-m" until its module is found.
if sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0] if sys.argv else "") == "mede2":
    for _signal, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(_signal) == _usual:  # not one that is ignored, as under nohup
            signal.signal(_signal, _end_at_once)
