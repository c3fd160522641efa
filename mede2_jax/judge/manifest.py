"""`<out>.manifest.json` of judgments: what went in, what came out, what did not and why; and whether a run may go on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mede2_jax.judge.judges import Judged
from mede2_jax.judge.setup import Setup
from mede2_jax.judge.summary import Tally
from mede2_jax.outputs.manifest import begun_otherwise, by_reason, differences, manifest_path, read_begun, read_manifest, write_manifest

FREE_TO_CHANGE = (
    "rollouts",
    "out",
    "repeat",
    "limit",
    "attempts",
    "image_root",
    "max_image_pixels",
    "base_url",
    "concurrency",
    "patience",
    "timeout",
    "first_rest",
    "longest_rest",
    "cache",
    "max_cost",
    "prices",
)
"""Options that may differ when a file is taken up: they do not change a judgment. Each names the response it is of, by digest."""
PENDING = "not judged yet"


class Manifest:
    """The manifest of a run.

    Args:
        setup: What the run is made of.
        wanted: How many responses are to be judged.
        before: The manifest of the run that began the file; None: this one begins it.
    """

    def __init__(self, setup: Setup, wanted: int, before: Mapping[str, Any] | None) -> None:
        assert setup.config.out is not None
        self.setup, self.wanted, self._out, self.path = setup, wanted, setup.config.out, manifest_path(setup.config.out)
        self.failures: list[Judged] = []
        known = (before or read_manifest(self._out) or {}).get("failed", ())
        self.attempts = {(one["rollout"], one["repeat"]): one.get("attempts", 0) for one in known}
        """Of judgments that failed in the run before: how often their judge was asked."""
        self._seconds = float((before or {}).get("seconds", 0.0))

    @property
    def failed(self) -> dict[str, int]:
        """Judgments that failed, by reason."""
        return by_reason((failure.reason, 1) for failure in self.failures)

    @property
    def lost(self) -> float:
        """US dollars that judgments which failed have cost in this run."""
        return sum(failure.usage.cost for failure in self.failures if failure.usage is not None)

    def dropped(self, tally: Tally) -> dict[str, int]:
        """Responses without any judgment, by reason; with those that are judged they are all that went in."""
        counts = Counter(self.setup.left_out)
        if over := len(self.setup.tasks) - self.wanted:
            counts["beyond limit"] += over - sum(task.id in tally.verdicts for task in self.setup.tasks[self.wanted :])
        tasks = self.setup.tasks[: self.wanted]
        first = {failure.wanted.task.id: failure.reason for failure in reversed(self.failures)}
        reasons = Counter(first.get(task.id, PENDING) for task in tasks if task.id not in tally.verdicts)
        return {reason: count for reason, count in (counts + Counter(by_reason(reasons.items()))).items() if count}

    def write(self, tally: Tally, seconds: float, *, finished: bool) -> None:
        """Replaces the file in one step.

        Args:
            tally: Counts over all judgments in the file.
            seconds: Since this run began.
            finished: Whether all was tried.
        """
        config = self.setup.config
        counts = {"rollouts": len(self.setup.file), "judged": len(tally.verdicts), "wanted": self.wanted * config.repeat}
        agreements = {name: dataclasses.asdict(found) for name, found in tally.agreements(config.repeat).items()}
        content = {
            "command": "python -m mede2_jax.judge",
            "config": config.model_dump(mode="json"),
            **self.setup.inputs,
            "finished": finished,
            "counts": {**counts, **tally.counts()},
            "dropped": self.dropped(tally),
            "failed": [_described(failure) for failure in self.failures],
            "agreement": agreements,
            "cost": {"judgments": round(tally.cost, 6), "failed": round(self.lost, 6)},
            "seconds": round(self._seconds + seconds, 3),
        }
        write_manifest(self._out, content)


def check_same(setup: Setup) -> dict[str, Any]:
    """The manifest of the run that began the file, if this one may go on with it.

    Raises:
        UserError: It may not: there is no manifest, or judge, prompt or another option that changes judgments is not the same.
    """
    config = setup.config
    assert config.out is not None
    before = read_begun(config.out, lambda content: (content["config"].items(), content["judge"]["model"], content["judge"].get("prompt")))
    options = differences(before["config"], config.model_dump(mode="json"), FREE_TO_CHANGE.__contains__)
    if not options:  # the options may be the same and mean another version
        options = differences({"judge": before["judge"]}, {"judge": setup.inputs["judge"]}, lambda _: False)
    if options:
        raise begun_otherwise(config.out, options.values())
    return before


def _described(failure: Judged) -> dict[str, Any]:
    wanted = failure.wanted
    usage = None if failure.usage is None else failure.usage.model_dump(mode="json")
    return {
        "rollout": wanted.task.id,
        "repeat": wanted.repeat,
        "reason": failure.reason,
        "raw": failure.raw,
        "attempts": failure.attempts,
        "usage": usage,
    }
