import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from data_builders import REAL, write_processor
from PIL import Image
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as reference
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mede2_jax.config import UserError
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.processor_files import describe_images
from mede2_jax.data.qwen2_5_vl import Qwen2_5VLProcessor, image_geometry, mrope_positions

GRIDS = [(8, 8), (6, 10), (2, 2), (4, 34), (18, 6), (16, 24), (10, 10)]


@pytest.mark.parametrize("window_size", [56, 84, 112, 168])
@pytest.mark.parametrize("grids", [[grid] for grid in GRIDS] + [GRIDS[:3], GRIDS])
def test_windows_and_positions_are_transformers(grids, window_size):
    grid_thw = torch.tensor([(1, *grid) for grid in grids])
    window_index, cu_window = reference.get_vision_window_index(grid_thw, spatial_merge_size=2, window_size=window_size, patch_size=14)
    positions = reference.get_vision_position_ids(grid_thw, 2).reshape(-1, 4, 2)[window_index].reshape(-1, 2)
    unit_at, patch_at = 0, 0
    orders, inverses, bounds, ours_positions = [], [], set(), []
    for grid in grids:
        geometry = image_geometry(grid, 2, window_size // 28)
        units, patches = grid[0] * grid[1] // 4, grid[0] * grid[1]
        orders.append(geometry.unit_order + unit_at)
        inverses.append(geometry.unit_index + unit_at)
        bounds |= set((geometry.window_start + patch_at).tolist()) | set((geometry.window_end + patch_at).tolist())
        assert (geometry.window_start <= np.arange(patches)).all() and (np.arange(patches) < geometry.window_end).all()
        ours_positions.append(geometry.patch_positions)
        unit_at, patch_at = unit_at + units, patch_at + patches
    assert np.array_equal(np.concatenate(orders), window_index.numpy())
    assert np.array_equal(np.concatenate(inverses), torch.argsort(window_index).numpy())
    assert sorted(bounds) == cu_window.tolist()
    assert np.array_equal(np.concatenate(ours_positions), positions.numpy())


@pytest.fixture(scope="module")
def reference_model():
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 300,
    }
    with torch.device("meta"):
        return reference.Qwen2_5_VLModel(Qwen2_5_VLConfig(vision_config=vision, text_config=text))


@pytest.mark.parametrize("grids", [[], [(8, 8)], [(6, 10), (4, 34)], [(2, 2), (18, 6), (6, 10)]])
def test_positions_are_transformers(reference_model, grids):
    generator = np.random.default_rng(len(grids))
    pieces = [np.zeros(generator.integers(1, 9), dtype=int)]
    for height, width in grids:
        pieces += [np.ones(height * width // 4, dtype=int), np.zeros(generator.integers(1, 9), dtype=int)]
    is_image = np.concatenate(pieces)
    grid_thw = torch.tensor([(1, *grid) for grid in grids]) if grids else None
    expected, _ = reference_model.get_rope_index(torch.zeros(1, len(is_image), dtype=torch.long), torch.tensor(is_image)[None], grid_thw)
    ours = mrope_positions(is_image.astype(bool), grids, 2)
    assert ours.dtype == np.int32 and np.array_equal(ours, expected[:, 0].numpy())


@pytest.mark.parametrize("size", [(28, 28), (100, 61), (61, 100), (300, 500), (1000, 40), (17, 17), (333, 334)])
def test_patches_and_grids_are_transformers(processor, model_directory, size):
    height, width = size
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    expected = Qwen2VLImageProcessorPil.from_pretrained(model_directory)(image, return_tensors="np")
    grid = processor.grid(height, width)
    assert (1, *grid) == tuple(expected["image_grid_thw"][0])
    encoded = processor.encode_image(image)
    assert encoded.patches.dtype == np.float32 and encoded.patches.shape == (grid[0] * grid[1], processor.patch_dim)
    raster = encoded.patches.reshape(-1, 4, processor.patch_dim)[encoded.geometry.unit_index].reshape(-1, processor.patch_dim)
    assert np.array_equal(raster, expected["pixel_values"])
    assert processor.image_tokens(grid) * 4 == len(raster)


def test_image_index_finds_each_units_own_place(processor):
    pad, grids = processor.image_token_id, [(6, 10), (2, 2), (18, 6)]
    tokens = np.array([1, pad, 2, pad, pad, 3], dtype=np.int32)
    tokens = np.repeat(tokens, processor.token_repeats(tokens, grids))
    index = processor.image_index(tokens, grids)
    assert (index[tokens != pad] == -1).all()
    assert sorted(index[tokens == pad]) == list(range(15 + 1 + 27))
    first = processor.geometry(grids[0])
    assert np.array_equal(first.unit_order[index[1:16]], np.arange(15))
    with pytest.raises(UserError, match="2 image placeholders for 3 images"):
        processor.token_repeats(np.array([pad, 1, pad]), grids)


def test_pixel_limits_are_taken_saved_and_used_by_transformers(model_directory, tmp_path):
    ours = Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(min_pixels=28 * 28 * 16, max_pixels=28 * 28 * 64))
    assert (ours.min_pixels, ours.max_pixels) == (12544, 50176)
    assert ours.grid(1000, 1000) == (16, 16)
    ours.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((model_directory / "config.json").read_text())
    again = Qwen2_5VLProcessor.load(tmp_path / "saved")
    assert (again.min_pixels, again.max_pixels) == (12544, 50176)
    assert again.fingerprint == ours.fingerprint != Qwen2_5VLProcessor.load(model_directory).fingerprint
    image = Image.new("RGB", (1000, 1000))
    theirs = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "saved")(image, return_tensors="np")
    assert theirs["image_grid_thw"].tolist() == [[1, 16, 16]]
    settings = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert settings["max_pixels"] == settings["size"]["longest_edge"] == 50176
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "saved" / name).read_bytes() == (model_directory / name).read_bytes()
    ours.save(tmp_path / "saved")  # over itself


