import pytest
from data_builders import REAL, write_internvl, write_processor

from mede2_jax.data.internvl3 import InternVL3Processor
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.qwen2_5_vl import Qwen2_5VLProcessor


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    return write_processor(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def processor(model_directory):
    return Qwen2_5VLProcessor.load(model_directory)


@pytest.fixture(scope="session")
def internvl_directory(tmp_path_factory):
    return write_internvl(tmp_path_factory.mktemp("internvl"))


@pytest.fixture(scope="session")
def internvl_processor(internvl_directory):
    return InternVL3Processor.load(internvl_directory, ProcessorOptions(crop_to_patches=True, max_tiles=6))


@pytest.fixture(scope="session")
def real_processor():
    if not REAL.is_dir():
        pytest.skip(f"the released tokenizer is not at {REAL}")
    return Qwen2_5VLProcessor.load(REAL, ProcessorOptions(max_pixels=512 * 28 * 28))
