"""A data file with its images, read by record number: the options, and a record as tokens and patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from mede2_jax.config import UserError
from mede2_jax.data.images import CheckedImage, ImageSize, check_image, decode_image, read_image_bytes
from mede2_jax.data.processor import EncodedImage, Processor, ProcessorOptions
from mede2_jax.data.readers import Format, detect_format, read_record
from mede2_jax.data.reading import located
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, PreferencePair
from mede2_jax.data.rows import EncodedExample, encode_demonstration, encode_pair
from mede2_jax.outputs.image_root import image_root

Stage = Literal["sft", "dpo"]


class DataConfig(ProcessorOptions):
    """Which data to train on, how to prepare them and how to lay them into rows."""

    path: Path | None = None
    """Data file: JSONL, or JSON with one list."""
    format: Literal["auto", "mede2", "sharegpt", "trl"] = "auto"
    """Record format; auto looks at each record's fields. sharegpt is LLaMA-Factory's, trl TRL's conversational one."""
    image_root: Path | None = None
    """Folder that image paths start from; none: the one that the file's manifest names (of pairs that were made here), or its folder."""
    eval_path: Path | None = None
    """Held-out data file."""
    eval_fraction: float = pydantic.Field(default=0.0, ge=0.0, lt=1.0)
    """Share of `path` held out for evaluation when there is no eval_path; chosen by a hash of the id."""
    row_tokens: int = pydantic.Field(default=4096, ge=16)
    """Tokens a row holds."""
    row_patches: int = pydantic.Field(default=0, ge=0)
    """Image patches a row holds; 0 chooses from the data."""
    packing: bool = True
    """Pack several examples into a row; off: one example a row."""
    shared_prompt: bool = True
    """Compute the prompt and images of a preference pair once for both responses; off: once for each."""
    too_long: Literal["skip", "error"] = "skip"
    """What to do with an example that does not fit into a row. Images and texts are never cut."""
    max_image_pixels: int = pydantic.Field(default=50_000_000, gt=0)
    """An image file with more pixels is an error."""
    verify_images: bool = True
    """Decode every image before training, so that a broken one is found at once."""
    workers: int = pydantic.Field(default=0, ge=0)
    """Processes that prepare rows; 0: threads of the main process."""
    buffer: int = pydantic.Field(default=8, ge=1)
    """Rows prepared ahead, of all workers together; at least those of the next step."""


@dataclass(frozen=True)
class Source:
    """A data file that is open; records are read when asked for, from any thread or process."""

    stage: Stage
    config: DataConfig
    format: Format
    """The one that the config names, else the first record's."""
    processor: Processor
    file: RecordFile
    image_root: Path

    def record(self, number: int) -> Demonstration | PreferencePair:
        """The record with that number in the file.

        Raises:
            UserError: Names file, line and field.
        """
        kind: Any = Demonstration if self.stage == "sft" else PreferencePair
        raw = self.file[number]
        looks = detect_format(raw)
        # A text record shows no format, and the same trainer's next one may: each is read by its own fields.
        format = looks if self.config.format == "auto" else self.config.format
        try:
            return read_record(raw, kind, format, self.file.where(number))
        except UserError as error:
            if looks in (format, "mede2"):  # mede2 is also what a record looks like that shows no format
                raise
            raise UserError(f"{error} (read as {format}, but this record looks like {looks}: try data.format={looks})") from None

    def digest(self, number: int, files: Iterable[bytes]) -> bytes:
        """Of a record's bytes and the digests of its image files."""
        digest = hashlib.sha256(self.file.raw(number).strip())
        for file in files:
            digest.update(file)
        return digest.digest()

    def encode(self, number: int, record: Demonstration | PreferencePair, sizes: list[ImageSize]) -> EncodedExample:
        """A record as tokens, its images known by their sizes only."""
        with located(self.file.where(number)):
            grids = [self.processor.grid(*size) for size in sizes]
            if isinstance(record, Demonstration):
                return encode_demonstration(record, self.processor, grids)
            return encode_pair(record, self.processor, grids, shared_prompt=self.config.shared_prompt)

    def load(self, number: int) -> tuple[EncodedExample, list[EncodedImage], bytes]:
        """A record as tokens, its images as patches, and the digest of both; each image file is read and decoded once."""
        record = self.record(number)
        images, sizes, files = [], [], []
        with located(self.file.where(number)):
            for name in record.images:
                data = read_image_bytes(self.image_root, name)
                image = decode_image(data, name, self.config.max_image_pixels)
                images.append(self.processor.encode_image(image))
                sizes.append((image.height, image.width))
                files.append(hashlib.sha256(data).digest())
        return self.encode(number, record, sizes), images, self.digest(number, files)

    def check_image(self, number: int, name: str) -> CheckedImage:
        """Looks at an image of a record; it is decoded in full if the config asks for it."""
        with located(self.file.where(number)):
            data = read_image_bytes(self.image_root, name)
            return check_image(data, name, self.config.max_image_pixels, decode=self.config.verify_images)


def open_source(config: DataConfig, stage: Stage, processor: Processor, path: Path | None = None) -> Source:
    """Opens a data file (`config.path` unless given) and finds out its format."""
    path = path or config.path
    if path is None:
        raise UserError("no data file: set data.path=FILE.jsonl")
    file = RecordFile(path)
    format = detect_format(file[0]) if config.format == "auto" else config.format
    return Source(stage, config, format, processor, file, image_root(file.path, config.image_root, "--data.image_root"))
