"""What a finished run gives out: `model/`, which is the policy that was trained, and `adapter/` in PEFT's format."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

from mede2_jax.models.apart import is_apart, put_together
from mede2_jax.models.lora import Params, base_path, join_params, merge_lora, take_adapters
from mede2_jax.parallel import distributed
from mede2_jax.rounding import MOST_NOISE, Account, Rounder, Sums
from mede2_jax.train.inputs import TrainingInputs
from mede2_jax.train.run_directory import MODEL
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.dtypes import FLOATS
from mede2_jax.weights.model_directory import copy_files, load_some_params, write_model_directory
from mede2_jax.weights.model_info import PARAMS, ModelInfo, RoundingInfo
from mede2_jax.weights.params import ParamReader, ParamWriter
from mede2_jax.weights.peft import Adapter, export_adapter
from mede2_jax.weights.transfer import update_params


def export(inputs: TrainingInputs, frozen: Params, trainable: Params, console: Console, off: float | None = None) -> None:
    """Writes the merged model directory, and the adapters. The frozen parameters are used up: the run is over.

    Args:
        inputs: Of the run.
        frozen: Parameters as they were held.
        trainable: As they were trained.
        console: Where to say what was stored.
        off: How far what was held in 8 bits is from the weights, where any was.
    """
    adapter = _adapter(inputs, trainable)
    _export_adapter(inputs, adapter, console)
    if inputs.spec.quantized:
        assert off is not None
        _export_from_disk(inputs, trainable, adapter, console, off)
        return
    frozen = jax.tree.map(put_together, frozen, is_leaf=is_apart)
    how, asked = inputs.config.export_rounding, _asked_dtypes(inputs)
    before = _before(inputs, asked)
    dtypes, account = _measured(inputs, frozen, trainable, before, asked)
    shardings = flatten(inputs.spec.shardings(inputs.mesh))
    plain = {base_path(path): place for path, place in shardings.items() if not path.endswith(("/lora_a", "/lora_b"))}

    def merged(frozen: Params, trainable: Params, before: Mapping[str, Any]) -> Params:
        return merge_lora(join_params(frozen, trainable), inputs.config.lora.scale, dtypes, how, before)[0]

    # The merged kernels may take the place of the frozen ones.
    params = jax.jit(merged, out_shardings=unflatten(plain), donate_argnums=0)(frozen, trainable, before)
    with _companions(inputs) as files:
        write_model_directory(
            inputs.config.output / MODEL,
            family=inputs.family.name,
            source=files,
            params=params,
            parents=inputs.digests,
            rounding=lambda: RoundingInfo.of(how, account),
        )
    console.print(f"{MODEL}/ is {account.describe(_name(dtypes))}")


@contextlib.contextmanager
def _companions(inputs: TrainingInputs) -> Iterator[Path]:
    """A folder with the config, tokenizer and processor files of what is given out."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        copy_files(inputs.model_dir, files)
        # As it was used, pixel limits or tiling included, so that inference sees what training saw.
        inputs.processor.save(files, images=inputs.shape.patches > 0)
        yield files


class _Trained:
    """Parameters trained in full, in memory, read as those of a checkpoint are."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.infos = arrays

    def read(self, path: str, *, layer: int | None = None, rows: tuple[int, int] | None = None) -> np.ndarray:
        array = self.infos[path] if layer is None else self.infos[path][layer]
        return array if rows is None else array[slice(*rows)]


def _export_from_disk(inputs: TrainingInputs, trainable: Params, adapter: Adapter | None, console: Console, off: float) -> None:
    """Adds what was trained to the model directory's own weights, slice by slice: of these the devices hold 8 bits only."""
    given = inputs.config.export_dtype
    arrays = {path: array for path, array in flatten(distributed.on_host(trainable)).items() if not path.endswith(("/lora_a", "/lora_b"))}
    if distributed.is_first():
        dtype = None if given in ("auto", "stored") else FLOATS[given].dtype
        info, account = _written(inputs, _Trained(arrays), adapter, dtype)
        if given == "auto" and account.noise > MOST_NOISE:  # known when all is read; so small a model is soon written again
            info, account = _written(inputs, _Trained(arrays), adapter, np.dtype(np.float32), overwrite=True)
        console.print(f"{MODEL}/ is {account.describe(info.dtype)}")
        seen = f"the run saw them in {inputs.config.frozen_dtype}, {off:.2%} off"
        console.print(f"it is made of the weights in {inputs.model_dir}; {seen}", soft_wrap=True, markup=False)
    distributed.barrier("export")


