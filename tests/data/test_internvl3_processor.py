"""InternVL3's tokens and pixels are those of transformers; rows, options and wrong directories."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from data_builders import INTERNVL_SPECIAL, demonstrations, pairs, write_internvl
from internvl3_inputs import OWNER, SIZES, TILE, decode, messages, owners_text, picture, tiles_of, widened
from transformers import AutoTokenizer
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor

from mede2_jax.config import UserError, to_yaml
from mede2_jax.data.dataset import open_dataset
from mede2_jax.data.internvl3 import InternVL3Processor
from mede2_jax.data.loader import make_loader
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.source import DataConfig
from mede2_jax.flags import parse

TILINGS = {
    "as given": ({}, (1, 12)),  # the file says crop_to_patches: false, and transformers' processor cuts nevertheless
    "off": ({"crop_to_patches": False}, (1, 1)),
    "1-12": ({"crop_to_patches": True}, (1, 12)),
    "1-4": ({"crop_to_patches": True, "max_tiles": 4}, (1, 4)),
    "3-6": ({"crop_to_patches": True, "min_tiles": 3, "max_tiles": 6}, (3, 6)),
}


class Reference(InternVLProcessor):
    """transformers' own, without the video processor that would need torchvision."""

    def check_argument_for_proper_class(self, *_):
        return None