def test_a_directory_saved_by_newer_transformers(model_directory, tmp_path):
    nested = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor": json.loads((model_directory / "preprocessor_config.json").read_text()),
    }
    directory = write_processor(tmp_path / "new")
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps(nested))
    ours = Qwen2_5VLProcessor.load(directory, ProcessorOptions(max_pixels=28 * 28 * 64))
    ours.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((directory / "config.json").read_text())
    assert Qwen2_5VLProcessor.load(tmp_path / "saved").max_pixels == 50176
    assert json.loads((tmp_path / "saved" / "processor_config.json").read_text())["image_processor"]["max_pixels"] == 50176


def test_wrong_directories_are_user_errors(model_directory, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        Qwen2_5VLProcessor.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        Qwen2_5VLProcessor.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        Qwen2_5VLProcessor.load(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        Qwen2_5VLProcessor.load(tmp_path)
    for low in (2**40 + 1, 10**30, 10**400):  # more than can be counted with
        with pytest.raises(UserError, match=f"max_pixels={str(low)[:20]}.* min_pixels <= 1099511627776"):
            Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(min_pixels=low, max_pixels=low))
    for high in (2**40 + 1, 10**30, 10**400):
        assert Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(max_pixels=high)).max_pixels == 2**40
    with pytest.raises(UserError, match="min_pixels=9999999 and max_pixels=100352"):
        Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(min_pixels=9999999))
    with pytest.raises(
        UserError, match=r"Qwen2\.5-VL has no data\.max_tiles \(found 6\); leave it out .*data\.min_pixels, data\.max_pixels"
    ):
        Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(max_tiles=6))
    with pytest.raises(UserError, match="longer than 200 times"):
        Qwen2_5VLProcessor.load(model_directory).grid(5, 5000)
    other = write_processor(tmp_path / "other", patch_size=16)
    with pytest.raises(UserError, match="patch_size"):
        Qwen2_5VLProcessor.load(other)


def test_no_torch_is_needed(model_directory):
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "from PIL import Image\n"
        "from mede2_jax.data.qwen2_5_vl import Qwen2_5VLProcessor\n"
        f"p = Qwen2_5VLProcessor.load({str(model_directory)!r})\n"
        "print(p.encode_image(Image.new('RGB', (56, 84))).patches.shape, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(24, 1176) False"


def test_the_released_processor(real_processor):
    assert real_processor.patch_dim == 1176 and real_processor.window_units == 4
    assert real_processor.min_pixels == 3136 and real_processor.max_pixels == 512 * 784
    assert Qwen2_5VLProcessor.load(REAL).max_pixels == 12845056


@pytest.mark.parametrize(
    ("nested", "differing"),
    [
        ({"max_pixels": 50_176, "size": {"shortest_edge": 3136, "longest_edge": 50_176}}, "max_pixels"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0.5], "min_pixels": 784}, "image_std, min_pixels"),
        ({"image_processor_type": "Qwen2VLImageProcessorFast", "rescale_factor": 0.5}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_image_settings_that_lie_in_two_files_are_told_where_they_differ(tmp_path, nested, differing):
    directory = write_processor(tmp_path)
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    inner = {} if nested is None else {"image_processor": settings | nested}
    (directory / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor", **inner}))
    line = describe_images(directory)
    assert line == "" if not differing else line.endswith(f"preprocessor_config.json differs in {differing}")
    # what counts is what transformers loads
    loaded, theirs = Qwen2_5VLProcessor.load(directory).image_processor, Qwen2VLImageProcessorPil.from_pretrained(directory)
    assert (loaded.image_mean, loaded.image_std) == (theirs.image_mean, theirs.image_std)
    assert loaded.size["longest_edge"] == theirs.size["longest_edge"] == (nested or {}).get("max_pixels", 100_352)
