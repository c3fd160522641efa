"""Eight host devices, set before JAX is imported, so that every sharding test runs everywhere."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def sample() -> Path:
    """The project's own sample data."""
    return ROOT / "data" / "sample"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The model directory of the embedded default: tiny, random, with a real tokenizer."""
    from mede2_jax import tiny

    return tiny.model_directory(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory) -> Path:
    """Where the processes of this session keep compiled programs."""
    return tmp_path_factory.mktemp("compilation-cache")
