"""`python -m mede2_jax.convert`: a Hugging Face checkpoint to a model directory, and back.

The direction follows from what `--from` is: a directory with `model.json` is a model directory. Tensors stream, so that
72B converts on a host with 64 GiB: peak memory is near twice the largest layer's tensor.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table as RichTable

from mede2_jax.command import run_command
from mede2_jax.config import Config, UserError
from mede2_jax.data.chat_templates import describe_templates, find_templates
from mede2_jax.data.processor_files import describe_images
from mede2_jax.families import Family, model_config
from mede2_jax.flags import parse
from mede2_jax.json_file import load_json
from mede2_jax.outputs.memory import peak_memory
from mede2_jax.tree import flatten
from mede2_jax.weights import model_directory, model_info
from mede2_jax.weights.dtypes import FLOATS
from mede2_jax.weights.hf import CheckpointReader, CheckpointWriter
from mede2_jax.weights.params import ParamReader, ParamWriter
from mede2_jax.weights.peft import TENSORS, Adapter, import_adapter
from mede2_jax.weights.staging import check_target, staged_directory
from mede2_jax.weights.table import Table, expected, resolve
from mede2_jax.weights.transfer import export_tensors, import_tensors, in_layer_order, planned_tensors

DESCRIPTION = "Convert a Hugging Face checkpoint to a model directory, or a model directory (one with model.json) to a checkpoint."


class ConvertConfig(Config):
    """What to convert, where to, and in which form."""

    from_: Annotated[Path, tyro.conf.arg(name="from")] = pydantic.Field(alias="from")
    """Checkpoint directory (config.json, *.safetensors) or model directory (model.json)."""
    to: Path
    """Directory to make."""
    layout: Literal["hub", "new"] = "hub"
    """Tensor names of an exported checkpoint: as released, or as the modules of newer transformers are called."""
    adapter: Path | None = None
    """PEFT adapter to merge on the way, in float32."""
    dtype: Literal["keep", "float32", "bfloat16"] = "keep"
    """Cast every parameter."""
    max_shard_gb: float = pydantic.Field(default=5.0, gt=0)
    """Largest shard of an exported checkpoint, in 10^9 bytes."""
    overwrite: bool = False
    """Replace the target if it is a model."""

    @property
    def cast_to(self) -> np.dtype | None:
        """Of every parameter; none: each keeps its own."""
        return None if self.dtype == "keep" else FLOATS[self.dtype].dtype


class Outcome(Config):
    """Figures for the closing table."""

    tensors: int
    parameters: int
    nbytes: int
    digest: str | None
    """Of the parameters as written; None when an export changed them, since a checkpoint records none."""


def main(argv: Sequence[str]) -> None:
    """Parses the command line, converts, and prints a table."""
    config = parse(ConvertConfig, argv, program="python -m mede2_jax.convert", description=DESCRIPTION)
    run(config, Console())


def run(config: ConvertConfig, console: Console) -> Outcome:
    """Converts in the direction that `--from` calls for.

    Raises:
        UserError: See the messages of the parts; nothing is left behind.
    """
    began = time.monotonic()
    if not config.from_.is_dir():
        raise UserError(f"--from={config.from_}: no such directory; a checkpoint on the hub must be downloaded first")
    check_target(config.to, config.overwrite)
    if config.to.resolve() in (config.from_.resolve(), *config.from_.resolve().parents):
        raise UserError(f"--to={config.to} is or holds --from; choose another target")
    family, model = model_config(config.from_)
    exporting = (config.from_ / model_info.INFO).exists()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("exporting" if exporting else "importing", total=None)

        def advance(nbytes: int, total: int | None = None) -> None:
            progress.update(task, advance=nbytes, total=total)

        outcome = (_export if exporting else _import)(config, family, model, advance)
    for line in filter(None, (describe_templates(config.from_), describe_images(config.from_))):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    _summary(console, config, outcome, time.monotonic() - began)
    return outcome


def _import(config: ConvertConfig, family: Family, model: Any, advance: Any) -> Outcome:
    model_directory.check_companions(config.from_)
    find_templates(config.from_)  # what is none is told before hours of converting
    table, abstract = family.weight_rules(model), family.abstract_params(model, np.float32)
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(abstract).items()}
    with CheckpointReader(config.from_) as reader:
        found = {name: info.shape for name, info in reader.tensors.items()}
        resolved = resolve(table, abstract, found, str(config.from_))
        adapter = _adapter(config, table, abstract)
        dtype = config.cast_to
        infos = [reader.tensors[name] for name in dict.fromkeys(entry.hf for entry in resolved.entries)]
        advance(0, sum(info.nbytes for info in infos))
        nbytes = sum(info.nbytes // info.dtype.itemsize * (dtype or info.dtype).itemsize for info in infos)

        def write(writer: ParamWriter) -> None:
            import_tensors(reader, resolved, shapes, writer, dtype=dtype, adapter=adapter, advance=advance)

        parents = [_file_digest(config.adapter / TENSORS)] if config.adapter else []
        written = model_directory.write_model_directory(
            config.to,
            family=family.name,
            source=config.from_,
            write=write,
            parents=parents,
            needed_bytes=nbytes,
            overwrite=config.overwrite,
        )
    parameters = sum(info.nbytes // info.dtype.itemsize for info in infos)
    return Outcome(tensors=len(infos), parameters=parameters, nbytes=nbytes, digest=written.digest)


def _export(config: ConvertConfig, family: Family, model: Any, advance: Any) -> Outcome:
    table, abstract = family.weight_rules(model), family.abstract_params(model, np.float32)
    info, dtype = model_info.read_info(config.from_), config.cast_to
    reader = ParamReader(config.from_ / model_info.PARAMS)
    model_directory.check_params(config.from_, abstract, reader.infos)
    adapter = _adapter(config, table, abstract)
    entries = in_layer_order(expected(table, abstract, table.layout(config.layout)))
    planned = planned_tensors(entries, reader.infos, dtype)
    advance(0, sum(info.nbytes for info in reader.infos.values()))
    parameters = sum(int(np.prod(shape)) for _, _, shape in planned)
    nbytes = sum(int(np.prod(shape)) * item.itemsize for _, item, shape in planned)
    with staged_directory(config.to, needed_bytes=nbytes, overwrite=config.overwrite) as partial:
        model_directory.copy_files(config.from_, partial)
        with CheckpointWriter(partial, planned, int(config.max_shard_gb * 10**9)) as writer:
            digest = export_tensors(reader, entries, writer, adapter=adapter, advance=advance)
        if digest != info.digest:
            was = f"their digest is {digest}, {model_info.INFO} says {info.digest}"
            raise UserError(f"{config.from_}: the parameters were changed or damaged: {was}; convert or save the model again")
        _declare_dtype(partial / model_info.HF_CONFIG, {item.name for _, item, _ in planned})
    changed = adapter is not None or any(dtype not in (None, stored.dtype) for stored in reader.infos.values())
    return Outcome(tensors=len(planned), parameters=parameters, nbytes=nbytes, digest=None if changed else digest)


def _adapter(config: ConvertConfig, table: Table, abstract: dict[str, Any]) -> Adapter | None:
    return import_adapter(config.adapter, table, abstract) if config.adapter else None


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _declare_dtype(file: Path, dtypes: set[str]) -> None:
    """Corrects config.json's dtype where it no longer is the weights': transformers would cast to it without a word."""
    if len(dtypes) != 1:
        return
    config, dtype = load_json(file), dtypes.pop()
    changed = False
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("torch_dtype", "dtype"):
            if section.get(key, dtype) not in (dtype, None):
                section[key], changed = dtype, True
    if changed:
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _summary(console: Console, config: ConvertConfig, outcome: Outcome, seconds: float) -> None:
    table = RichTable("", "", show_header=False)
    rows = {
        "tensors": f"{outcome.tensors:,}",
        "parameters": f"{outcome.parameters:,}",
        "size": f"{outcome.nbytes / 1e9:.3f} GB",
        "time": f"{seconds:.1f} s, {outcome.nbytes / 1e6 / max(seconds, 1e-9):.0f} MB/s",
        "peak memory": f"{peak_memory() / 1e9:.2f} GB",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    # Paths and the digest outside the table, each on one line that can be copied.
    console.print(f"{config.from_} → {config.to}", soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    if outcome.digest:
        console.print(f"digest {outcome.digest}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_command(main)
