"""Several processes as one job: who they are, how they meet, what they agree on, and how they end together.

With one process nothing here does anything. With several, each calls the same functions in the same order. The client of
JAX's coordination service has no public name; Orbax takes it from the same place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax._src import distributed as _jax_distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pydantic import Field

from mede2_jax.command import ending
from mede2_jax.config import Config, UserError
from mede2_jax.parallel.watch import Watch

HEARTBEAT_SECONDS = 40
"""A process whose machine is gone without a sign ends the others after this long; one that is killed does so at once."""
WAIT_MS = 24 * 3600 * 1000
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""At a barrier: the first process may be writing a model meanwhile. A process that is lost ends the wait."""
GRACE_SECONDS = 3.0
"""An error may be the echo of another process's end; that one's line says more."""

_numbers = itertools.count()
"""Barriers and values have names of their own: all processes count alike."""


class DistributedConfig(Config):
    """How the processes of a job on several machines find one another. One process needs none of it."""

    launcher: Literal["auto", "none", "slurm", "tpu"] = "auto"
    """Who says which process this is: slurm (srun), tpu (a pod's own machines), none; auto: whichever shows in the environment."""
    coordinator: str | None = None
    """HOST:PORT of process 0, the same for all; by hand, together with the next two (or JAX_COORDINATOR_ADDRESS)."""
    processes: int | None = Field(default=None, ge=1)
    """How many processes there are (or JAX_NUM_PROCESSES)."""
    process: int | None = Field(default=None, ge=0)
    """Which of them this is, from 0 (or JAX_PROCESS_ID)."""
    start_seconds: int = Field(default=300, ge=1)
    """How long to wait for all processes to start."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Of a process among all; without a coordinator, JAX asks the TPU pod."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    devices: tuple[int, ...] | None = None
    """Which of the GPUs that it sees are this process's; None: all."""


def find_place(config: DistributedConfig, environ: Mapping[str, str]) -> Place | None:
    """Which process this is, from flags, else variables, else the launcher; None: there is but one.

    Raises:
        UserError: Only a part of it is given, or it makes no sense.
    """
    names = {"coordinator": "JAX_COORDINATOR_ADDRESS", "processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}
    found = {
        option: getattr(config, option) if getattr(config, option) is not None else environ.get(name) for option, name in names.items()
    }
    if any(value is not None for value in found.values()):
        if missing := [f"distributed.{option} (or {names[option]})" for option, value in found.items() if value is None]:
            raise UserError(f"to start processes by hand, give {', '.join(missing)} as well")
        return _by_hand(str(found["coordinator"]), str(found["processes"]), str(found["process"]))
    slurm = int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if config.launcher == "slurm" and "SLURM_STEP_NODELIST" not in environ:
        raise UserError("distributed.launcher=slurm, but this is no step of a SLURM job; start it with srun")
    if config.launcher == "slurm" or (config.launcher == "auto" and slurm):
        return _from_slurm(environ) if slurm else None
    pod = "," in environ.get("TPU_WORKER_HOSTNAMES", "") or int(environ.get("MEGASCALE_NUM_SLICES", "1")) > 1
    return Place() if config.launcher == "tpu" or (config.launcher == "auto" and pod) else None


def _by_hand(coordinator: str, processes: str, process: str) -> Place | None:
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"distributed.coordinator={coordinator!r} is not HOST:PORT, such as node1:9911")
    if not (processes.isdigit() and process.isdigit() and int(process) < int(processes)):
        raise UserError(f"distributed.process={process} of distributed.processes={processes}: number the processes from 0")
    return Place(coordinator, int(processes), int(process)) if int(processes) > 1 else None


def _from_slurm(environ: Mapping[str, str]) -> Place:
    """One process a task; the first machine of the step is the coordinator, on a port that follows from the job's number.

    Raises:
        UserError: The GPUs of this machine cannot be shared out to its tasks.
    """
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", environ["SLURM_STEP_NODELIST"])
    assert found is not None
    port = 61440 + int(environ["SLURM_JOB_ID"]) % 4096
    host = "".join(part or "" for part in found.groups())
    return Place(f"{host}:{port}", int(environ["SLURM_STEP_NUM_TASKS"]), int(environ["SLURM_PROCID"]), _slurm_devices(environ))


