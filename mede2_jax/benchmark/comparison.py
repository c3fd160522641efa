"""What was measured here beside what a peer did on the same records and machine."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from mede2_jax.benchmark.config import BenchmarkConfig
from mede2_jax.benchmark.measure import Figures
from mede2_jax.benchmark.peer import PeerFigures
from mede2_jax.foreign import one_line


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Figures of here divided by the peer's. More than one is faster here; less than one is less memory here."""

    unit: str
    """Pairs, or real tokens: what both do of the same records."""
    here_per_second: float
    """Of one device; of the machine, on a CPU."""
    peer_per_second: float
    speed: float
    speed_trained_once: float
    """With the whole reference pass charged to one epoch (DPO); else the same."""
    memory: float | None


def compare(config: BenchmarkConfig, figures: Figures, peer: PeerFigures) -> Comparison:
    """Pairs a second for DPO, where a peer computes each prompt twice; real tokens a second for SFT.

    Both count their input pipeline. The reference pass is charged as training does it: once, before the epochs (`epochs`).
    """
    devices = figures.devices if peer.device != "cpu" else 1
    reference = figures.reference_seconds or 0.0
    held, theirs = (
        (figures.held.examples, peer.examples_per_second) if config.stage == "dpo" else (figures.held.tokens, peer.tokens_per_second)
    )

    def per_second(epochs: float) -> float:
        return held / (figures.pipeline_step_seconds + reference / epochs) / devices

    return Comparison(
        unit="pairs" if config.stage == "dpo" else "real tokens",
        here_per_second=per_second(config.epochs),
        peer_per_second=theirs,
        speed=per_second(config.epochs) / theirs,
        speed_trained_once=per_second(1) / theirs,
        memory=None if figures.peak_memory_bytes is None else figures.peak_memory_bytes / peer.peak_memory_bytes,
    )


def comparison_table(config: BenchmarkConfig, figures: Figures, comparison: Comparison, peer: PeerFigures) -> Table:
    """Both and their ratio, with how the peer ran."""
    epochs = f", the reference pass counted once in {config.epochs:g} epochs" if config.stage == "dpo" else ""
    at_best = "" if peer.head == "labelled" else ", as it comes"
    out = Table("", title=f"beside {peer.name}{at_best}: torch {peer.torch}, transformers {peer.transformers}", title_justify="left")
    for name in (peer.name, "here", "ratio"):
        out.add_column(name, justify="right")
    out.add_column("of what")
    checkpointing = "with" if peer.gradient_checkpointing else "without"
    seconds = peer.step_seconds
    projected = "labelled positions alone projected onto the vocabulary" if peer.head == "labelled" else "its own choice of head"
    theirs = f"{peer.name}: batch {peer.batch}, {checkpointing} gradient checkpointing, {projected}, attention {one_line(peer.attention)}"
    theirs += f"{', Liger' if peer.liger else ''}, {peer.real_tokens:.0%} of its places real, "
    theirs += f"{len(seconds)} steps of {min(seconds):,.2f} to {max(seconds):,.2f} s"
    unit = "pairs" if config.stage == "dpo" else "examples"
    ours = f"here: {figures.held.examples:,.3g} {unit} a step, remat={config.remat}, {figures.real_tokens:.0%} real{epochs}"
    out.add_row(
        f"{comparison.unit}/s",
        f"{comparison.peer_per_second:,.3g}",
        f"{comparison.here_per_second:,.3g}",
        f"{comparison.speed:.2f} ×",
        f"{theirs}; {ours}",
    )
    if config.stage == "dpo" and config.epochs != 1:
        once = comparison.speed_trained_once
        out.add_row(f"{comparison.unit}/s", "", f"{once * comparison.peer_per_second:,.3g}", f"{once:.2f} ×", "in a run of one epoch")
    if comparison.memory is not None:
        memory = peer.peak_memory_bytes / 2**30
        out.add_row("peak memory", f"{memory:,.2f}", f"{comparison.memory * memory:,.2f}", f"{comparison.memory:.2f} ×", "GiB")
    return out
