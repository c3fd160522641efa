"""What InternVL3's processor reads of a model directory's files, in both formats."""

from __future__ import annotations

from typing import Annotated

import pydantic

from mede2_jax.data.processor_files import DecoderFile
from mede2_jax.json_file import Count, Finite, Foreign

ORIGINAL_TEMPLATE = "internvl2_5"
_Pixels = Annotated[int, pydantic.Field(gt=0, le=2**14)]
_Tile = Annotated[int, pydantic.Field(gt=0, le=256)]


class _Vision(Foreign):
    """Of config.json's `vision_config`: what the host needs."""

    image_size: _Pixels | list[_Pixels] = 448
    patch_size: _Pixels | list[_Pixels] = 14


class ConfigFile(DecoderFile):
    """Of config.json in both formats: what the host needs, with the defaults of the original's class."""

    model_type: str = ""
    text_config: DecoderFile = DecoderFile()
    llm_config: DecoderFile = DecoderFile()
    vision_config: _Vision = _Vision()
    downsample_ratio: Finite = 0.5
    force_image_size: Annotated[int, pydantic.Field(ge=0, le=2**14)] = 0
    """0: the vision part's."""
    image_seq_length: Count | None = None
    template: str = ORIGINAL_TEMPLATE
    pad2square: bool = False
    use_thumbnail: bool = False
    dynamic_image_size: bool = False
    min_dynamic_patch: _Tile = 1
    max_dynamic_patch: _Tile = 6


class SavedTiling(Foreign):
    """What a run wrote into preprocessor_config.json."""

    crop_to_patches: bool | None = None
    min_patches: _Tile | None = None
    max_patches: _Tile | None = None


class TileRange(Foreign):
    """Of the image processor."""

    min_patches: _Tile
    max_patches: _Tile


class ProcessorFile(Foreign):
    """Of processor_config.json."""

    image_seq_length: Count | None = None
