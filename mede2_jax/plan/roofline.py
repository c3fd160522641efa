"""How fast a step can be at best: what its arithmetic, its transfers and its memory traffic each take on the makers' figures.

    compute      (model FLOP + recomputed FLOP + what several devices do alike) / (devices × peak FLOP/s)
    transfers    Σ bytes that a device receives / bandwidth into it, over the step's collectives
    memory       (parameters and state read once, state written once, gathered bytes written and read) / memory bandwidth
    step         at least the largest of the three, when everything overlaps; at most about their sum, when nothing does
    MFU bound    model FLOP / (step × devices × peak FLOP/s)
    in turn      the same of compute + transfers + bytes that kernels other than large products move / memory bandwidth

A GPU's group of devices that spans nodes receives through the network cards of its members in a node, at most at the speed inside the node.
A TPU's figure is all links of a chip together: a bound that a transfer along one axis of the torus does not reach.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from mede2_jax.plan.compile import Plan
from mede2_jax.plan.hlo import Collective
from mede2_jax.sizing.chips import Chip


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step at the least; none where the makers' figures are not known (a CPU)."""

    compute: float | None
    transfers: float | None
    memory: float | None
    mfu_bound: float | None
    mfu_without_overlap: float | None
    other_kernels: float | None = None
    """What kernels other than large products take to move their bytes."""
    mfu_in_turn: float | None = None
    """When these, the large products and the transfers run one after another, as kernels of one GPU do."""

    @property
    def step(self) -> float | None:
        """When everything overlaps."""
        known = [one for one in (self.compute, self.transfers, self.memory) if one is not None]
        return max(known) if known else None

    @property
    def bound_by(self) -> str:
        """Which of the three is the largest."""
        known = {name: getattr(self, name) for name in ("compute", "transfers", "memory") if getattr(self, name) is not None}
        return max(known, key=lambda name: known[name]) if known else "unknown"


def roofline(plan: Plan) -> Roofline:
    """The bounds of a compiled step."""
    chip = plan.topology.chip
    if chip.tflops is None:
        return Roofline(None, None, None, None, None)
    peak = plan.topology.size * chip.tflops * 1e12
    compute = plan.flops.done / peak
    transfers = sum(one.received / bandwidth(chip, one) for one in plan.collectives)
    memory, gathered = plan.memory, sum(one.received for one in plan.collectives)
    traffic = memory.frozen + 2 * (memory.trained + memory.optimizer) + 2 * gathered
    times = Roofline(
        compute, transfers if plan.collectives or plan.topology.size == 1 else None, traffic / chip.memory_bandwidth, None, None
    )
    if times.transfers is None:
        return times
    step, total = times.step or compute, compute + transfers + (times.memory or 0.0)
    times = dataclasses.replace(times, mfu_bound=plan.flops.total / peak / step, mfu_without_overlap=plan.flops.total / peak / total)
    if plan.traffic is None:
        return times
    others = plan.traffic.other / chip.memory_bandwidth
    return dataclasses.replace(times, other_kernels=others, mfu_in_turn=plan.flops.total / peak / (compute + transfers + others))


def bandwidth(chip: Chip, collective: Collective) -> float:
    """Bytes a second into a device that takes part in a collective."""
    if chip.node_devices is None:
        return chip.link_bandwidth
    nodes = Counter(place // chip.node_devices for place in collective.group)
    if len(nodes) == 1:
        return chip.link_bandwidth
    return min(chip.link_bandwidth, chip.network_bandwidth * min(nodes.values()))


def by_kind_and_axes(collectives: list[Collective]) -> dict[tuple[str, str], float]:
    """Bytes that a device receives in a step."""
    total: Counter[tuple[str, str]] = Counter()
    for one in collectives:
        total[one.kind, one.axes] += one.received  # type: ignore[assignment]
    return dict(total.most_common())
