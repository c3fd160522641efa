"""The Flax sampler's config, apart from the sampler: a command that asks a server begins without JAX."""

from __future__ import annotations

from typing import Literal

import pydantic

from mede2_jax.config import Config
from mede2_jax.parallel.mesh_config import MeshConfig


class FlaxConfig(Config):
    """How the Flax sampler uses the devices. Memory for keys and values grows with slots × (max_prompt_tokens + samples × max_tokens)."""

    slots: int = pydantic.Field(default=8, ge=1)
    """Questions worked on at a time, by each of the mesh's data × fsdp pieces."""
    samples: int = pydantic.Field(default=8, ge=1)
    """Samples of a question decoded at a time; a question that wants more takes several turns."""
    max_prompt_tokens: int = pydantic.Field(default=4096, ge=1)
    """Longest prompt, images counted; longer ones are refused."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of computation, keys and values; auto: the model's own."""
    steps: int = pydantic.Field(default=32, ge=1)
    """Tokens that a call of the compiled loop adds; between calls finished questions make room for new ones."""
    workers: int = pydantic.Field(default=2, ge=1)
    """Threads that prepare prompts and images ahead."""
    mesh: MeshConfig = MeshConfig(data=-1, fsdp=1)
    """By default each device has the whole model and questions of its own; mesh.tensor splits a model that is too large for that."""
