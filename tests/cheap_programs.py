"""How the tests have XLA compile: compiling takes most of their time, and their models are too small to gain from good code.

With LLVM's first level of optimization and without the emitters that lower each fusion by way of MLIR, a training step of the tiny model
compiles in half the processor time and runs as fast. With no optimization at all it takes a fifth, but then it runs four times as long, and
long tests lose more than short ones win. The program stays the same; `MEDE2_TEST_XLA_FLAGS=` (empty) takes XLA's defaults.
"""

import os

QUICK = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
# XLA ends a process whose devices wait 40 s for each other, which on a machine that is busy with other things proves nothing.
PATIENT = "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120 --xla_cpu_collective_call_terminate_timeout_seconds=600"


def xla_flags(devices=None):
    """XLA_FLAGS for so many CPU devices; None: as many as a user's machine has, one."""
    count = [] if devices is None else [f"--xla_force_host_platform_device_count={devices}"]
    return " ".join([*count, os.environ.get("MEDE2_TEST_XLA_FLAGS", QUICK), PATIENT])


def one_device(**more):
    """The environment of a process as a user starts it: the tests' own, with one CPU device."""
    return {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"} | {"XLA_FLAGS": xla_flags()} | more
