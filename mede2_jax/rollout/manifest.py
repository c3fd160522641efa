"""What `<out>.manifest.json` of rollouts says that is theirs; and whether a run may go on with a file that is there."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pydantic

from mede2_jax.config import counted
from mede2_jax.outputs.failures import Failure
from mede2_jax.outputs.manifest import Begun, begun_otherwise, differences, short_digest
from mede2_jax.rollout.job import SamplingJob

INPUTS = ("model", "processor", "questions", "prompt")
"""What a run is made of and has a digest of; an API has no processor that anybody knows, and answers have no prompt of ours."""
ENGINE_SECTIONS = {"flax.": ("flax.dtype",), "vllm.": ("vllm.dtype", "vllm.extra")}
"""How an engine uses its machine is free to change, but for what it computes in. What is served, an adapter with it, has a digest."""
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
    "first_rest",
    "longest_rest",
    "cache",
    "max_cost",
    "prices",
    "check_logprobs",
    "data.image_root",
    "data.max_image_pixels",
)
"""Options that may differ when a file is taken up: they do not change a sample, or a digest (of `engine`: what it means) tells more."""


class Digested(pydantic.BaseModel):
    """Something that a run is made of."""

    digest: str


class Images(pydantic.BaseModel):
    """Where images are, and the digest of each question's."""

    digests: dict[str, str]


class BegunRollouts(Begun):
    """What a run needs of the manifest of the run before."""

    model: Digested
    processor: Digested | None = None
    questions: Digested
    prompt: Digested | None = None
    images: Images
    engine: str = ""


class FailedSamples(Failure):
    """Samples of a question that an engine could not give."""

    question: str
    samples: tuple[int, ...]
    cost: float | None = pydantic.Field(default=None, ge=0.0, allow_inf_nan=False)
    """US dollars that an API took all the same; None: nothing."""

    @property
    def items(self) -> Sequence[Hashable]:
        """Question and number of each."""
        return [(self.question, sample) for sample in self.samples]

    def only(self, items: Sequence[Any]) -> FailedSamples:
        """The same of some of them."""
        return self.model_copy(update={"samples": tuple(sample for _, sample in items)})


def check_same(job: SamplingJob, before: BegunRollouts) -> None:
    """Whether a run may go on with the file that another began.

    Raises:
        UserError: It may not: config, engine, model, questions or images are not the same.
    """
    config, engine = job.config, job.engine
    assert config.out is not None
    options = differences(before.config, config.model_dump(mode="json"), lambda option: _is_free(option, job))
    if before.engine not in ("", engine):  # the same seed gives other samples there
        options |= differences({"engine": before.engine}, {"engine": engine}, lambda _: False)
    differing = list(options.values())
    for name in INPUTS:
        said: Digested | None = getattr(before, name)
        digest, entry = said.digest if said else "none", job.inputs.get(name, {"digest": "none"})
        if name == "processor" and differing:  # options that differ change its digest as well
            continue
        if name == "model" and {"engine", "api_model"} & options.keys():  # it follows from these
            continue
        if digest != entry["digest"]:
            differing.append(f"{name} {entry.get('path', '')}: {short_digest(digest)} then, {short_digest(entry['digest'])} now")
    images = before.images.digests
    changed = [id for id, digest in job.inputs["images"]["digests"].items() if images.get(id, digest) != digest]
    if changed:
        differing.append(f"images of {counted(len(changed), 'question')}, first {changed[0]!r}: other files now")
    if differing:
        raise begun_otherwise(config.out, differing, "; each shard needs a file of its own" if "shard" in options else "")


def _is_free(option: str, job: SamplingJob) -> bool:
    for section, bound in ENGINE_SECTIONS.items():
        if option.startswith(section):
            return option not in bound or not section.startswith(job.engine)
    return option in FREE_TO_CHANGE
