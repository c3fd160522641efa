"""Floating-point operations of a training step, counted from shapes and from what the batch really holds.

A product of [m, k] and [k, n] counts 2·m·k·n. Padding counts nothing; attention counts the keys that each query sees.

    part         forward                                      backward
    language     2·N a token, 4·H a layer, head and key seen  activations: as much again (attention: twice); weights: as much
                                                              again where they are trained in full
    adapters     2·N_lora a token                             4·N_lora
    head         2·V·D a scored token                         2·V·D, and as much again where it is trained
    vision       2·N a patch, attention as above              only where it, or what is below it, is trained
    projector    2·N an image token                           likewise

So LoRA on the language model costs about 4·N a token, training it in full 6·N. MFU divides these by time and peak. What the
backward pass computes a second time (layers under `remat=full`, attention scores, logits of a trained head) is recomputation:
counted apart, and part of HFU only; so is attention that each device of a `tensor` axis makes for all heads, where the axis does
not divide them. Norms, activations, softmax, rotary embedding and the optimizer count nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mede2_jax.families import attention_heads
from mede2_jax.train.model_spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a step's batch holds, padding left out; or the mean of several."""

    tokens: float
    keys_seen: float
    """Summed over tokens."""
    scored: float
    image_tokens: float
    patches: float
    window_keys: float
    """Keys seen within windows, summed over patches."""
    image_keys: float
    examples: float
    """Demonstrations, or pairs."""


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of one step over all devices, by part."""

    model: dict[str, float]
    """What any implementation must do."""
    recomputation: dict[str, float]
    """What this one does a second time."""
    repeated: dict[str, float] = dataclasses.field(default_factory=dict)
    """What several devices do alike: attention, where `tensor` does not divide the heads."""

    @property
    def total(self) -> float:
        """Of the model alone."""
        return sum(self.model.values())

    @property
    def done(self) -> float:
        """All that devices do."""
        return self.total + sum(self.recomputation.values()) + sum(self.repeated.values())


def contents(batch: Mapping[str, np.ndarray]) -> Contents:
    """Counts a step's batch, as the loader gives it."""

    def seen(start: str, end: str) -> np.ndarray:
        return np.maximum(batch[end].astype(np.int64) - batch[start], 0)

    text, window, image = (seen(f"{kind}_start", f"{kind}_end") for kind in ("key", "patch_window", "patch_image"))
    pairs = batch["response_pair"]
    return Contents(
        tokens=int((text > 0).sum()),
        keys_seen=int(text.sum()),
        scored=int((batch["scored_response"] >= 0).sum()),
        image_tokens=int((batch["image_index"] >= 0).sum()),
        patches=int((window > 0).sum()),
        window_keys=int(window.sum()),
        image_keys=int(image.sum()),
        examples=len(np.unique(pairs[pairs >= 0])),
    )


def count_flops(spec: ModelSpec, sizes: Any, held: Contents, *, remat: str, tensor: int = 1) -> Flops:
    """The operations of one step.

    Args:
        spec: Which parameters there are, and which are trained.
        sizes: The family's model config.
        held: The step's batch.
        remat: The remat policy.
        tensor: Size of the mesh axis that splits heads.
    """
    language, vision = sizes.language, sizes.vision
    windows, images = vision.attention_layers
    work = {"language": held.tokens, "vision": held.patches, "projector": held.image_tokens}
    linear = {part: 2.0 * _kernel_size(spec, part) * count for part, count in work.items()}
    attention = {
        "language": 4.0 * language.num_layers * language.num_heads * language.head_dim * held.keys_seen,
        "vision": 4.0 * vision.hidden_size * (windows * held.window_keys + images * held.image_keys),
        "projector": 0.0,
    }
    adapters = {part: 2.0 * _adapter_size(spec, part) * count for part, count in work.items()}
    head = 2.0 * language.vocab_size * language.hidden_size * held.scored
    model: dict[str, float] = {}
    again: dict[str, float] = {}
    repeated: dict[str, float] = {}
    heads = attention_heads(sizes)
    # Gradients flow down from the loss as far as something is trained.
    reached = True
    for part in ("language", "projector", "vision"):
        trained = spec.parts[part]
        flows = reached if part == "language" else reached and _anything_trained(spec, part)
        model[part] = linear[part] * (1 + flows + (flows and trained == "full")) + attention[part] * (1 + 2 * flows) + 3 * adapters[part]
        # Flash attention recomputes its scores; under remat=full a layer's forward pass runs again, except the projector's.
        whole_layers = linear[part] + attention[part] + adapters[part] if remat == "full" and part != "projector" else 0.0
        again[part] = flows * (0.5 * attention[part] + whole_layers)
        if heads.get(part, tensor) % tensor:
            runs = 1 + flows * (2.5 + (remat == "full"))
            repeated[part] = (tensor - 1) * runs * attention[part]
        reached = flows
    trains_head = spec.trains_vocabulary
    return Flops(
        model={**model, "head": head * (3 if trains_head else 2)},
        recomputation={**again, "head": head if trains_head else 0.0},
        repeated=repeated,
    )


def _anything_trained(spec: ModelSpec, part: str) -> bool:
    """Whether a part, or one below it, is trained."""
    below = {"projector": ("projector", "vision"), "vision": ("vision",)}[part]
    return any(spec.parts[name] != "frozen" for name in below)


def _kernel_size(spec: ModelSpec, part: str) -> int:
    return sum(math.prod(leaf.shape) for path, leaf in spec.plain.items() if path.startswith(f"{part}/") and path.endswith("/kernel"))


def _adapter_size(spec: ModelSpec, part: str) -> int:
    paths = (path for path in spec.abstract if path.startswith(f"{part}/") and path.endswith(("/lora_a", "/lora_b")))
    return sum(math.prod(spec.abstract[path].shape) for path in paths)
