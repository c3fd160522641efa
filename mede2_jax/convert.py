"""`python -m mede2_jax.convert`: a Hugging Face checkpoint to a model directory, and back; a step of a run to a model directory.

The direction follows from what `--from` is: a directory with `model.json` is a model directory, one with checkpoints a run. Tensors
stream, so that 72B converts on a host with 64 GiB: peak memory is near twice the largest layer's tensor.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
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
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.families import Family, model_config
from mede2_jax.flags import parse
from mede2_jax.json_file import load_json
from mede2_jax.outputs.memory import peak_memory
from mede2_jax.rounding import MOST_LOST, MOST_NOISE, Rounder, Rounding
from mede2_jax.tree import flatten
from mede2_jax.weights import model_directory, model_info
from mede2_jax.weights.dtypes import FLOATS
from mede2_jax.weights.hf import CheckpointReader, CheckpointWriter
from mede2_jax.weights.params import ParamReader, ParamWriter
from mede2_jax.weights.peft import TENSORS, Adapter, import_adapter
from mede2_jax.weights.run_checkpoint import TRAINABLE, is_run, open_checkpoint
from mede2_jax.weights.staging import check_target, staged_directory
from mede2_jax.weights.table import Table, expected, resolve
from mede2_jax.weights.transfer import export_tensors, import_tensors, in_layer_order, planned_tensors, update_params

DESCRIPTION = """Convert a Hugging Face checkpoint to a model directory, or a model directory (one with model.json) to a checkpoint.

  to train      python -m mede2_jax.convert --from=HF_DIR --to=MODEL_DIR
  to publish    python -m mede2_jax.convert --from=runs/dpo/model --to=HF_DIR
  an adapter    … --adapter=PEFT_DIR: merged on the way
  another step  python -m mede2_jax.convert --from=runs/dpo --step=best --to=MODEL_DIR     (or --step=200, --step=last)
"""


class ConvertConfig(Config):
    """What to convert, where to, and in which form."""

    from_: Annotated[Path, tyro.conf.arg(name="from")] = pydantic.Field(alias="from")
    """Checkpoint directory (config.json, *.safetensors), model directory (model.json), or run directory (with step)."""
    to: Path
    """Directory to make."""
    layout: Literal["hub", "new"] = "hub"
    """Tensor names of an exported checkpoint: as released, or as the modules of newer transformers are called."""
    adapter: Path | None = None
    """PEFT adapter to merge on the way, in float32."""
    dtype: Literal["keep", "float32", "bfloat16"] = "keep"
    """Cast every parameter."""
    rounding: Rounding = "auto"
    """Of what was merged or trained. auto: to the nearest, but at random where that would lose over 5% of a kernel's update."""
    step: str | None = pydantic.Field(default=None, pattern=r"^(last|best|\d{1,18})$")
    """Of a run: last, best (the lowest evaluation loss) or a step's number; it must have a checkpoint."""
    model: Path | None = None
    """Model directory that the run started from, if it is not where it was."""
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
    rounding: str | None = None
    """What rounding did to what was merged, in words."""


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
    kind = _kind(config)
    family, model = model_config(config.from_) if kind is not _from_run else (None, None)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("exporting" if kind is _export else "importing", total=None)

        def advance(nbytes: int, total: int | None = None) -> None:
            progress.update(task, advance=nbytes, total=total)

        outcome = kind(config, family, model, advance)
    if template := describe_templates(config.from_):
        console.print(template, soft_wrap=True, highlight=False, markup=False)
    _summary(console, config, outcome, time.monotonic() - began)
    return outcome


def _kind(config: ConvertConfig) -> Callable[..., Outcome]:
    """What is to be done.

    Raises:
        UserError: An option does not go with it.
    """
    if is_run(config.from_):
        if config.step is None:
            raise UserError(
                f"--from={config.from_} is a run: give --step=N, last or best, or --from={config.from_}/model for what it ended in"
            )
        if config.adapter is not None:
            raise UserError("--adapter is not for a run: what it trained is in its checkpoints")
        return _from_run
    if config.step is not None or config.model is not None:
        given = "--step" if config.step is not None else "--model"
        raise UserError(f"{given} is for a run directory, and --from={config.from_} is none (no manifest.json with checkpoints/)")
    return _export if (config.from_ / model_info.INFO).exists() else _import


