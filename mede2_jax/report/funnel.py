"""The data from questions to pairs: what each file has, and what was left out on the way and why, by the manifests beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.record_file import RecordFile
from mede2_jax.outputs.manifest import read_manifest
from mede2_jax.report.drawing import COLOURS, HATCHES, Figure, canvas, name
from mede2_jax.report.tables import Cell, Table, cells

SUFFIX = ".manifest.json"
MOST = 1 << 40
"""Records of a file."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One file."""

    name: str
    records: int
    """What it holds."""
    counts: Mapping[str, int]
    """What else its manifest counts."""
    dropped: Mapping[str, int]
    """What was left out, by reason."""
    lost: int
    """Of what became its records: pairs are made of responses, and only pairs that were left out count here."""
    command: str


def read_funnel(paths: Sequence[Path]) -> list[Stage]:
    """The stages in the order given.

    Raises:
        UserError: A file is not there, or its manifest is damaged.
    """
    return [_stage(path) for path in paths]


def funnel_figure(stages: Sequence[Stage]) -> Figure | None:
    """Bars from the first file to the last; None where there are none."""
    if not stages:
        return None
    figure, (axes,) = canvas(width=7.0, height=1.0 + 0.55 * len(stages))
    places = range(len(stages))
    kept = [stage.records for stage in stages]
    lost = [stage.lost for stage in stages]
    axes.barh(places, kept, 0.6, color=COLOURS[0], label="in the file")
    axes.barh(places, lost, 0.6, left=kept, color="#BBBBBB", hatch=HATCHES[1], edgecolor="white", label="left out on the way")
    for place, (there, gone) in enumerate(zip(kept, lost, strict=True)):
        axes.annotate(f" {there:,}" + (f" (−{gone:,})" if gone else ""), (there + gone, place), va="center", fontsize=8.5)
    axes.set_yticks(places, [name(stage.name) for stage in stages])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.18)
    axes.set_xlabel("records")
    figure.legend(loc="outside upper center", ncols=2)
    text = "; ".join(f"{stage.name}: {stage.records:,} records, {stage.lost:,} left out" for stage in stages)
    return Figure("funnel", "Data", text, figure, _table(stages))


def _stage(path: Path) -> Stage:
    file = path.with_name(path.name.removesuffix(SUFFIX)) if path.name.endswith(SUFFIX) else path
    manifest = read_manifest(file)
    if manifest is None and not file.is_file():
        raise UserError(f"--funnel: there is neither {file} nor a manifest of it")
    said: Mapping[str, Any] = manifest or {}
    counts, dropped = _flat(said.get("counts")), _flat(said.get("dropped"))
    if file.is_file():
        records = len(RecordFile(file))
    else:  # the manifest travelled alone
        records = next((counts[one] for one in ("samples", "judgments", "pairs train", "questions") if one in counts), 0)
    return Stage(file.name, records, counts, dropped, _lost(said, records), str(said.get("command", "")))


def _lost(said: Mapping[str, Any], records: int) -> int:
    """What was left out of those that the file's records are the rest of. Counts of several kinds say themselves which these are; what was
    left out step by step counts where with the records it makes up something that was counted, as the whole bank."""
    counts, dropped = (value if isinstance(value := said.get(name), Mapping) else {} for name in ("counts", "dropped"))
    kinds = {kind: sum(_flat(reasons).values()) for kind, reasons in dropped.items() if isinstance(reasons, Mapping)}
    if not kinds:
        return sum(_flat(dropped).values())
    if (lost := next((lost for kind, lost in kinds.items() if _flat(counts.get(kind)).get("in") == records + lost), None)) is not None:
        return lost
    wholes = {sum(_flat(value).values()) if isinstance(value, Mapping) else value for value in counts.values() if _is_whole(value)}
    return total if records + (total := sum(kinds.values())) in wholes else 0


def _flat(value: Any) -> dict[str, int]:
    """Counts one or two levels deep, by their names joined; what is none (a share, or more than any file holds) is left to the manifest."""
    if not isinstance(value, Mapping):
        return {}
    flat: dict[str, int] = {}
    for key, one in value.items():
        if isinstance(one, Mapping):
            flat |= {f"{key}: {reason}": count for reason, count in one.items() if _is_count(count)}
        elif _is_count(one):
            flat[str(key)] = one
    return flat


def _is_whole(value: Any) -> bool:
    return isinstance(value, Mapping) or _is_count(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _table(stages: Sequence[Stage]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    sections: list[str] = []
    for stage in stages:
        lines = [("in the file", stage.records), *((f"left out: {reason}", count) for reason, count in stage.dropped.items())]
        lines += [(f"counted: {what}", count) for what, count in stage.counts.items() if count]
        rows.extend(cells(what, Cell(f"{count:,}")) for what, count in lines)
        sections.extend([f"{stage.name} ({stage.command})" if stage.command else stage.name] * len(lines))
    return Table("funnel", "Data: what each file has, and what was left out", ("", "count"), tuple(rows), sections=tuple(sections))
