"""InternVL3 on the host: images to tiles and patches, in the Hugging Face (`-hf`) and the owner's original format.

An image is resized to a grid of tiles (448×448 pixels), at most `max_tiles`, whose shape is nearest to the image's own; with
more than one tile, the whole image follows as a last tile, the thumbnail. A tile is G×G patches (14×14 pixels) in raster order
and takes (G/2)² tokens. The patch `Grid` of an image is (tiles·G, G). Each image is cut on its own, as in the owner's chat (the
owner's training shares `max_tiles` among the images of an example).

| | `-hf`, model_type `internvl` | original, model_type `internvl_chat` |
|---|---|---|
| tiling, unless an option says otherwise | preprocessor_config.json | the same if a run wrote it there, else config.json |
| mean, deviation, resampling | preprocessor_config.json | ImageNet's, bicubic (constants of the owner's code) |
| chat template | the tokenizer's; no default system prompt | `internvl2_5`, with the owner's Chinese system prompt |

The original's tokenizer carries a template that knows no images, nor the owner's system prompt; one that writes `<IMG_CONTEXT>`
is taken instead of ours. Of the -hf file min_patches and max_patches count, crop_to_patches does not: transformers'
InternVLProcessor cuts images whatever it says.

The pixels are those of transformers' PIL image processor, which are the owner's to the last bit; transformers' torchvision one
resizes by other arithmetic and is not compared with. Where several grids are equally near, transformers' order of grids
decides; the owner's follows from a Python set, and the two can differ only when at least four tiles are asked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int32
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT, NO_SYSTEM_PROMPT, ChatTokenizer
from mede2_jax.data.chat_templates import load_tokenizer
from mede2_jax.data.internvl3_files import ORIGINAL_TEMPLATE, ConfigFile, ProcessorFile, SavedTiling, TileRange
from mede2_jax.data.processor import EncodedImage, Grid, ImageGeometry, ProcessorOptions, repeat_placeholders
from mede2_jax.data.processor_files import (
    PREPROCESSOR,
    PROCESSOR,
    TOKENIZER,
    check_files,
    load_images,
    quiet_transformers,
    save_files,
    write_json,
)
from mede2_jax.foreign import shown
from mede2_jax.json_file import load_checked, load_json

IMAGE_TOKEN = "<IMG_CONTEXT>"
IMAGE_TEXT = f"<img>{IMAGE_TOKEN}</img>"
VLLM_IMAGE = "<image>"
"""What vLLM looks for in a prompt of the original format, as the owner's code does."""
# <ref>, <box> and <quad>, which mark regions, are tokens that a text may hold: so the owner writes data of regions.
RESERVED_TOKENS = (
    "<img>",
    "</img>",
    IMAGE_TOKEN,
    "<video>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
)
ORIGINAL_TYPE = "internvl_chat"
OWNERS_SYSTEM_PROMPT = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
# An image stands on its own line, as the owner puts it before a question; a text that begins with the line's end keeps it.
ORIGINAL_CHAT_TEMPLATE = (
    f"""\
{{%- if default_system_prompt | default(true) and (not messages or messages[0].role != 'system') -%}}
{{{{- '<|im_start|>system\\n{OWNERS_SYSTEM_PROMPT}<|im_end|>\\n' -}}}}
{{%- endif -%}}
"""
    + """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<IMG_CONTEXT>' -}}
{%- if not loop.last and not (loop.nextitem.text | default('')).startswith('\\n') -%}
{{- '\\n' -}}
{%- endif -%}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""
)
ORIGINAL_TEXT_TURNS = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_HF_TILING = ("crop_to_patches", "min_patches", "max_patches")
_ORIGINAL_TILING = ("dynamic_image_size", "min_dynamic_patch", "max_dynamic_patch")


@dataclass(frozen=True)
class Tiling:
    """Into how many tiles an image is cut, and their sizes in pixels and tokens. One tile at most: no cutting."""

    min_tiles: int
    max_tiles: int
    thumbnail: bool
    """Whether the whole image follows when it was cut."""
    tile_size: int
    patch_size: int
    tile_tokens: int

    @property
    def side(self) -> int:
        """Patches a tile is high and wide."""
        return self.tile_size // self.patch_size

    @property
    def tile_patches(self) -> int:
        """Patches of a tile."""
        return self.side**2


class InternVL3Processor:
    """Tokenizer, chat template and image processing of one model directory. Use `load`."""

    position_axes = 1

    def __init__(self, directory: Path, chat: ChatTokenizer, image_processor: Any, tiling: Tiling, *, is_original: bool) -> None:
        self.directory, self.chat, self.image_processor, self.tiling = directory, chat, image_processor, tiling
        self.is_original = is_original
        self.image_token_id, self.pad_token_id = chat.image_token_id, chat.pad_token_id
        self.patch_dim = 3 * tiling.patch_size**2
        self.patch_multiple = tiling.tile_patches

    @classmethod
    def load(cls, directory: str | Path, options: ProcessorOptions | None = None) -> Self:
        """Opens the tokenizer and processor files of a model directory.

        Args:
            directory: Holds config.json, the tokenizer and (for -hf) the image processor's files.
            options: Of these crop_to_patches, min_tiles, max_tiles and system_prompt.

        Raises:
            UserError: A file is missing or unreadable, files contradict one another, an option is not one of these, or the
                tiling contradicts itself.
        """
        quiet_transformers()
        from transformers import Qwen2Config
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        directory, options = Path(directory), options or ProcessorOptions()
        options.check_known("InternVL3", "crop_to_patches", "min_tiles", "max_tiles")
        config = load_checked(directory / "config.json", ConfigFile)
        original = config.model_type == ORIGINAL_TYPE
        check_files(directory, image_processor=not original)
        if original:
            _check_original(directory, config)
            # Its config.json names code of its own; its language model's config says all that the tokenizer needs.
            tokenizer = load_tokenizer(directory, config=Qwen2Config())
            if IMAGE_TOKEN not in str(tokenizer.chat_template):
                tokenizer.chat_template = ORIGINAL_CHAT_TEMPLATE
            images = GotOcr2ImageProcessorPil(image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
        else:
            tokenizer = load_tokenizer(directory)
            images = load_images(GotOcr2ImageProcessorPil, directory, TileRange)
        tiling = _tiling(directory, config, images, options)
        images.size = type(images.size)(height=tiling.tile_size, width=tiling.tile_size)
        images.min_patches, images.max_patches, images.crop_to_patches = tiling.min_tiles, tiling.max_tiles, tiling.max_tiles > 1
        chat = ChatTokenizer(
            tokenizer, image_token=IMAGE_TOKEN, image_text=IMAGE_TEXT, reserved=RESERVED_TOKENS, system_prompt=options.system_prompt
        )
        return cls(directory, chat, images, tiling, is_original=original)

    @property
    def vllm_image(self) -> str | None:
        """Of the original; see the protocol."""
        return VLLM_IMAGE if self.is_original else None

    @property
    def vllm_chat_template(self) -> str | None:
        """The original's with `<image>`, which vLLM widens itself; None for -hf."""
        template = str(self.chat.tokenizer.chat_template)
        return template.replace(IMAGE_TOKEN, VLLM_IMAGE) if self.is_original else None

    def save(self, directory: str | Path, *, images: bool = True) -> None:
        """Copies the tokenizer and processor files and writes the tiling in use, so that inference uses the same.

        Without tiling, the most tiles are written as 1: transformers' InternVLProcessor would otherwise cut images whatever
        crop_to_patches says. A config.json of the original format that lies in `directory` gets the tiling too, since that is
        where the owner's code and vLLM look for it; and its tokenizer the template in use, for texts as vLLM and the owner's code
        prepare them (they write the images' places themselves). Without `images` the tiling stays as it was: a run that saw no
        image has nothing to say of it.
        """
        target = Path(directory)
        values = (self.tiling.max_tiles > 1, self.tiling.min_tiles, self.tiling.max_tiles)
        save_files(self.directory, target, self.image_processor, dict(zip(_HF_TILING, values, strict=True)) if images else {})
        if self.chat.tokenizer.chat_template == ORIGINAL_CHAT_TEMPLATE:
            settings = load_json(target / TOKENIZER) if (target / TOKENIZER).is_file() else {}
            write_json(target / TOKENIZER, {name: value for name, value in settings.items() if name != "chat_template"})
            (target / "chat_template.jinja").write_text(original_text_template(self.chat.system_prompt), encoding="utf-8")
        if images and (target / "config.json").is_file():
            config = load_json(target / "config.json")
            changed = config | dict(zip(_ORIGINAL_TILING, values, strict=True))
            if config.get("model_type") == ORIGINAL_TYPE and changed != config:
                write_json(target / "config.json", changed)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of everything that turns a record into numbers."""
        images = {name: str(value) for name, value in sorted(self.image_processor.to_dict().items())}
        parts = (json.dumps(images), json.dumps(asdict(self.tiling)), self.chat.fingerprint)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def tiles(self, height: int, width: int) -> int:
        """How many tiles an image of height × width pixels becomes, the thumbnail counted."""
        tiling = self.tiling
        return tile_count(height, width, tiling.tile_size, tiling.min_tiles, tiling.max_tiles, thumbnail=tiling.thumbnail)

    def grid(self, height: int, width: int) -> Grid:
        """The patch grid of an image of height × width pixels: its tiles, one below the other."""
        return self.tiles(height, width) * self.tiling.side, self.tiling.side

    def image_tokens(self, grid: Grid) -> int:
        """How many tokens an image takes."""
        return grid[0] // self.tiling.side * self.tiling.tile_tokens

    def geometry(self, grid: Grid) -> ImageGeometry:
        """Where the image's patches lie in storage."""
        return tile_geometry(grid, self.tiling.tile_tokens)

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """Resizes, normalises and cuts an RGB image into the patches of its tiles, the thumbnail last."""
        tiling = self.tiling
        grid, side, patch = self.grid(image.height, image.width), tiling.side, tiling.patch_size
        # transformers always appends the thumbnail.
        tiles = self.image_processor(image, return_tensors="np")["pixel_values"][: grid[0] // side]
        patches = tiles.reshape(len(tiles), 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
        return EncodedImage(patches.reshape(-1, self.patch_dim), self.geometry(grid))

    def token_repeats(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """How often each token is repeated: an image placeholder as often as its image takes tokens, others once.

        Raises:
            UserError: The template wrote another number of placeholders than there are images.
        """
        return repeat_placeholders(tokens == self.image_token_id, [self.image_tokens(grid) for grid in grids])

    def positions(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """0, 1, 2, …: images take part like text."""
        return np.arange(len(tokens), dtype=np.int32)

    def image_index(self, tokens: Int32[np.ndarray, " T"], grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
        """For each image token its number among the image tokens (its tile's number × a tile's tokens + k); -1 for text."""
        is_image = tokens == self.image_token_id
        return np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32)


@functools.lru_cache(maxsize=64)
def tile_count(height: int, width: int, size: int, fewest: int, most: int, *, thumbnail: bool) -> int:
    """How many tiles of size × size pixels an image of height × width pixels becomes, by transformers' own choice of a grid."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((height, width), (size, size), fewest, most)
    return columns * rows + (thumbnail and columns * rows > 1)


def tile_geometry(grid: Grid, tile_tokens: int) -> ImageGeometry:
    """Positions and tile ranges of the patches of one image, stored tile after tile; units in the order of the tokens.

    Args:
        grid: (tiles·G, G).
        tile_tokens: Tokens of a tile.
    """
    side = grid[1]
    tiles, tile_patches = grid[0] // side, side**2
    units = np.arange(tiles * tile_tokens, dtype=np.int32)
    raster = np.stack([axis.ravel() for axis in np.mgrid[:side, :side]], axis=-1).astype(np.int32)
    start = np.repeat(np.arange(tiles, dtype=np.int32) * tile_patches, tile_patches)
    return ImageGeometry(
        unit_order=units,
        unit_index=units,
        patch_positions=np.tile(raster, (tiles, 1)),
        window_start=start,
        window_end=start + np.int32(tile_patches),
    )


def original_text_template(system_prompt: str) -> str:
    """The original's template for messages that are plain texts, with `system_prompt` for conversations that have none.

    Args:
        system_prompt: As `ChatTokenizer` takes it: default is the owner's.
    """
    system = {DEFAULT_SYSTEM_PROMPT: OWNERS_SYSTEM_PROMPT, NO_SYSTEM_PROMPT: ""}.get(system_prompt, system_prompt)
    opening = "{%- if not messages or messages[0].role != 'system' -%}\n"
    opening += "{{- '<|im_start|>system\\n' + " + json.dumps(system, ensure_ascii=False) + " + '<|im_end|>\\n' -}}\n{%- endif -%}\n"
    return (opening if system else "") + ORIGINAL_TEXT_TURNS


def _check_original(directory: Path, config: ConfigFile) -> None:
    if config.template != ORIGINAL_TEMPLATE:
        template = shown(config.template)
        raise UserError(f"{directory}: conversation template {template!r} in config.json is not supported; only {ORIGINAL_TEMPLATE} is")
    if config.pad2square:
        raise UserError(f"{directory}: pad2square in config.json is not supported; InternVL3 does not use it")


def _tiling(directory: Path, config: ConfigFile, images: Any, options: ProcessorOptions) -> Tiling:
    """The tiling of a model directory, and what the options change of it."""
    original, vision = config.model_type == ORIGINAL_TYPE, config.vision_config
    size = _side(directory, "image_size", (config.force_image_size if original else 0) or vision.image_size)
    patch = _side(directory, "patch_size", vision.patch_size)
    units = size / patch * config.downsample_ratio
    if size % patch or not units.is_integer() or units < 1:
        raise UserError(f"{directory}: tiles of {size} pixels are not whole patches of {patch} pixels, merged; check config.json")
    tile_tokens = int(units) ** 2
    if not original:
        _check_image_processor(directory, config, images, size, tile_tokens)
    crop, low, high = _original_tiling(directory, config) if original else (True, images.min_patches, images.max_patches)
    low, high = _tile_range(options, crop, low, high)
    thumbnail = config.use_thumbnail if original else True
    return Tiling(low, high, thumbnail, tile_size=size, patch_size=patch, tile_tokens=tile_tokens)


def _original_tiling(directory: Path, config: ConfigFile) -> tuple[bool, int, int]:
    """Whether to cut, fewest and most tiles: as an earlier run saved them, or as config.json says (with its class's defaults)."""
    saved = load_checked(directory / PREPROCESSOR, SavedTiling) if (directory / PREPROCESSOR).is_file() else SavedTiling()
    pairs = ((getattr(saved, ours), getattr(config, owners)) for ours, owners in zip(_HF_TILING, _ORIGINAL_TILING, strict=True))
    crop, low, high = (theirs if ours is None else ours for ours, theirs in pairs)
    return crop, low, high


def _tile_range(options: ProcessorOptions, crop: bool, low: int, high: int) -> tuple[int, int]:
    """Fewest and most tiles; `crop`, `low` and `high` are the model directory's."""
    crop = options.crop_to_patches if options.crop_to_patches is not None else crop
    given = {name: value for name in ("min_tiles", "max_tiles") if (value := getattr(options, name)) is not None}
    if not crop and given:
        name, value = next(iter(given.items()))
        raise UserError(f"data.{name}={value} does nothing without tiling; set data.crop_to_patches=true, or leave it out")
    if not crop:
        return 1, 1
    low, high = given.get("min_tiles", low), given.get("max_tiles", high)
    if not 1 <= low <= high:
        raise UserError(f"min_tiles={low} and max_tiles={high} do not fit: need 1 <= min_tiles <= max_tiles")
    if options.crop_to_patches and high == 1:
        raise UserError("data.crop_to_patches=true, but an image has at most 1 tile here; set data.max_tiles (InternVL3's is 12)")
    return low, high


def _check_image_processor(directory: Path, config: ConfigFile, images: Any, size: int, tile_tokens: int) -> None:
    # Any of these may be null in a file, and transformers takes that.
    sides = tuple(getattr(images.size, side, None) for side in ("height", "width"))
    if sides != (size, size) or not images.do_resize:
        seen = shown(str(images.size if images.do_resize else "not resized"))
        raise UserError(f"{directory}: images are {size}×{size} in config.json but {seen} in the image processor")
    settings = load_checked(directory / PROCESSOR, ProcessorFile) if (directory / PROCESSOR).is_file() else ProcessorFile()
    for file, found in (("config.json", config.image_seq_length), (PROCESSOR, settings.image_seq_length)):
        if found not in (None, tile_tokens):
            raise UserError(f"{directory}: {file} has image_seq_length {found}, but a tile of this model takes {tile_tokens} tokens")


def _side(directory: Path, name: str, value: int | list[int]) -> int:
    """A size of config.json that is a number, or twice the same one."""
    sides = set(value) if isinstance(value, list) else {value}
    if len(sides) != 1:
        raise UserError(f"{directory}: {name} {shown(value)} in config.json is not square; InternVL3's tiles and patches are")
    return sides.pop()
