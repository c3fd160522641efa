"""The run directory: whose it is, when it may be resumed or replaced, and what is written before training.

`manifest.json` marks a directory as a run. It holds the inputs by digest, and every record that was left out and why.
Files are replaced in one step, so that a kill at any moment leaves a run that can be resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mede2_jax.config import UserError, to_yaml
from mede2_jax.train.config import TrainConfig

CONFIG, MANIFEST, MODEL = "config.yaml", "manifest.json", "model"

FREE_TO_CHANGE = (
    "output",
    "resume",
    "overwrite",
    "tracking",
    "log_every",
    "checkpoint",
    "mesh",
    "data.workers",
    "data.buffer",
    "data.verify_images",
)
"""Options that may differ when a run is resumed: they do not change its numbers (a mesh does so by rounding only)."""


def check_run_directory(config: TrainConfig, model_dir: Path) -> None:
    """Refuses to touch a run unless told to resume it with the same config, or to overwrite it; changes nothing.

    Raises:
        UserError: As said; or the directory is no run, or holds what the run reads.
    """
    output = config.output
    if output.exists() and not output.is_dir():
        raise UserError(f"output {str(output)!r} is a file; choose a directory")
    if not output.exists() or not any(output.iterdir()):
        return
    if not (config.resume or config.overwrite):
        raise UserError(f"{output} already exists; use --resume to continue it, --overwrite to start over, or another --output")
    if not (output / MANIFEST).exists():
        raise UserError(f"{output} is not a run directory (no {MANIFEST}), and is not touched; choose another output")
    if config.overwrite:
        _check_inputs_stay(config, model_dir)
        return
    if (output / MODEL).exists():
        raise UserError(f"{output} is finished (it has {MODEL}/); use --overwrite to start over, or another --output")
    _check_same_config(config)


def prepare_run_directory(config: TrainConfig, manifest: Mapping[str, Any]) -> None:
    """Makes the run directory and writes manifest and config, or leaves those of a run that is resumed.

    With `overwrite`, what was there goes first: it is renamed away before it is deleted.
    """
    output = config.output
    if config.overwrite and output.exists():
        removed = output.with_name(f".{output.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)
        output.rename(removed)
        shutil.rmtree(removed)
    output.mkdir(parents=True, exist_ok=True)
    if not (output / CONFIG).exists():
        write_whole(output / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        # Not how it was started: a config that said "overwrite" would delete this run when it is used again.
        write_whole(output / CONFIG, to_yaml(config.model_copy(update={"resume": False, "overwrite": False})))


def write_whole(path: Path, text: str) -> None:
    """Replaces a file in one step: it has the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _check_inputs_stay(config: TrainConfig, model_dir: Path) -> None:
    """Deleting the old run must not delete what the new one reads."""
    output = config.output.resolve()
    data = config.data
    for name, path in (
        ("model", model_dir),
        ("adapter", config.adapter),
        ("data.path", data.path),
        ("data.eval_path", data.eval_path),
        ("data.image_root", data.image_root),
    ):
        if path is not None and path.resolve().is_relative_to(output):
            raise UserError(f"--overwrite would delete {name}={path}, which this run reads; choose another --output")


def _check_same_config(config: TrainConfig) -> None:
    saved = config.output / CONFIG
    if not saved.exists():
        return  # killed between manifest and config: nothing was trained yet
    before = _flat(yaml.safe_load(saved.read_text(encoding="utf-8")) or {})
    now = _flat(config.model_dump(mode="json"))
    differing = [
        f"{name}: {before.get(name)} then, {now.get(name)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not _free(name)
    ]
    if differing:
        raise UserError(
            f"cannot resume {config.output} with another config ({'; '.join(differing)}); resume with the same one, or use another --output"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _free(name: str) -> bool:
    return any(name == free or name.startswith(free + ".") for free in FREE_TO_CHANGE)