def _slurm_devices(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """A task's share of the GPUs, where several on one machine see them all; where SLURM has bound GPUs to tasks, they see their own.

    Raises:
        UserError: They are more than one a task, and not as many for each.
    """
    tasks = max(map(int, re.findall(r"(\d+)(?:\(x\d+\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))), default=1)
    seen = next((environ[name] for name in VISIBLE if environ.get(name)), None)
    count = tasks if seen is None else seen.count(",") + 1
    if tasks == 1 or count < tasks:
        return None
    if count % tasks:
        raise UserError(
            f"{tasks} tasks on a machine cannot share its {count} GPUs; start --ntasks-per-node=1, or as many as there are GPUs"
        )
    first, each = int(environ["SLURM_LOCALID"]) * (count // tasks), count // tasks
    return tuple(range(first, first + each))


@contextlib.contextmanager
def joined(config: DistributedConfig) -> Iterator[None]:
    """Joins the other processes before JAX is used, and leaves with them; one that fails ends all, each with one line.

    Raises:
        UserError: The processes do not find one another.
    """
    place = find_place(config, os.environ)
    if place is None:
        yield
        return
    _join(place, config.start_seconds)
    count = jax.process_count()
    with Watch(jax.process_index(), count, _hub_host(), publish=_publish, look_up=_look_up) as watch:
        try:
            barrier("begin")
            yield
            barrier("end")
            watch.close()
        except BaseException as error:
            time.sleep(GRACE_SECONDS)
            told = None if os.environ.get("MEDE2_TRACEBACK") == "1" else ending(error)
            if told is None:
                traceback.print_exc()
                told = f"{type(error).__name__}: {error}", 1
            # At once: what JAX does when Python ends would wait for processes that are ending too.
            watch.end_all(*told)
    jax.distributed.shutdown()


def _join(place: Place, seconds: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.processes,
            place.process,
            initialization_timeout=seconds,
            local_device_ids=place.devices,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            cluster_detection_method=None if place.coordinator is None else "deactivate",
        )
    except (ValueError, RuntimeError) as error:
        who = "" if place.coordinator is None else f" of {place.processes} at {place.coordinator}"
        raise UserError(f"cannot join the processes{who}: {str(error)[:200]}; do all run, and reach that address?") from None


def several() -> bool:
    """Whether this job has more than one process."""
    return _jax_distributed.global_state.client is not None and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not several() or jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if several():
        _client().wait_at_barrier(f"{name} {next(_numbers)}", WAIT_MS)


def agreed(make: Callable[[], Any]) -> Any:
    """What `make` gives in the first process, in every process; as JSON. Others wait for it, and do not call it."""
    if not several():
        return make()
    name = f"value {next(_numbers)}"
    if is_first():
        _publish(name, json.dumps(value := make()))
        return value
    return json.loads(_look_up(name))


class AnyAsked:
    """Whether any process asks for something, known to all at the same call: a sum over one device of each.

    With several processes the answer is that of the call before: it is there by then, so that no one waits for the devices.
    """

    def __init__(self) -> None:
        self._running: jax.Array | None = None
        if several():
            firsts: dict[int, jax.Device] = {}
            for device in jax.devices():
                firsts.setdefault(device.process_index, device)
            mesh = Mesh(np.array([firsts[process] for process in sorted(firsts)]), ("process",))
            self._rows = NamedSharding(mesh, PartitionSpec("process"))
            self._max = jax.jit(lambda asked: asked.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, asked: bool, *, now: bool = False) -> bool:
        """Every process calls; with `now` the answer is that of this call."""
        if not several():
            return asked
        before = self._running
        self._running = self._max(jax.make_array_from_process_local_data(self._rows, np.array([asked], np.int32)))
        return any(bool(np.asarray(one)) for one in ((before, self._running) if now else (before,)) if one is not None)


def replicated(arrays: Any) -> Any:
    """The same arrays, whole on every device; returns before they are."""
    return jax.tree.map(lambda array: _replicate(array.sharding.mesh)(array), arrays)


def on_host(arrays: Any) -> Any:
    """The same arrays as NumPy in every process, wherever their pieces lie; one is gathered at a time."""
    return jax.tree.map(lambda array: np.asarray(array if array.is_fully_addressable else replicated(array)), arrays)


def broadcast(arrays: Any) -> Any:
    """The first process's NumPy arrays, in every process; the others give some of the same shapes."""
    return multihost_utils.broadcast_one_to_all(arrays) if several() else arrays


@functools.lru_cache(maxsize=8)
def _replicate(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _client() -> Any:
    return _jax_distributed.global_state.client


def _publish(name: str, value: str) -> None:
    _client().key_value_set(name, value)


def _look_up(name: str) -> str:
    return _client().blocking_key_value_get(name, WAIT_MS)


def _hub_host() -> str:
    return str(_jax_distributed.global_state.coordinator_address).rsplit(":", 1)[0].strip("[]")