def _from_run(config: ConvertConfig, family: None, model: None, advance: Any) -> Outcome:
    checkpoint = open_checkpoint(config.from_, config.step or "last", config.model)
    reader, dtype, rounder = ParamReader(checkpoint.model_dir / model_info.PARAMS), config.cast_to, Rounder(config.rounding)
    unknown = [path for path in checkpoint.in_full() if path not in reader.infos]
    if unknown:
        raise UserError(f"{config.from_}: {unknown[0]} was trained, and is no parameter of {checkpoint.model_dir}; is it another model?")
    advance(0, sum(info.nbytes for info in reader.infos.values()))
    parameters = sum(int(np.prod(info.shape)) for info in reader.infos.values())
    nbytes = sum(int(np.prod(info.shape)) * (dtype or info.dtype).itemsize for info in reader.infos.values())
    built, _ = model_config(checkpoint.model_dir)
    options = ProcessorOptions.model_validate(
        {name: checkpoint.data[name] for name in ProcessorOptions.model_fields if name in checkpoint.data}
    )

    def write(writer: ParamWriter) -> None:
        trained, adapter = checkpoint.trained, checkpoint.adapter
        update_params(reader, trained, f"{TRAINABLE}/", adapter, writer, dtype=dtype, rounder=rounder, advance=advance)

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        model_directory.copy_files(checkpoint.model_dir, files)
        built.load_processor(checkpoint.model_dir, options).save(files)  # as the run used it, so that inference sees what training saw
        written = model_directory.write_model_directory(
            config.to,
            family=built.name,
            source=files,
            write=write,
            parents=checkpoint.digests,
            rounding=lambda: model_info.RoundingInfo.of(config.rounding, rounder.account),
            needed_bytes=nbytes,
            overwrite=config.overwrite,
        )
    told = f"step {checkpoint.step} of {config.from_}, {_rounded(rounder, written.dtype)}"
    return Outcome(tensors=len(reader.infos), parameters=parameters, nbytes=nbytes, digest=written.digest, rounding=told)


def _import(config: ConvertConfig, family: Family, model: Any, advance: Any) -> Outcome:
    model_directory.check_companions(config.from_)
    find_templates(config.from_)  # what is none is told before hours of converting
    table, abstract = family.weight_rules(model), family.abstract_params(model, np.float32)
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(abstract).items()}
    with CheckpointReader(config.from_) as reader:
        found = {name: info.shape for name, info in reader.tensors.items()}
        resolved = resolve(table, abstract, found, str(config.from_))
        adapter = _adapter(config, table, abstract)
        dtype, rounder = config.cast_to, Rounder(config.rounding)
        infos = [reader.tensors[name] for name in dict.fromkeys(entry.hf for entry in resolved.entries)]
        advance(0, sum(info.nbytes for info in infos))
        nbytes = sum(info.nbytes // info.dtype.itemsize * (dtype or info.dtype).itemsize for info in infos)

        def write(writer: ParamWriter) -> None:
            import_tensors(reader, resolved, shapes, writer, dtype=dtype, adapter=adapter, rounder=rounder, advance=advance)

        parents = [_file_digest(config.adapter / TENSORS)] if config.adapter else []
        written = model_directory.write_model_directory(
            config.to,
            family=family.name,
            source=config.from_,
            write=write,
            parents=parents,
            rounding=lambda: model_info.RoundingInfo.of(config.rounding, rounder.account),
            needed_bytes=nbytes,
            overwrite=config.overwrite,
        )
    parameters = sum(info.nbytes // info.dtype.itemsize for info in infos)
    told = _told(adapter, rounder, written.dtype)
    return Outcome(tensors=len(infos), parameters=parameters, nbytes=nbytes, digest=written.digest, rounding=told)


def _export(config: ConvertConfig, family: Family, model: Any, advance: Any) -> Outcome:
    table, abstract = family.weight_rules(model), family.abstract_params(model, np.float32)
    info, dtype, rounder = model_info.read_info(config.from_), config.cast_to, Rounder(config.rounding)
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
            digest = export_tensors(reader, entries, writer, adapter=adapter, rounder=rounder, advance=advance)
        if digest != info.digest:
            was = f"their digest is {digest}, {model_info.INFO} says {info.digest}"
            raise UserError(f"{config.from_}: the parameters were changed or damaged: {was}; convert or save the model again")
        _declare_dtype(partial / model_info.HF_CONFIG, {item.name for _, item, _ in planned})
    changed = adapter is not None or any(dtype not in (None, stored.dtype) for stored in reader.infos.values())
    names = {item.name for _, item, _ in planned}
    told = _told(adapter, rounder, names.pop() if len(names) == 1 else "mixed")
    return Outcome(tensors=len(planned), parameters=parameters, nbytes=nbytes, digest=None if changed else digest, rounding=told)


def _told(adapter: Adapter | None, rounder: Rounder, dtype: str) -> str | None:
    return None if adapter is None else f"the adapter is merged, {_rounded(rounder, dtype)}"


def _rounded(rounder: Rounder, dtype: str) -> str:
    """What rounding did, and what to do if that is too much."""
    fits = rounder.account.noise <= MOST_NOISE and abs(rounder.account.lost) <= MOST_LOST
    return rounder.account.describe(dtype) + ("" if fits else "; --dtype=float32 keeps all of it")


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
    if outcome.rounding:
        console.print(outcome.rounding, soft_wrap=True, highlight=False, markup=False)
    if outcome.digest:
        console.print(f"digest {outcome.digest}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_command(main)
