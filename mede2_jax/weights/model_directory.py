"""The model directory: `params/`, the Hugging Face config, tokenizer and processor files, and `model.json`.

Trainer, sampler and exporter open the same directory. It appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import shown
from mede2_jax.json_file import load_json
from mede2_jax.parallel.distributed import barrier
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.layout import reading_layout, relaid
from mede2_jax.weights.model_info import HF_CONFIG, INFO, PARAMS, ModelInfo, RoundingInfo, read_info
from mede2_jax.weights.params import CHUNK_BYTES, COMMIT_BYTES, ParamInfo, ParamReader, ParamWriter, digest_params, reason
from mede2_jax.weights.staging import partial_path, staged_directory

COPIED = (
    HF_CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "image_preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "README.md",
)
"""What is carried along unchanged: never code, never weights."""
SLOWEST = 20_000_000
"""Bytes a second of a shared file system at its worst."""


def load_params(directory: Path, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the parameters of a model directory, which all devices read together: each about its share of the bytes.

    Args:
        directory: The model directory.
        abstract: Nested dict of `jax.ShapeDtypeStruct`, with shardings (default: the first device). Another dtype than
            the stored one is cast to.

    Raises:
        UserError: A parameter is missing, unexpected or of the wrong shape, or its files are damaged.
    """
    return load_some_params(directory, abstract, open_params(directory, abstract))


def open_params(directory: Path, abstract: Mapping[str, Any]) -> ParamReader:
    """The parameters of a model directory, which are those of `abstract`.

    Raises:
        UserError: One is missing, unexpected or of the wrong shape.
    """
    read_info(directory)
    reader = ParamReader(directory / PARAMS)
    check_params(directory, abstract, reader.infos)
    return reader


def load_some_params(directory: Path, abstract: Mapping[str, Any], reader: ParamReader | None = None) -> dict[str, Any]:
    """As `load_params`, of parameters that are known to be there; the others are not read."""
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    chunks = (reader or ParamReader(directory / PARAMS)).chunks
    wanted = {path: leaf.update(sharding=leaf.sharding or default) for path, leaf in flatten(abstract).items()}
    target = unflatten({path: leaf.update(sharding=reading_layout(leaf, chunks[path])) for path, leaf in wanted.items()})
    arguments = ocp.args.PyTreeRestore(item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            loaded = flatten(checkpointer.restore((directory / PARAMS).resolve(), args=arguments))
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"cannot load {str(directory / PARAMS)!r}: {reason(error)}") from None
    # One after the other, each giving up what it was: two layouts of one array are held at a time, and not of the model.
    return unflatten({path: relaid(loaded.pop(path), leaf.sharding) for path, leaf in wanted.items()})


def check_params(directory: Path, abstract: Mapping[str, Any], stored: Mapping[str, ParamInfo]) -> None:
    """Compares what a model directory stores with what its config needs, on names and shapes.

    Raises:
        UserError: A parameter is missing, unexpected or of the wrong shape.
    """
    wanted = flatten(abstract)
    unmatched = sorted(set(wanted) ^ set(stored))
    if unmatched:
        have = "stored but not part of the model" if unmatched[0] in stored else "part of the model but not stored"
        raise UserError(
            f"{directory}: no match for {counted(len(unmatched), 'parameter')}, first {unmatched[0]}: {have}; is {HF_CONFIG} this model's?"
        )
    for path, leaf in wanted.items():
        if tuple(leaf.shape) != stored[path].shape:
            raise UserError(f"{directory}: {path} is stored as {list(stored[path].shape)}, the config needs {list(leaf.shape)}")


def share_large_writes_only() -> None:
    """Makes Orbax cut an array for its replicas to write a part each only where a part is large: every cut is a compilation.

    Orbax keeps this with the type, for the whole process.
    """
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=COMMIT_BYTES)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


def write_limit(size: int) -> int:
    """Seconds after which Orbax may give up writing so many bytes (of all processes together): its own 20 minutes are for small models."""
    return 3600 + size // SLOWEST


def save_params(directory: Path, params: Mapping[str, Any]) -> None:
    """Saves (possibly sharded) arrays with Orbax, in chunks no larger than a layer. Every process calls it.

    Raises:
        UserError: The disk is full or the directory cannot be written.
    """
    share_large_writes_only()
    # Three axes are a stacked kernel, later read layer by layer: split along axis 0, a layer to a chunk.
    arguments = jax.tree.map(lambda leaf: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if leaf.ndim == 3 else ()), params)
    try:
        limit = ocp.AsyncOptions(timeout_secs=write_limit(sum(leaf.nbytes for leaf in jax.tree.leaves(params))))
        with ocp.StandardCheckpointer(async_options=limit) as checkpointer:
            checkpointer.save(directory.resolve(), params, save_args=arguments)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"cannot write {str(directory)!r}: {reason(error)}") from None