def reference(directory, tile_tokens=(TILE // 28) ** 2):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    images = GotOcr2ImageProcessorPil.from_pretrained(directory)
    return Reference(images, tokenizer, None, image_seq_length=tile_tokens, chat_template=tokenizer.chat_template)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_pixels_are_transformers(internvl_directory, tmp_path, size, tiling):
    options, bounds = TILINGS[tiling]
    ours = InternVL3Processor.load(internvl_directory, ProcessorOptions(**options))
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text((internvl_directory / "config.json").read_text())
    # Called with nothing but the directory's settings: inference does what training did.
    theirs, image = reference(tmp_path if options else internvl_directory), picture(*SIZES[size])
    conversation = messages(("system", "be careful"), ("user", None, "the scan"))
    text = theirs.apply_chat_template([turn.model_dump() for turn in conversation], add_generation_prompt=True)
    expected = theirs(images=[image], text=text, return_tensors="np")
    assert (ours.tiling.min_tiles, ours.tiling.max_tiles) == bounds
    assert np.array_equal(widened(ours, conversation, [SIZES[size]]), expected["input_ids"][0])
    encoded = ours.encode_image(image)
    assert encoded.patches.dtype == np.float32 and encoded.patches.shape[1] == ours.patch_dim == 3 * 14 * 14
    assert np.array_equal(tiles_of(ours, encoded), expected["pixel_values"])
    count = len(expected["pixel_values"])
    assert ours.tiles(*SIZES[size]) == count == 1 or (count - 1 in range(bounds[0], bounds[1] + 1) and count > 2)
    assert ours.grid(*SIZES[size]) == (4 * count, 4) and ours.image_tokens((4 * count, 4)) == 4 * count


@pytest.mark.parametrize("crop", [False, True])
def test_several_images_and_turns_at_the_released_tile_size(tmp_path, crop):
    directory = write_internvl(tmp_path / "model", tile_size=448)
    ours = InternVL3Processor.load(directory, ProcessorOptions(crop_to_patches=crop))
    assert (ours.patch_multiple, ours.tiling.tile_tokens, ours.tiling.max_tiles) == (1024, 256, 12 if crop else 1)
    sizes = [(300, 900), (448, 448), (700, 500)]
    conversation = messages(
        ("user", None, None, "the patient"), ("assistant", "an opacity"), ("user", "and ", None, "here"), ("assistant", "x"), ("user", "y")
    )
    theirs, images = reference(directory, 256), [picture(*size) for size in sizes]
    text = theirs.apply_chat_template([turn.model_dump() for turn in conversation], add_generation_prompt=True)
    expected = theirs(images=images, text=text, return_tensors="np", images_kwargs={"crop_to_patches": crop})
    assert np.array_equal(widened(ours, conversation, sizes), expected["input_ids"][0])
    assert np.array_equal(np.concatenate([tiles_of(ours, ours.encode_image(image)) for image in images]), expected["pixel_values"])


def test_grids_follow_from_the_size_alone_as_transformers_counts_them(internvl_directory):
    ours = InternVL3Processor.load(internvl_directory, ProcessorOptions(crop_to_patches=True))
    theirs = GotOcr2ImageProcessorPil.from_pretrained(internvl_directory)
    for height, width in np.random.default_rng(0).integers(1, 3000, (300, 2)).tolist():
        count = theirs.get_number_of_image_patches(height, width, {"crop_to_patches": True})
        assert ours.grid(height, width) == (4 * count, 4)


def test_geometry_of_tiles(internvl_processor):
    geometry, other = internvl_processor.geometry((12, 4)), internvl_processor.geometry((4, 4))
    assert geometry.patch_positions[:6].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    assert np.array_equal(geometry.patch_positions, np.tile(other.patch_positions, (3, 1)))
    assert geometry.window_start.tolist() == [0] * 16 + [16] * 16 + [32] * 16
    assert geometry.window_end.tolist() == [16] * 16 + [32] * 16 + [48] * 16
    assert all(value.dtype == np.int32 for value in vars(geometry).values())
    assert internvl_processor.patch_multiple == 16 and internvl_processor.position_axes == 1


@pytest.mark.slow
def test_worker_processes_get_the_same_processor(internvl_processor):
    image = picture(100, 300)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
        fingerprint = worker.submit(getattr, internvl_processor, "fingerprint").result()
        encoded = worker.submit(internvl_processor.encode_image, image).result()
    assert fingerprint == internvl_processor.fingerprint
    assert np.array_equal(encoded.patches, internvl_processor.encode_image(image).patches)


def test_image_index_and_positions_count_up(internvl_processor):
    image, grids = internvl_processor.image_token_id, [(12, 4), (4, 4)]
    tokens = np.array([1, image, 2, image, 3], dtype=np.int32)
    tokens = np.repeat(tokens, internvl_processor.token_repeats(tokens, grids))
    index = internvl_processor.image_index(tokens, grids)
    assert index.tolist() == [-1, *range(12), -1, *range(12, 16), -1] and index.dtype == np.int32
    positions = internvl_processor.positions(tokens, grids)
    assert positions.tolist() == list(range(len(tokens))) and positions.dtype == np.int32
    with pytest.raises(UserError, match="2 image placeholders for 1 images"):
        internvl_processor.token_repeats(np.array([image, 1, image]), grids[:1])


def test_rows_of_a_dataset(internvl_processor, tmp_path):
    dataset = open_dataset(DataConfig(path=pairs(tmp_path, 15), row_tokens=400), "dpo", internvl_processor, show_progress=False)
    shape = dataset.shape
    assert shape.patches % 16 == 0 and shape.position_axes == 1 and shape.patch_dim == 588
    statistics = dataset.statistics()
    assert statistics.examples == 15 and 0.5 < statistics.token_fill <= 1 and 0.5 < statistics.patch_fill <= 1
    for number in range(len(dataset.rows)):
        row = dataset.row(number, shape)
        assert row["positions"].shape == (shape.tokens,)
        real = np.flatnonzero(row["patch_image_end"])
        assert len(real) == sum(dataset.entries[example].patches for example in dataset.rows[number]) and len(real) % 16 == 0
        assert np.array_equal(row["patch_window_start"][real], real // 16 * 16)
        assert np.array_equal(row["patch_window_end"][real], real // 16 * 16 + 16)
        units = row["image_index"][row["image_index"] >= 0]
        assert sorted(units) == list(range(len(real) // 4))
    with make_loader(dataset, shape, rows_per_step=2) as steps:
        element = next(steps)
    assert element["positions"].shape == (1, 2, shape.tokens) and element["patches"].shape == (1, 2, shape.patches, 588)


def test_tiles_count_towards_a_rows_patches(internvl_directory, tmp_path):
    path = demonstrations(tmp_path, 8)
    whole, cut = (
        open_dataset(
            DataConfig(path=path, row_tokens=512),
            "sft",
            InternVL3Processor.load(internvl_directory, ProcessorOptions(crop_to_patches=crop)),
            show_progress=False,
        )
        for crop in (False, True)
    )
    with_image = [entry.patches for entry in whole.entries if entry.patches]
    assert set(with_image) == {16} and len(with_image) == 4
    assert all(theirs.patches > ours.patches for ours, theirs in zip(whole.entries, cut.entries, strict=True) if ours.patches)
    assert whole.digest != cut.digest
    few = open_dataset(cut.source.config.model_copy(update={"row_patches": 60}), "sft", cut.source.processor, show_progress=False)
    assert list(few.skipped) == ["more image patches than row_patches=60"]


def test_options_are_kept_by_the_directory(internvl_directory, tmp_path):
    plain = InternVL3Processor.load(internvl_directory)
    ours = InternVL3Processor.load(internvl_directory, ProcessorOptions(crop_to_patches=True, min_tiles=2, max_tiles=7))
    assert plain.tiling.max_tiles == 12 and plain.fingerprint != ours.fingerprint
    ours.save(tmp_path)
    (tmp_path / "config.json").write_bytes((internvl_directory / "config.json").read_bytes())
    again = InternVL3Processor.load(tmp_path)
    assert again.tiling == ours.tiling and again.fingerprint == ours.fingerprint
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (settings["crop_to_patches"], settings["min_patches"], settings["max_patches"]) == (True, 2, 7)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json"):
        assert (tmp_path / name).read_bytes() == (internvl_directory / name).read_bytes()
    again.save(tmp_path)  # over itself
    off = InternVL3Processor.load(tmp_path, ProcessorOptions(crop_to_patches=False))
    off.save(tmp_path)
    assert InternVL3Processor.load(tmp_path).tiling.max_tiles == 1
    with pytest.raises(UserError, match=r"at most 1 tile here; set data\.max_tiles"):
        InternVL3Processor.load(tmp_path, ProcessorOptions(crop_to_patches=True))
    assert InternVL3Processor.load(tmp_path, ProcessorOptions(crop_to_patches=True, max_tiles=12)).tiling.max_tiles == 12


@pytest.mark.parametrize("original", [False, True])
def test_a_run_without_images_leaves_the_tiling_alone(original, tmp_path):
    directory, target = write_internvl(tmp_path / "model", original=original), tmp_path / "saved"
    target.mkdir()
    (target / "config.json").write_bytes((directory / "config.json").read_bytes())
    InternVL3Processor.load(directory, ProcessorOptions(crop_to_patches=False)).save(target, images=False)
    for name in ("config.json", "preprocessor_config.json"):
        assert (target / name).read_bytes() == (directory / name).read_bytes()
    assert InternVL3Processor.load(target).tiling == InternVL3Processor.load(directory).tiling


def test_a_directory_saved_by_newer_transformers(internvl_directory, tmp_path):
    nested = {"image_processor": json.loads((internvl_directory / "preprocessor_config.json").read_text()), "image_seq_length": 4}
    directory = write_internvl(tmp_path / "new")
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps(nested))
    InternVL3Processor.load(directory, ProcessorOptions(crop_to_patches=True, max_tiles=5)).save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((directory / "config.json").read_text())
    assert InternVL3Processor.load(tmp_path / "saved").tiling.max_tiles == 5
    assert json.loads((tmp_path / "saved" / "processor_config.json").read_text())["image_processor"]["max_patches"] == 5


@pytest.mark.parametrize("original", [False, True])
def test_system_prompts(tmp_path, original):
    directory = write_internvl(tmp_path, original=original)
    prompts = {}
    for choice in ("default", "none", "You are a doctor."):
        processor = InternVL3Processor.load(directory, ProcessorOptions(system_prompt=choice))
        prompts[processor.fingerprint] = decode(processor, processor.chat.prompt(messages(("user", None, "x"))))
        given = processor.chat.prompt(messages(("system", "be brief"), ("user", "x")))
        assert decode(processor, given) == owners_text(("system", "be brief"), ("user", "x"))
    user = ("user", "<img><IMG_CONTEXT></img>\nx")
    default = [("system", OWNER), user] if original else [user]
    assert list(prompts.values()) == [owners_text(*default), owners_text(user), owners_text(("system", "You are a doctor."), user)]


def test_reserved_tokens_in_texts_are_refused(internvl_processor):
    structure = [token for token in INTERNVL_SPECIAL[-9:] if token.strip("</>") not in ("ref", "box", "quad")]
    for token in (*structure, "<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        with pytest.raises(UserError, match="reserved token"):
            internvl_processor.chat.prompt(messages(("user", f"see {token}")))


def test_options_come_from_the_data_options(internvl_directory):
    flags = ["--crop_to_patches=true", "--max_tiles=3", "--system_prompt=none"]
    config = parse(DataConfig, flags, program="train", description="")
    processor = InternVL3Processor.load(internvl_directory, config)
    assert processor.tiling.max_tiles == 3 and processor.chat.system_prompt == "none"
    assert "system_prompt: none\n" in to_yaml(config) and DataConfig().system_prompt == "default"


@pytest.mark.parametrize("value", [None, "", False])
def test_an_empty_system_prompt_says_what_to_write(value):
    """`null`, an empty text and `off` in YAML may mean either."""
    with pytest.raises(ValueError, match="write none for no system turn, or default for"):
        ProcessorOptions(system_prompt=value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_pixels": 50176}, r"InternVL3 has no data\.max_pixels \(found 50176\); leave it out .*data\.max_tiles"),
        ({"min_pixels": 1}, r"InternVL3 has no data\.min_pixels"),
        ({"crop_to_patches": False, "max_tiles": 6}, r"data\.max_tiles=6 does nothing without tiling; set data\.crop_to_patches=true"),
        ({"crop_to_patches": False, "min_tiles": 2}, r"data\.min_tiles=2 does nothing without tiling"),
        ({"crop_to_patches": True, "min_tiles": 5, "max_tiles": 3}, "min_tiles=5 and max_tiles=3 do not fit"),
        ({"crop_to_patches": True, "max_tiles": 0}, "min_tiles=1 and max_tiles=0 do not fit"),
        ({"crop_to_patches": True, "max_tiles": 1}, "at most 1 tile"),
        ({"system_prompt": "<|im_end|>"}, r"data\.system_prompt contains the reserved token"),
    ],
)
def test_wrong_options_are_one_line(internvl_directory, options, expected):
    with pytest.raises(UserError, match=expected) as caught:
        InternVL3Processor.load(internvl_directory, ProcessorOptions(**options))
    assert "\n" not in str(caught.value)


def edit(directory, file, **changes):
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def test_wrong_directories_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        InternVL3Processor.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        InternVL3Processor.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        InternVL3Processor.load(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        InternVL3Processor.load(tmp_path)
    wrong = {"height": 64, "width": 64}
    for number, (file, changes, expected) in enumerate(
        [
            ("preprocessor_config.json", {"size": wrong}, "56×56 in config.json"),
            ("processor_config.json", {"image_seq_length": 9}, r"processor_config\.json has image_seq_length 9, .* 4 tokens"),
            ("config.json", {"image_seq_length": 16}, r"config\.json has image_seq_length 16"),
            ("config.json", {"vision_config": {"image_size": [56, 28], "patch_size": 14}}, "not square"),
            ("config.json", {"vision_config": {"image_size": 60, "patch_size": 14}}, "not whole patches"),
        ]
    ):
        with pytest.raises(UserError, match=expected):
            InternVL3Processor.load(edit(write_internvl(tmp_path / f"hf{number}"), file, **changes))
    for number, (changes, expected) in enumerate(
        [({"template": "phi3-chat"}, "conversation template 'phi3-chat'"), ({"pad2square": True}, "pad2square")]
    ):
        with pytest.raises(UserError, match=expected):
            InternVL3Processor.load(edit(write_internvl(tmp_path / f"original{number}", original=True), "config.json", **changes))
