"""What XLA is told before it makes several devices of a CPU."""

import os
import subprocess
import sys

import pytest
from cheap_programs import one_device

from mede2_jax.parallel.host import prepare_host

MANY = """
import os
import jax
from mede2_jax.parallel.host import prepare_host

prepare_host()
jax.devices()
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(
    ("flags", "given", "taken"),
    [
        ("", None, None),
        ("--xla_force_host_platform_device_count=1", None, None),
        ("--xla_force_host_platform_device_count=800 --other=2", None, "6400"),
        ("--xla_force_host_platform_device_count=1 --xla_force_host_platform_device_count=700", None, "5600"),
        ("--xla_force_host_platform_device_count=800", "3", "3"),
    ],
)
def test_devices_made_of_one_cpu_have_threads_enough(flags, given, taken, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    if given is not None:
        monkeypatch.setenv("PJRT_NPROC", given)
    prepare_host()
    assert os.environ.get("PJRT_NPROC") == taken


def test_xla_hears_of_it():
    """The variable is XLA's own: a release may drop it, and steps on several devices would stand still now and then."""
    environment = one_device(XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    run = subprocess.run([sys.executable, "-c", MANY], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) > 64
