"""What a finished run gives out: `model/`, which is the policy that was trained, and `adapter/` in PEFT's format."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

from mede2_jax.models.lora import Params, base_path, join_params, merge_lora, take_adapters
from mede2_jax.parallel import distributed
from mede2_jax.rounding import MOST_NOISE, Account, Sums
from mede2_jax.train.inputs import TrainingInputs
from mede2_jax.train.run_directory import MODEL
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.model_directory import copy_files, load_some_params, write_model_directory
from mede2_jax.weights.model_info import RoundingInfo
from mede2_jax.weights.peft import Adapter, export_adapter


def export(inputs: TrainingInputs, frozen: Params, trainable: Params, console: Console) -> None:
    """Writes the merged model directory, and the adapters. The frozen parameters are used up: the run is over."""
    _export_adapter(inputs, trainable, console)
    how, asked = inputs.config.export_rounding, _asked_dtypes(inputs)
    before = _before(inputs, asked)
    dtypes, account = _measured(inputs, frozen, trainable, before, asked)
    shardings = flatten(inputs.spec.shardings(inputs.mesh))
    plain = {base_path(path): place for path, place in shardings.items() if not path.endswith(("/lora_a", "/lora_b"))}

    def merged(frozen: Params, trainable: Params, before: Mapping[str, Any]) -> Params:
        return merge_lora(join_params(frozen, trainable), inputs.config.lora.scale, dtypes, how, before)[0]

    # The merged kernels may take the place of the frozen ones.
    params = jax.jit(merged, out_shardings=unflatten(plain), donate_argnums=0)(frozen, trainable, before)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        copy_files(inputs.model_dir, files)
        # As it was used, pixel limits or tiling included, so that inference sees what training saw.
        inputs.processor.save(files, images=inputs.shape.patches > 0)
        write_model_directory(
            inputs.config.output / MODEL,
            family=inputs.family.name,
            source=files,
            params=params,
            parents=inputs.digests,
            rounding=lambda: RoundingInfo.of(how, account),
        )
    console.print(f"{MODEL}/ is {account.describe(_name(dtypes))}")


def _export_adapter(inputs: TrainingInputs, trainable: Params, console: Console) -> None:
    config, spec = inputs.config, inputs.spec
    full = [f"parts.{part}" for part, mode in spec.parts.items() if mode == "full"]
    if spec.has_adapters and full:
        console.print(f"[yellow]no adapter/: it could not hold {' and '.join(full)}, trained in full; use {MODEL}/[/]")
    elif spec.has_adapters:
        pairs = distributed.on_host(take_adapters(trainable))
        lora = config.lora
        adapter = Adapter(pairs, lora.rank, lora.alpha, rslora=lora.rslora, dropout=lora.dropout)
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