def write_model_directory(
    to: Path,
    *,
    family: str,
    source: Path,
    params: Mapping[str, Any] | None = None,
    write: Callable[[ParamWriter], None] | None = None,
    parents: Sequence[str] = (),
    rounding: Callable[[], RoundingInfo | None] = lambda: None,
    needed_bytes: int = 0,
    overwrite: bool = False,
) -> ModelInfo:
    """Writes a model directory, whole or not at all.

    Args:
        to: Where; on several hosts a directory they share.
        family: The family's name.
        source: A directory whose config, tokenizer and processor files are copied.
        params: The parameters as jax arrays; every process calls with its own shards.
        write: Or what writes them slice by slice; one process only.
        parents: Digests of what the model was made from.
        rounding: Gives, when all is written, what storing it did to the update that made it.
        needed_bytes: Refused at once if the disk has not as much free.
        overwrite: Whether an existing model may be replaced.

    Raises:
        UserError: The target exists, the disk is full.
    """
    assert (params is None) != (write is None), "either arrays or a writer"
    if write is not None:
        with staged_directory(to, needed_bytes=needed_bytes, overwrite=overwrite) as partial:
            with ParamWriter(partial / PARAMS) as writer:
                write(writer)
            return _finish(partial, family, source, parents, writer.digest, rounding())
    primary = jax.process_index() == 0
    staged = staged_directory(to, needed_bytes=needed_bytes, overwrite=overwrite) if primary else contextlib.nullcontext(partial_path(to))
    with staged as partial:
        barrier(f"{to}: begin")
        save_params(partial / PARAMS, params or {})
        if primary:
            _finish(partial, family, source, parents, digest_params(partial / PARAMS), rounding())
    barrier(f"{to}: end")
    return read_info(to)


def check_quantization(source: Path) -> None:
    """Refuses a config.json that speaks of quantised weights, as is left behind when QLoRA is merged: weights are plain here, and vLLM
    and transformers would take them for quantised ones.

    Raises:
        UserError: As said.
    """
    config = load_json(source / HF_CONFIG)
    for section, values in {"": config, **config}.items():
        for key in ("quantization_config", "compression_config"):
            if isinstance(values, dict) and values.get(key) is not None:
                method = values[key].get("quant_method") if isinstance(values[key], dict) else None
                what = f"{f'{shown(section)}.' if section else ''}{key}{f' ({shown(method)})' if method else ''}"
                raise UserError(
                    f"{source / HF_CONFIG}: {what} says that the weights are quantised, and only plain ones can be read; "
                    "take it out if they are plain, else fetch the original checkpoint"
                )


def check_companions(source: Path) -> None:
    """Refuses a checkpoint that lacks what training needs beside the weights; a look at the files, which are not loaded.

    Raises:
        UserError: Names all that is missing.
    """
    settings = [source / name for name in ("tokenizer_config.json", "processor_config.json") if (source / name).is_file()]
    found = {
        "tokenizer (tokenizer.json)": _any_file(source, "tokenizer.json", "vocab.json"),
        "chat template (chat_template.jinja or .json, or in tokenizer_config.json)": _any_file(
            source, "chat_template.jinja", "chat_template.json"
        )
        or any(b'"chat_template"' in file.read_bytes() for file in settings),
        "image processor (preprocessor_config.json)": _any_file(source, "preprocessor_config.json", "processor_config.json"),
    }
    missing = [name for name, there in found.items() if not there]
    if missing:
        raise UserError(f"{str(source)!r} has no {', no '.join(missing)}; copy the model's own files there, since training needs them")


def _any_file(directory: Path, *names: str) -> bool:
    return any((directory / name).is_file() for name in names)


def copy_files(source: Path, target: Path) -> None:
    """Copies config, tokenizer and processor files, byte for byte; links are followed, as the hub's cache is made of them."""
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _finish(partial: Path, family: str, source: Path, parents: Sequence[str], digest: str, rounding: RoundingInfo | None) -> ModelInfo:
    copy_files(source, partial)
    dtypes = {info.dtype.name for info in ParamReader(partial / PARAMS).infos.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "mixed"
    info = ModelInfo(family=family, digest=digest, parents=tuple(parents), dtype=dtype, rounding=rounding)
    (partial / INFO).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info