def _written(
    inputs: TrainingInputs, trained: _Trained, adapter: Adapter | None, dtype: np.dtype | None, *, overwrite: bool = False
) -> tuple[ModelInfo, Account]:
    reader, rounder = ParamReader(inputs.model_dir / PARAMS), Rounder(inputs.config.export_rounding)

    def write(writer: ParamWriter) -> None:
        update_params(reader, trained, "", adapter, writer, dtype=dtype, rounder=rounder, advance=lambda nbytes: None)

    with _companions(inputs) as files:
        info = write_model_directory(
            inputs.config.output / MODEL,
            family=inputs.family.name,
            source=files,
            write=write,
            parents=inputs.digests,
            rounding=lambda: RoundingInfo.of(inputs.config.export_rounding, rounder.account),
            overwrite=overwrite,
        )
    return info, rounder.account


def _adapter(inputs: TrainingInputs, trainable: Params) -> Adapter | None:
    """What was trained of linear layers, on the host."""
    lora, pairs = inputs.config.lora, distributed.on_host(take_adapters(trainable))
    return Adapter(pairs, lora.rank, lora.alpha, rslora=lora.rslora, dropout=lora.dropout) if pairs else None


def _export_adapter(inputs: TrainingInputs, adapter: Adapter | None, console: Console) -> None:
    config, spec = inputs.config, inputs.spec
    full = [f"parts.{part}" for part, mode in spec.parts.items() if mode == "full"]
    if spec.has_adapters and full:
        console.print(f"[yellow]no adapter/: it could not hold {' and '.join(full)}, trained in full; use {MODEL}/[/]")
    elif adapter is not None:
        table, abstract = inputs.family.weight_rules(inputs.sizes), inputs.family.abstract_params(inputs.sizes)
        if distributed.is_first():
            export_adapter(config.output / "adapter", adapter, table, abstract, overwrite=True)


def _asked_dtypes(inputs: TrainingInputs) -> Mapping[str, Any]:
    """Of each parameter, unless its update does not bear it."""
    given = inputs.config.export_dtype
    return inputs.stored if given in ("auto", "stored") else dict.fromkeys(inputs.stored, np.dtype(given))


def _before(inputs: TrainingInputs, dtypes: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What the parameters were that were trained in full and are to be narrowed, read from the model directory, by plain path."""
    spec, shardings = inputs.spec, flatten(inputs.spec.shardings(inputs.mesh))
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, inputs.stored[path], sharding=shardings[path])
        for path, leaf in spec.abstract.items()
        if spec.parts[path.split("/", 1)[0]] == "full" and np.dtype(dtypes[path]).itemsize < leaf.dtype.itemsize
    }
    return flatten(load_some_params(inputs.model_dir, unflatten(wanted))) if wanted else {}


def _measured(
    inputs: TrainingInputs, frozen: Params, trainable: Params, before: Mapping[str, Any], dtypes: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Account]:
    """The dtypes to store, and what that does to the update: `dtypes`, or float32 where that is left to us and rounding adds too much."""
    account = _account(inputs, frozen, trainable, before, dtypes)
    if inputs.config.export_dtype != "auto" or account.noise <= MOST_NOISE:
        return dtypes, account
    wide = dict.fromkeys(dtypes, np.dtype(np.float32))
    return wide, _account(inputs, frozen, trainable, before, wide)


def _account(inputs: TrainingInputs, frozen: Params, trainable: Params, before: Mapping[str, Any], dtypes: Mapping[str, Any]) -> Account:
    config, spec = inputs.config, inputs.spec

    def sums(frozen: Params, trainable: Params, before: Mapping[str, Any]) -> dict[str, Sums]:
        return merge_lora(join_params(frozen, trainable), config.lora.scale, dtypes, config.export_rounding, before)[1]

    everywhere = NamedSharding(inputs.mesh, PartitionSpec())
    found = jax.device_get(jax.jit(sums, out_shardings=everywhere)(frozen, trainable, before))
    account = Account()
    for path, kernel in found.items():
        shape = spec.plain[path].shape[-2:]
        account.add(kernel, int(np.prod(shape)), None if path in before else config.lora.rank, shape[0])
    return account


def _name(dtypes: Mapping[str, Any]) -> str:
    names = {np.dtype(dtype).name for dtype in dtypes.values()}
    return names.pop() if len(names) == 1 else "mixed"
