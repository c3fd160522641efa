"""Which process this is, from flags, variables and launchers; and which axis crosses processes."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from mede2_jax.config import UserError
from mede2_jax.parallel.distributed import AnyAsked, DistributedConfig, Place, agreed, find_place, is_first, joined
from mede2_jax.parallel.mesh import AXES, processes_along

SLURM = {"SLURM_JOB_ID": "5000", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "gpu[003-005,9]"}


def place(environ=None, **options):
    return find_place(DistributedConfig(**options), environ or {})


def test_one_process_needs_nothing():
    assert place() is None and place(SLURM, launcher="none") is None
    assert place({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert place({"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    assert place(coordinator="a:1", processes=1, process=0) is None


def test_by_hand_flags_win_over_variables():
    variables = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "1"}
    assert place(variables) == Place("a:1", 3, 1)
    assert place({**variables, **SLURM}, process=0) == Place("a:1", 3, 0)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[003-005,9]", "gpu003"), ("a1,b2", "a1"), ("n7", "n7"), ("rack1-[2,4-5]-ib,other", "rack1-2-ib"), ("x.y-1", "x.y-1")],
)
def test_slurm(nodes, first):
    assert place({**SLURM, "SLURM_STEP_NODELIST": nodes}) == Place(f"{first}:{61440 + 5000 % 4096}", 4, 2)


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, (1,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x3),4", "SLURM_LOCALID": "5"}, (5,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "7", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (7,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (4, 5, 6, 7)),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "CUDA_VISIBLE_DEVICES": "3"}, None),  # --gpus-per-task=1
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "ROCR_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        ({}, None),
    ],
)
def test_slurm_tasks_on_one_machine_share_its_gpus(variables, devices):
    assert place({**SLURM, "SLURM_LOCALID": "1", **variables}).devices == devices


def test_slurm_tasks_that_cannot_share_are_told_so():
    variables = {"SLURM_STEP_TASKS_PER_NODE": "3", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    with pytest.raises(UserError, match=r"3 tasks on a machine cannot share its 8 GPUs; start --ntasks-per-node=1, or as many as"):
        place({**SLURM, **variables})


def test_tpu_pods_ask_the_pod():
    assert place({"TPU_WORKER_HOSTNAMES": "a,b"}) == Place() == place(launcher="tpu") == place({"MEGASCALE_NUM_SLICES": "2"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"coordinator": "a:1", "processes": 2}, r"give distributed.process \(or JAX_PROCESS_ID\) as well"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "'a' is not HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "number the processes from 0"),
        ({"launcher": "slurm"}, "start it with srun"),
    ],
)
def test_half_a_place_is_refused(options, expected):
    with pytest.raises(UserError, match=expected):
        place(**options)


def test_alone_everything_is_immediate():
    with joined(DistributedConfig()):
        ask = AnyAsked()
        assert is_first() and agreed(lambda: [1]) == [1] and not ask(False) and ask(True)


@dataclass(frozen=True)
class Device:
    process_index: int


def test_processes_along_an_axis():
    """Two machines of four: replicas across them, shards inside."""
    devices = np.array([Device(index // 4) for index in range(8)], dtype=object)
    for shape, expected in (((2, 4, 1), (2, 1, 1)), ((1, 8, 1), (1, 2, 1)), ((1, 1, 8), (1, 1, 2)), ((4, 1, 2), (2, 1, 1))):
        mesh = SimpleNamespace(devices=devices.reshape(shape), axis_names=AXES)
        assert processes_along(mesh) == dict(zip(AXES, expected, strict=True))
