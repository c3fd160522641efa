"""Tokenizer and image processor files of a model directory: opened without running anyone's code, copied, rewritten."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign, check, load_json
from mede2_jax.model_configs.fields import Layers

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
LONGEST_REASON = 300
"""Characters of a library's error that are shown."""

_KINDS = ("image_processor_type", "processor_class", "feature_extractor_type")
"""Names of classes, which change from version to version and say nothing of the settings."""
_TOKEN_FIELDS = {"__type", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}
_Deviation = Annotated[float, pydantic.Field(gt=1e-6, lt=1e6)]
_Pixel = Annotated[float, pydantic.Field(gt=-1e6, lt=1e6)]
PREPROCESSOR, PROCESSOR, TOKENIZER = "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"


class DecoderFile(Foreign):
    """Of config.json: what transformers makes lists of when it opens the tokenizer beside it."""

    num_hidden_layers: Layers | None = None


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
    check_added_tokens(directory)
    for name in (PREPROCESSOR, PROCESSOR):
        if (directory / name).is_file():
            load_json(directory / name)  # transformers reads it too, and takes what says a thing twice
    if image_processor and not any((directory / name).is_file() for name in (PREPROCESSOR, PROCESSOR)):
        raise UserError(f"{str(directory)!r} has no preprocessor_config.json; copy the model's processor files there")


def check_added_tokens(directory: Path) -> None:
    """Compares the tokens that the tokenizer's files add with what a token can be: of an unknown field the library prints the name.

    Raises:
        UserError: There is such a field, or a file is not valid JSON.
    """
    for name in (TOKENIZER, "special_tokens_map.json"):
        if not (directory / name).is_file():
            continue
        waiting: list[Any] = [load_json(directory / name)]
        while waiting:
            found = waiting.pop()
            if not isinstance(found, dict):
                waiting += found if isinstance(found, list) else ()
                continue
            waiting += found.values()
            tokens = found.get("added_tokens_decoder")
            candidates = [found, *(tokens.values() if isinstance(tokens, dict) else ())]
            for token in candidates:
                fields = set(token) if isinstance(token, dict) else set()
                if (token is not found or fields & _TOKEN_FIELDS) and (unknown := fields - _TOKEN_FIELDS):
                    raise UserError(f"{directory / name}: an added token has an unknown field {shown(min(unknown))!r}; take it out")


def describe_images(directory: Path) -> str:
    """Which image settings count, where the two files that may hold them do not agree; "" where they do.

    Raises:
        UserError: A file cannot be read.
    """
    files = [directory / name for name in (PROCESSOR, PREPROCESSOR)]
    if not all(file.is_file() for file in files):
        return ""
    nested, own = load_json(files[0]).get("image_processor"), load_json(files[1])
    differing = sorted(
        name for name in own if isinstance(nested, dict) and name in nested and name not in _KINDS and nested[name] != own[name]
    )
    if not differing:
        return ""
    names = shown(", ".join(differing), LONGEST_REASON)
    return f"image settings: those of {PROCESSOR}, as AutoProcessor and vLLM take them; {PREPROCESSOR} differs in {names}"


def load_part(kind: Any, directory: Path, **arguments: Any) -> Any:
    """A tokenizer or image processor: `kind.from_pretrained` on the directory's own files.

    Raises:
        UserError: They cannot be loaded.
    """
    try:
        return kind.from_pretrained(str(directory), local_files_only=True, **arguments)
    except Exception as error:  # a damaged tokenizer.json raises whatever its parser meets, a plain Exception among them
        reason = shown((str(error).strip() or type(error).__name__).splitlines()[0], LONGEST_REASON)
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
    write_json(own, {**(load_json(own) if own.is_file() else image_processor.to_dict()), **settings})
    if combined.is_file() and isinstance((nested := load_json(combined)).get("image_processor"), dict):
        write_json(combined, {**nested, "image_processor": {**nested["image_processor"], **settings}})


def load_images(kind: Any, directory: Path, settings: type[Foreign]) -> Any:
    """An image processor of the directory's own files, whose settings can be computed with.

    Args:
        kind: Its class in transformers.
        directory: The model directory.
        settings: What those that the family reads must be.

    Raises:
        UserError: It cannot be loaded; a mean or a deviation is no number, or a deviation is 0; or a setting has another type.
    """
    images = load_part(kind, directory)
    for model in (_Normalisation, settings):
        _check_loaded(directory, images, model)
    return images


def _check_loaded(directory: Path, image_processor: Any, model: type[Foreign]) -> None:
    """The files say what the values are, or the defaults of transformers' class with them."""
    values = {name: getattr(image_processor, name, None) for name in model.model_fields}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    file = PREPROCESSOR if (directory / PREPROCESSOR).is_file() else PROCESSOR
    check(plain, model, str(directory / file), "use the model's own file")


class _Normalisation(Foreign):
    """Of an image processor: what is done to each pixel."""

    do_resize: bool
    do_rescale: bool
    do_normalize: bool
    rescale_factor: Annotated[float, pydantic.Field(gt=1e-9, lt=1e6)]
    image_mean: Annotated[list[_Pixel], pydantic.Field(min_length=3, max_length=3)]
    image_std: Annotated[list[_Deviation], pydantic.Field(min_length=3, max_length=3)]
    resample: Annotated[int, pydantic.Field(ge=0, le=5)]
    data_format: Literal["channels_first"] | None = None
    input_data_format: None = None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON as transformers does: two spaces, a newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
