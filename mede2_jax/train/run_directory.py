"""The run directory: whose it is, when it may be resumed or replaced, and what is written before training.

`manifest.json` marks a directory as a run. It holds the inputs by digest, and every record that was left out and why.
Files are replaced in one step, so that a kill at any moment leaves a run that can be resumed. One process at a time holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError, to_yaml
from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign, load_checked
from mede2_jax.outputs.file import write_whole
from mede2_jax.train.config import TrainConfig
from mede2_jax.weights.run_checkpoint import MANIFEST
from mede2_jax.yaml_text import parse_yaml

CONFIG, MODEL, LOCK = "config.yaml", "model", ".lock"
PATHS = ("model", "adapter", "data.path", "data.eval_path", "data.image_root")
"""Options that name a file or a folder: two spellings of one place are the same, from whichever folder."""
FOLDER = "folder"
"""Of the manifest: where the command ran, from which its relative paths start."""

FREE_TO_CHANGE = (
    "output",
    "resume",
    "overwrite",
    "tracking",
    "log_every",
    "checkpoint",
    "export",
    "export_dtype",
    "export_rounding",
    "mesh",
    "frozen_layers",
    "data.workers",
    "data.buffer",
    "data.verify_images",
)
"""Options that may differ when a run is resumed: they change its numbers not at all, or (a mesh, how layers are held) by rounding only."""


class _Part(Foreign):
    """Of a manifest: the training or the evaluation data."""

    digest: str | None = None
    examples: int | None = None


class _Where(Foreign):
    """Of a manifest: where the run began."""

    folder: str | None = None


class _Begun(Foreign):
    """Of a manifest: what the run began with."""

    digests: Any
    data: dict[str, _Part]


def is_finished(config: TrainConfig) -> bool:
    """Whether the run to be resumed has nothing left to do.

    Raises:
        UserError: It was another config's run.
    """
    if not (config.resume and (config.output / MANIFEST).exists() and (config.output / MODEL).exists()):
        return False
    _check_same_config(config)
    return True


def check_run_directory(config: TrainConfig, model_dir: Path) -> None:
    """Refuses to touch a run unless told to resume it with the same config, or to overwrite it; changes nothing.

    Raises:
        UserError: As said; or the directory is no run, is in use, or holds what the run reads.
    """
    output = config.output
    if output.is_symlink() and config.overwrite:
        raise UserError(f"{output} is a link, and --overwrite does not replace links; use --output={output.resolve()}")
    if output.exists() and not output.is_dir():
        raise UserError(f"output {str(output)!r} is a file; choose a directory")
    if output.exists() and any(path.name != LOCK for path in output.iterdir()):
        with _held(output):  # a run that goes on there is noticed before the model and the data are opened
            _check_may_continue(config, model_dir)


@contextlib.contextmanager
def open_run_directory(config: TrainConfig, manifest: Mapping[str, Any]) -> Iterator[None]:
    """Makes the run directory and writes manifest and config, or takes up a run that is resumed; holds it while inside.

    With `overwrite`, what was there goes first: it is renamed away before it is deleted. All is checked once more under the
    lock: opening the data takes minutes, in which another process may have begun or ended a run there.

    Raises:
        UserError: As `check_run_directory`; or the model or the data are not those that the run began with.
    """
    output, model_dir = config.output, Path(manifest["model"])
    if config.overwrite:
        removed = output.with_name(f".{output.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)  # left by a process that was killed while it deleted
        if output.exists():
            with _held(output):
                _check_may_continue(config, model_dir)
                output.rename(removed)
            shutil.rmtree(removed)
    output.mkdir(parents=True, exist_ok=True)
    with _held(output):
        if any(path.name != LOCK for path in output.iterdir()):
            _check_may_continue(config.model_copy(update={"overwrite": False}), model_dir)
        if (output / CONFIG).exists():
            _check_same_inputs(output, manifest)
        else:
            write_whole(output / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
            # Not how it was started: a config that said "overwrite" would delete this run when it is used again.
            write_whole(output / CONFIG, to_yaml(config.model_copy(update={"resume": False, "overwrite": False})))
        yield


def _check_may_continue(config: TrainConfig, model_dir: Path) -> None:
    """There is something in the run directory: may it be resumed, or replaced?"""
    output = config.output
    if not (config.resume or config.overwrite):
        on = "--overwrite to start over" if (output / MODEL).exists() else "--resume to continue it, --overwrite to start over"
        raise UserError(f"{output} already exists; use {on}, or another --output")
    if not (output / MANIFEST).exists():
        raise UserError(f"{output} is not a run directory (no {MANIFEST}), and is not touched; choose another output")
    if config.overwrite:
        _check_inputs_stay(config, model_dir)
    elif (output / MODEL).exists():
        raise UserError(f"{output} has been finished meanwhile; there is nothing to do")
    else:
        _check_same_config(config)


def _check_inputs_stay(config: TrainConfig, model_dir: Path) -> None:
    """Deleting the old run must not delete what the new one reads."""
    output, options = config.output.resolve(), _flat(config.model_dump())
    inputs = {name: options[name] for name in PATHS} | {"model": model_dir}
    for name, path in inputs.items():
        if path is not None and path.resolve().is_relative_to(output):
            raise UserError(f"--overwrite would delete {name}={path}, which this run reads; choose another --output")


def _check_same_config(config: TrainConfig) -> None:
    saved = config.output / CONFIG
    if not saved.exists():
        return  # killed between manifest and config: nothing was trained yet
    before = _flat(_read_config(saved))
    now, folder = _flat(config.model_dump(mode="json")), _began_in(config.output)
    differing = [
        f"{shown(name)}: {shown(str(before.get(name)), 200)} then, {shown(str(now.get(name)), 200)} now"
        for name in sorted(before.keys() | now.keys())
        if not _free(name) and not _same(name, before.get(name), now.get(name), folder)
    ]
    if differing:
        raise UserError(
            f"cannot resume {config.output} with another config ({shown('; '.join(differing), 1000)}); resume with the same one, "
            "or use another --output"
        )


def _read_config(saved: Path) -> dict[str, Any]:
    """The config that a run was started with; it may be of a version that had other options."""
    try:
        found = parse_yaml(saved.read_text(encoding="utf-8")) or {}
    except (ValueError, OSError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{saved} is damaged, so nobody knows what the run was told; start a new --output")
    return found


def _check_same_inputs(output: Path, manifest: Mapping[str, Any]) -> None:
    """What the run began with must still be what its files hold now."""
    try:
        before = load_checked(output / MANIFEST, _Begun)
        digests, data = before.digests, before.data
    except UserError:
        raise UserError(f"{output / MANIFEST} is damaged, so nobody knows what the run began with; start a new --output") from None
    changed = [] if digests == manifest["digests"] else [f"{manifest['model']} holds another model or adapter"]
    for name, now in manifest["data"].items():
        then = data.get(name, _Part())
        if then.digest != now["digest"]:
            counts = f"{then.examples} examples then, {now['examples']} now"
            changed.append(f"{now['path']} ({name}), its images or the processor's files were changed ({counts})")
    if changed:
        raise UserError(
            f"cannot resume {output}: since it began, {'; '.join(changed)}; bring back what it began with, or use another --output"
        )


@contextlib.contextmanager
def _held(output: Path) -> Iterator[None]:
    """Holds the run directory; the lock dies with its holder."""
    with (output / LOCK).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(output) from None
        except OSError:
            pass  # a file system without locks
        # Whoever replaced the directory since this file was opened holds another one.
        if not (output / LOCK).exists() or not os.path.samestat(os.fstat(handle.fileno()), (output / LOCK).stat()):
            raise _in_use(output)
        yield


def _in_use(output: Path) -> UserError:
    return UserError(f"another process is training in {output}; wait for it or stop it, or use another --output")


def _began_in(output: Path) -> Path:
    """The folder that a run's relative paths start from; this one, where its manifest does not say."""
    try:
        return Path(load_checked(output / MANIFEST, _Where).folder or ".")
    except UserError:  # damaged: whoever compares the inputs says so
        return Path()


def _same(name: str, before: Any, now: Any, folder: Path) -> bool:
    """Whether an option is as it was. A path may be the same from the folder of then, or from this one: all may have been moved
    together. What is in the files is compared besides."""
    if name not in PATHS or before is None or now is None:
        return bool(before == now)
    return Path(now).resolve() in ((folder / str(before)).resolve(), Path(str(before)).resolve())


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _free(name: str) -> bool:
    return any(name == free or name.startswith(free + ".") for free in FREE_TO_CHANGE)
