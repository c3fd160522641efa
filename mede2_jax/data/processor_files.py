"""Tokenizer and image processor files of a model directory: opened without running anyone's code, copied, rewritten."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError

PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
PREPROCESSOR, PROCESSOR, TOKENIZER = "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"


def quiet_transformers() -> None:
    """To be called before transformers is first imported."""
    # It warns that there is no PyTorch; there is not meant to be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Our own threads and processes tokenise in parallel; the tokenizer's pool would only get in their way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def check_files(directory: Path, *, image_processor: bool = True) -> None:
    """Raises UserError unless the directory has a tokenizer and (unless told otherwise) an image processor."""
    if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{str(directory)!r} has no tokenizer.json (nor vocab.json); copy the model's tokenizer files there")
    if image_processor and not any((directory / name).is_file() for name in (PREPROCESSOR, PROCESSOR)):
        raise UserError(f"{str(directory)!r} has no preprocessor_config.json; copy the model's processor files there")


def load_part(kind: Any, directory: Path, **arguments: Any) -> Any:
    """A tokenizer or image processor: `kind.from_pretrained` on the directory's own files.

    Raises:
        UserError: They cannot be loaded.
    """
    try:
        return kind.from_pretrained(str(directory), local_files_only=True, **arguments)
    except Exception as error:  # a damaged tokenizer.json raises whatever its parser meets, a plain Exception among them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load the tokenizer or image processor of {str(directory)!r}: {reason}") from None


def save_files(source: Path, target: Path, image_processor: Any, settings: Mapping[str, Any]) -> None:
    """Copies the tokenizer and processor files to `target` (which may be `source`), with these image settings (if any) in them."""
    target.mkdir(parents=True, exist_ok=True)
    for name in PROCESSOR_FILES:
        file = source / name
        if file.is_file() and file.resolve() != (target / name).resolve():
            shutil.copyfile(file, target / name)
    if not settings:
        return
    own, combined = target / PREPROCESSOR, target / PROCESSOR
    # Older transformers read the one file, newer ones the other: both must agree.
    write_json(own, {**(read_json(own) if own.is_file() else image_processor.to_dict()), **settings})
    if combined.is_file() and "image_processor" in (nested := read_json(combined)):
        write_json(combined, {**nested, "image_processor": {**nested["image_processor"], **settings}})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: The file cannot be read or is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error.msg} at line {error.lineno}") from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON as transformers does: two spaces, a newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
