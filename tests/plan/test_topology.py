"""Machines by name."""

import importlib.util

import pytest

from mede2_jax.config import UserError
from mede2_jax.plan.hlo import Collective
from mede2_jax.plan.roofline import bandwidth
from mede2_jax.plan.topology import open_devices, parse_topology
from mede2_jax.sizing.chips import CHIPS


def test_names():
    pod, nodes = parse_topology("v5p:2x4x4"), parse_topology("h100:64")
    assert (pod.size, pod.shape, pod.chip.platform) == (32, (2, 4, 4), "tpu")
    assert (nodes.size, nodes.chip.node_devices) == (64, 8)
    assert nodes.capacity < nodes.chip.memory
    assert pod.capacity == pod.chip.memory


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v4:2x2x2", r"'v4:2x2x2' is not one of chip:shape, with a chip of v5e, .*such as"),
        ("h100", r"'h100' is not one of chip:shape"),
        ("v5e:64", r"v5e takes 2 sizes, such as v5e:8x8, got 1"),
        ("v5p:8x8", r"v5p takes 3 sizes, such as v5p:2x4x4, got 2"),
        ("h100:8x8", r"h100 takes 1 size, such as h100:8, got 2"),
        ("h100:0", r"the shape '0' must be numbers joined by x"),
        ("h100:12", r"h100s come in nodes of 8; choose a multiple of 8"),
    ],
)
def test_wrong_names_say_what_is_right(name, message):
    with pytest.raises(UserError, match=message):
        parse_topology(name)


@pytest.mark.parametrize(("name", "module", "fix"), [("v5e:2x2", "libtpu", r"plan-tpu"), ("h100:8", "jax_cuda13_plugin", r"plan-gpu")])
def test_a_compiler_that_is_missing_is_one_line_with_the_command(name, module, fix, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *rest: None if asked == module else real(asked, *rest))
    with pytest.raises(UserError, match=rf"not installed; pip install -e '\.\[{fix}\]'") as caught:
        open_devices(parse_topology(name))
    assert "\n" not in str(caught.value)


def test_more_cpu_devices_than_there_are():
    with pytest.raises(UserError, match=r"has 8 CPU device\(s\); set XLA_FLAGS=--xla_force_host_platform_device_count=16"):
        open_devices(parse_topology("cpu:16"))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (range(8), 450e9),  # inside a node: NVLink
        (range(64), 400e9),  # eight nodes, each with the network cards of all its eight members
        (range(0, 64, 8), 50e9),  # one member a node: its own card
    ],
)
def test_bandwidth_into_a_gpu_follows_from_where_its_group_lies(group, expected):
    one = Collective("all-gather", "", 1, 1, tuple(group), "fsdp")
    assert bandwidth(CHIPS["h100"], one) == expected
