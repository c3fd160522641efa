"""A target of the fuzzer: a parser with good inputs, what changes them, and in which words it may refuse."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzz_mutators import Mutator

from mede2_jax.config import UserError

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TARGETS: dict[str, Callable[[], Target]] = {}


@dataclasses.dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    seeds: Sequence[bytes]
    mutate: Mutator
    run: Callable[[bytes], Any]
    """Takes the input, or raises one of `refusals`."""
    refusals: tuple[type[BaseException], ...] = (UserError,)


Made = tuple[Sequence[bytes], Mutator, Callable[[bytes], Any]]


def target(*refusals: type[BaseException], name: str = "") -> Callable[[Callable[[], Made]], Callable[[], Target]]:
    """Makes a target of a function that gives its seeds, its mutator and the parser; it is called once, when it is wanted."""

    def wrap(make: Callable[[], Made]) -> Callable[[], Target]:
        called = name or make.__name__

        @functools.cache
        def made() -> Target:
            return Target(called, *make(), refusals or (UserError,))

        TARGETS[called] = made
        return made

    return wrap


@functools.cache
def folder() -> Path:
    """A scratch folder of this process."""
    path = Path(tempfile.mkdtemp(prefix="mede2-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def written(name: str, data: bytes) -> Path:
    """The input as a file."""
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path
