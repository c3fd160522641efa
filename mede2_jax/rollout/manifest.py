"""`<out>.manifest.json`: what went in, what came out and what did not; and whether a run may go on with a file that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mede2_jax.config import counted
from mede2_jax.outputs.manifest import begun_otherwise, by_reason, differences, manifest_path, read_begun, short_digest, write_manifest
from mede2_jax.rollout.setup import Setup
from mede2_jax.rollout.summary import Tally

INPUTS = ("model", "processor", "questions")
"""What a run is made of and has a digest of."""
ENGINE_SECTIONS = ("flax.", "vllm.")
"""How an engine uses its machine; free to change, as the engine itself is."""
FREE_TO_CHANGE = (
    "model",
    "family",
    "questions",
    "out",
    "n",
    "limit",
    "engine",
    "base_url",
    "served_model",
    "concurrency",
    "patience",
    "timeout",
    "check_logprobs",
    "data.image_root",
    "data.max_image_pixels",
)
"""Options that may differ when a file is taken up: they do not change a sample, or a digest tells more than the path."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """Samples that an engine could not give."""

    question: str
    samples: range
    reason: str


class Manifest:
    """The manifest of a run.

    Args:
        setup: What the run is made of.
        before: The manifest of the run that began the file; None: this one begins it.
    """

    def __init__(self, setup: Setup, before: Mapping[str, Any] | None) -> None:
        assert setup.config.out is not None
        self.setup, self._out, self.path = setup, setup.config.out, manifest_path(setup.config.out)
        self.failures: list[Failure] = []
        self._seconds = float((before or {}).get("seconds", 0.0))
        self._images = {**(before["images"]["digests"] if before else {}), **setup.inputs["images"]["digests"]}

    @property
    def dropped(self) -> dict[str, int]:
        """Samples that failed, by reason; reasons that differ in numbers only are one."""
        return by_reason((failure.reason, len(failure.samples)) for failure in self.failures)

    def write(self, tally: Tally, wanted: int, seconds: float, *, engine: str, finished: bool) -> None:
        """Replaces the file in one step.

        Args:
            tally: Counts over all samples in the file.
            wanted: Samples that there are to be.
            seconds: Since this run began.
            engine: What samples.
            finished: Whether all was tried.
        """
        content = {
            "command": "python -m mede2_jax.rollout",
            "config": self.setup.config.model_dump(mode="json"),
            **self.setup.inputs,
            # Of questions that a smaller limit leaves out as well: their samples are still in the file.
            "images": {**self.setup.inputs["images"], "digests": self._images},
            "engine": engine,
            "finished": finished,
            "counts": {"questions": len(self.setup.numbers), "wanted": wanted, **dataclasses.asdict(tally)},
            "dropped": self.dropped,
            "failed": [{"question": item.question, "samples": list(item.samples), "reason": item.reason} for item in self.failures],
            "seconds": round(self._seconds + seconds, 3),
        }
        write_manifest(self._out, content)


def check_same(setup: Setup) -> dict[str, Any]:
    """The manifest of the run that began the file, if this one may go on with it.

    Raises:
        UserError: It may not: there is no manifest, or config, model, questions or images are not the same.
    """
    config = setup.config
    assert config.out is not None
    before = read_begun(
        config.out,
        lambda content: ([content[name]["digest"] for name in INPUTS], content["images"]["digests"].items(), content["config"].items()),
    )
    options = differences(before["config"], config.model_dump(mode="json"), _is_free)
    differing = list(options.values())
    for name in INPUTS:
        digest, entry = before[name]["digest"], setup.inputs[name]
        if name == "processor" and differing:  # options that differ change its digest as well
            continue
        if digest != entry["digest"]:
            differing.append(f"{name} {entry.get('path', '')}: {short_digest(digest)} then, {short_digest(entry['digest'])} now")
    images = before["images"]["digests"]
    changed = [id for id, digest in setup.inputs["images"]["digests"].items() if images.get(id, digest) != digest]
    if changed:
        differing.append(f"images of {counted(len(changed), 'question')}, first {changed[0]!r}: other files now")
    if differing:
        raise begun_otherwise(config.out, differing, "; each shard needs a file of its own" if "shard" in options else "")
    return before


def _is_free(option: str) -> bool:
    return option in FREE_TO_CHANGE or (option.startswith(ENGINE_SECTIONS) and option != "vllm.adapter")
