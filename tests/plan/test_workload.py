"""The rows that are planned for are those that the loader would make of such examples."""

import numpy as np
import pytest

from mede2_jax.config import UserError
from mede2_jax.data.dataset import open_dataset
from mede2_jax.families import model_config
from mede2_jax.plan.config import PlanConfig
from mede2_jax.plan.workload import TEMPLATE_TOKENS, abstract_batch, workload
from mede2_jax.sizing.flops import contents
from mede2_jax.sizing.synthetic import write_records

EVEN = {"response_tokens": (120, 120), "image_pixels": (448, 448), "examples": 8}


def planned(model, **options):
    synthetic = {**EVEN, **options.pop("synthetic", {})}
    values = {"topology": "cpu:8", "model": model, "rows_per_step": 1, "synthetic": synthetic, "data": {"row_tokens": 2048}}
    return PlanConfig.model_validate({**values, **options})


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("stage", ["dpo", "sft"])
def test_contents_are_those_of_real_rows(stage, shared, tiny_model, tmp_path):
    family, sizes = model_config(tiny_model)
    config = planned(tiny_model, stage=stage, data={"row_tokens": 2048, "shared_prompt": shared})
    processor = family.load_processor(tiny_model, config.data)
    path = write_records(tmp_path, stage, config.synthetic, processor.chat.tokenizer)
    data = open_dataset(config.data.model_copy(update={"path": path}), stage, processor, show_progress=False)
    row = data.row(0, data.shape)
    real, work = contents({name: value[None, None] for name, value in row.items()}), workload(config, sizes)
    prompts = real.examples * (2 if stage == "dpo" and not shared else 1)
    assert work.held.examples == real.examples
    assert (work.held.patches, work.held.image_tokens) == (real.patches, real.image_tokens)
    assert (work.held.window_keys, work.held.image_keys) == (real.window_keys, real.image_keys)
    # The template's length is the family's own affair; a round number stands for it, and for the turn's end that is scored.
    assert abs(work.held.tokens - real.tokens) <= prompts * TEMPLATE_TOKENS
    assert work.held.scored == pytest.approx(real.scored, rel=0.03)
    assert work.held.keys_seen == pytest.approx(real.keys_seen, rel=0.12)
    assert (work.shape.tokens, work.shape.patch_dim, work.shape.position_axes) == (2048, data.shape.patch_dim, data.shape.position_axes)
    assert work.shape.responses == data.shape.responses
    assert work.shape.patches % processor.patch_multiple == 0
    assert work.shape.patches >= data.shape.patches


@pytest.mark.parametrize(
    ("pixels", "data", "tiles"),
    [
        (1, {}, 1),
        (2, {}, 5),
        (3, {"max_tiles": 12}, 10),
        (4, {"max_tiles": 4}, 5),
        (3, {"crop_to_patches": False}, 1),
        (1, {"min_tiles": 3}, 5),
    ],
)
def test_internvl_images_are_tiles(pixels, data, tiles, tiny_internvl):
    """A square image of so many tiles' sides."""
    family, sizes = model_config(tiny_internvl)
    side = pixels * sizes.tile_size
    config = planned(tiny_internvl, synthetic={"image_pixels": (side, side)}, data={"row_tokens": 8192, **data})
    processor = family.load_processor(tiny_internvl, config.data)
    work = workload(config, sizes)
    assert processor.tiles(side, side) == tiles
    assert work.shape.patch_dim == processor.patch_dim
    assert work.shape.position_axes == processor.position_axes == 1
    assert work.held.patches == work.held.examples * processor.patch_multiple * tiles
    assert work.held.image_tokens == work.held.examples * processor.tiling.tile_tokens * tiles


def test_shapes_are_those_of_a_row(tiny_model):
    _, sizes = model_config(tiny_model)
    config = planned(tiny_model, rows_per_step=2, accumulation=3)
    batch = abstract_batch(config, workload(config, sizes).shape)
    assert batch["tokens"].shape == (3, 2, 2048)
    assert batch["positions"].shape == (3, 2, 3, 2048)
    assert batch["patches"].dtype == np.float32


def test_an_example_that_fits_no_row(tiny_model):
    _, sizes = model_config(tiny_model)
    with pytest.raises(UserError, match=r"an example has \d+ tokens, data.row_tokens=256; raise it"):
        workload(planned(tiny_model, data={"row_tokens": 256}), sizes)


def test_texts_alone(tiny_model):
    _, sizes = model_config(tiny_model)
    work = workload(planned(tiny_model, synthetic={"images": 0}), sizes)
    assert (work.shape.patches, work.held.patches, work.image_share) == (0, 0, 0)
