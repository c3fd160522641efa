"""vLLM's plugin: the load format `orbax` reads a model directory, and an adapter that would do nothing is refused.

vLLM calls `register` in each of its processes (entry point group `vllm.general_plugins`). `params/` is opened with tensorstore
and goes through the family's weight table into the model's own `load_weights`, tensor by tensor under the released names: there
vLLM fuses and slices them, for tensor parallelism too. There is no JAX in vLLM's environment, and no torch in the trainer's:
torch and vLLM are imported inside functions only.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mede2_jax.config import UserError, counted
from mede2_jax.families import FAMILIES, model_config
from mede2_jax.foreign import one_line
from mede2_jax.tree import unflatten
from mede2_jax.weights.model_info import PARAMS, read_info
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.table import expected
from mede2_jax.weights.transfer import Whole, whole_tensors

LOAD_FORMAT = "orbax"
LOG_MARK = "mede2_jax:"
"""What the line of the log begins with that says why a server cannot start."""

logger = logging.getLogger("vllm.mede2_jax")  # below vLLM's own logger, so that it is formatted and written as vLLM's lines are


@functools.cache
def register() -> None:
    """Adds the load format and the check of adapters to vLLM, once a process."""
    for family in FAMILIES:
        family.prepare_vllm()
        _prefer_pil(family.image_processors)
    _register_loader()
    _check_adapters()


def stored_tensors(directory: Path, finish: Callable[[np.ndarray], Whole]) -> Iterator[tuple[str, Whole]]:
    """The tensors of a model directory under their released names, each whole, as stored.

    Args:
        directory: The model directory.
        finish: Makes of an array, of any strides, what is given out; threads call it.

    Raises:
        UserError: It is not a model directory, of another format version, or damaged; or its parameters are not those of its
            family's weight table.
    """
    read_info(directory)
    family, config = model_config(directory)
    reader = ParamReader(directory / PARAMS)
    table = family.weight_rules(config)
    # The shapes are those stored: what vLLM builds from config.json has to fit them.
    entries = expected(table, unflatten(reader.infos), table.layouts[0])
    return whole_tensors(reader, entries, finish)


def unreached(adapter: Collection[str], modules: Collection[str], packed: Mapping[str, Collection[str]]) -> list[str]:
    """The modules of an adapter that no module of the running model would take.

    Args:
        adapter: Names of the modules the adapter holds, as vLLM calls them.
        modules: Names of the modules that can take an adapter.
        packed: Of these, the fused ones, and which modules each is made of.
    """
    reached = (set(modules) - set(packed)).union(*(packed[name] for name in modules if name in packed))
    return sorted(set(adapter) - reached)


def _prefer_pil(image_processors: Collection[str]) -> None:
    """vLLM would resize images by torchvision; Pillow's arithmetic, which training uses, differs from it in the last bits of a pixel."""
    from transformers.models.auto import image_processing_auto

    image_processing_auto.DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS.extend(image_processors)


def _register_loader() -> None:
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    class OrbaxLoader(BaseModelLoader):
        """Loads a model directory."""

        def download_model(self, model_config: Any) -> None:
            """Nothing to do: it is a directory."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            """Fills the model's parameters."""
            with _one_line_in_the_log(f"cannot load {model_config.model!r}"):
                _load(model, Path(model_config.model))

    register_model_loader(LOAD_FORMAT)(OrbaxLoader)


def _load(model: Any, directory: Path) -> None:
    import torch

    began, nbytes = time.perf_counter(), 0

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal nbytes
        for name, tensor in stored_tensors(directory, _tensor):
            nbytes += tensor.nbytes
            yield name, tensor

    filled = _hollow(model)
    loaded = model.load_weights(tensors())
    # A sum is not a number if one of its terms is not, and takes a tenth of the time of asking each.
    empty = [name for name, parameter in filled.items() if parameter.detach().sum().isnan()]
    missing = sorted({*empty, *(set(filled) - set(loaded if loaded is not None else filled))})
    if missing:
        raise UserError(
            f"{directory}: {counted(len(missing), 'parameter')} of vLLM's model not (fully) set or not a number, first {missing[0]!r}; "
            "is config.json this model's, and did training stay finite?"
        )
    seconds = time.perf_counter() - began
    logger.info("Loaded %.2f GB from %s in %.2f s (load format %s)", nbytes / 1e9, directory, seconds, LOAD_FORMAT)


def _hollow(model: Any) -> dict[str, Any]:
    """Fills the parameters with not-a-number, so that one which is set in part only (a fused one, a slice) shows."""
    import torch

    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(float("nan"))
    return parameters


def _tensor(array: np.ndarray) -> Any:
    """In C order: torch transposes several times as fast as NumPy, and faster here than where the parameter is set."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:  # which torch knows, but not from NumPy
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).contiguous()
    return torch.from_numpy(array).contiguous()


def _check_adapters() -> None:
    """Wraps what reads an adapter: vLLM serves one whose names match nothing as the bare base model, without a word."""
    from vllm.distributed import get_pp_group
    from vllm.lora.worker_manager import WorkerLoRAManager

    load = WorkerLoRAManager._load_adapter

    @functools.wraps(load)
    def load_checked(self: Any, request: Any) -> Any:
        with _one_line_in_the_log(f"cannot serve adapter {request.lora_name!r}"):
            adapter = load(self, request)
            manager = self._adapter_manager
            left = unreached(adapter.loras, manager.modules, manager.packed_modules)
            # A stage of a pipeline holds some of the layers only.
            if not adapter.loras or (left and get_pp_group().world_size == 1):
                raise UserError(_without_effect(Path(request.lora_path), len(adapter.loras), left))
            logger.info("Adapter %r acts on all %d modules it holds", request.lora_name, len(adapter.loras))
            return adapter

    WorkerLoRAManager._load_adapter = load_checked


def _without_effect(path: Path, held: int, left: list[str]) -> str:
    if not held:
        return f"{path} holds no LoRA modules; is it the adapter of a run?"
    return (
        f"{len(left)} of the {counted(held, 'LoRA module')} in {path} would have no effect, first {left[0]!r}, which is the name of no "
        "module of this model that takes one; is this the adapter's base? (the vision tower's need --enable-tower-connector-lora)"
    )


@contextlib.contextmanager
def _one_line_in_the_log(what: str) -> Iterator[None]:
    """Says why in one line that can be found, before vLLM prints its processes' tracebacks."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        logger.error("%s %s: %s", LOG_MARK, what, one_line(reason))
        raise
