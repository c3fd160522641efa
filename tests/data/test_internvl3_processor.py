"""InternVL3's tokens and pixels are transformers' (-hf) and those of the owner's published preprocessing (original)."""

import itertools
import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from data_builders import INTERNVL_SPECIAL, INTERNVL_TEMPLATE, REAL, TEMPLATE, demonstrations, pairs, write_internvl
from PIL import Image
from transformers import AutoTokenizer, Qwen2Config
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor

from mede2_jax.config import UserError, to_yaml
from mede2_jax.data.dataset import open_dataset
from mede2_jax.data.internvl3 import InternVL3Processor
from mede2_jax.data.loader import make_loader
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.records import Demonstration, Message
from mede2_jax.data.rows import encode_demonstration
from mede2_jax.data.source import DataConfig
from mede2_jax.flags import parse

OWNER = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
TILE = 56
SIZES = {
    "square": (200, 200),
    "wide": (60, 400),
    "tall": (500, 70),
    "tiny": (3, 5),
    "huge": (1500, 2100),
    "thin": (2, 399),
    "tile": (56, 56),
}
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


def picture(height, width):
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(height).integers(0, 60, (height, width, 3))
    return Image.fromarray(((np.stack([rows, columns * 2, rows + columns], axis=-1) + noise) % 256).astype(np.uint8))


def messages(*turns):
    """Turns as (role, parts…), None for an image."""
    made = []
    for role, *parts in turns:
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        made.append(Message.model_validate({"role": role, "content": content}))
    return made


def tiles_of(processor, encoded):
    """[tiles, 3, size, size] from patches, by where they say they lie."""
    side, patch = processor.tiling.side, processor.tiling.patch_size
    tiles = np.full((len(encoded.patches) // side**2, 3, side * patch, side * patch), np.nan, dtype=np.float32)
    for number, (values, (row, column)) in enumerate(zip(encoded.patches, encoded.geometry.patch_positions, strict=True)):
        at = np.s_[number // side**2, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        tiles[at] = values.reshape(3, patch, patch)
    return tiles


def widened(processor, conversation, sizes):
    tokens = processor.chat.prompt(conversation)
    return np.repeat(tokens, processor.token_repeats(tokens, [processor.grid(*size) for size in sizes]))


def decode(processor, tokens):
    return processor.chat.tokenizer.decode(list(map(int, tokens)), skip_special_tokens=False)


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


def published_grid(width, height, fewest, most, size):
    """(columns, rows): of the grids nearest in shape, in order of area, the last whose area is below twice the image's."""
    grids = [grid for grid in itertools.product(range(1, most + 1), repeat=2) if fewest <= grid[0] * grid[1] <= most]
    distance = {grid: abs(width / height - grid[0] / grid[1]) for grid in grids}
    nearest = sorted((grid for grid in grids if distance[grid] == min(distance.values())), key=lambda grid: grid[0] * grid[1])
    fitting = [grid for grid in nearest[1:] if 2 * width * height > grid[0] * grid[1] * size**2]
    return fitting[-1] if fitting else nearest[0]


def published_pixels(image, fewest, most, size, thumbnail=True):
    """The owner's preprocessing: bicubic, cut in reading order, thumbnail, then (x / 255 - mean) / deviation in float32."""
    columns, rows = published_grid(*image.size, fewest, most, size)
    whole = image.resize((columns * size, rows * size), Image.Resampling.BICUBIC)
    tiles = [whole.crop((x * size, y * size, (x + 1) * size, (y + 1) * size)) for y in range(rows) for x in range(columns)]
    tiles += [image.resize((size, size), Image.Resampling.BICUBIC)] if thumbnail and len(tiles) > 1 else []
    values = torch.stack([torch.from_numpy(np.array(tile)).permute(2, 0, 1) for tile in tiles]).float() / 255
    mean, deviation = (torch.tensor(three).view(3, 1, 1) for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return ((values - mean) / deviation).numpy()


@pytest.mark.parametrize(("fewest", "most", "thumbnail"), [(1, 12, True), (1, 12, False), (1, 6, True), (2, 5, True), (1, 1, True)])
@pytest.mark.parametrize("size", SIZES)
def test_the_original_format_is_the_owners_preprocessing(tmp_path, size, fewest, most, thumbnail):
    limits = {"min_dynamic_patch": fewest, "max_dynamic_patch": most, "use_thumbnail": thumbnail}
    ours, image = InternVL3Processor.load(write_internvl(tmp_path, original=True, **limits)), picture(*SIZES[size])
    expected = published_pixels(image, fewest, most, TILE, thumbnail)
    assert ours.tiles(*SIZES[size]) == len(expected)
    assert np.array_equal(tiles_of(ours, ours.encode_image(image)), expected)


def test_the_owners_grid_for_every_shape_up_to_twelve_tiles(tmp_path):
    directory = write_internvl(tmp_path, original=True)
    for fewest, most in [(1, 12), (1, 6), (2, 12), (3, 7), (2, 2)]:
        ours = InternVL3Processor.load(directory, ProcessorOptions(min_tiles=fewest, max_tiles=most))
        shapes = {Fraction(*grid) for grid in itertools.product(range(1, most + 1), repeat=2) if fewest <= grid[0] * grid[1] <= most}
        ties = {(first + second) / 2 for first, second in itertools.combinations(shapes, 2)}
        for shape, scale in itertools.product(shapes | ties, (1, 5, 30, 200)):
            width, height = shape.numerator * scale, shape.denominator * scale
            columns, rows = published_grid(width, height, fewest, most, TILE)
            assert ours.tiles(height, width) == columns * rows + (columns * rows > 1), (width, height)


def test_geometry_of_tiles(internvl_processor):
    geometry, other = internvl_processor.geometry((12, 4)), internvl_processor.geometry((4, 4))
    assert geometry.patch_positions[:6].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    assert np.array_equal(geometry.patch_positions, np.tile(other.patch_positions, (3, 1)))
    assert geometry.window_start.tolist() == [0] * 16 + [16] * 16 + [32] * 16
    assert geometry.window_end.tolist() == [16] * 16 + [32] * 16 + [48] * 16
    assert all(value.dtype == np.int32 for value in vars(geometry).values())
    assert internvl_processor.patch_multiple == 16 and internvl_processor.position_axes == 1


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


@pytest.mark.parametrize("system_prompt", ["default", "none", 'Say "no" if \\ is in doubt.'])
def test_an_original_checkpoint_is_served_with_the_template_it_was_trained_with(system_prompt, tmp_path):
    """Its own tokenizer's template has another system prompt, or none."""
    directory, target = write_internvl(tmp_path / "model", original=True), tmp_path / "saved"
    ours = InternVL3Processor.load(directory, ProcessorOptions(system_prompt=system_prompt))
    ours.save(target)
    (target / "config.json").write_bytes((directory / "config.json").read_bytes())
    served = AutoTokenizer.from_pretrained(target, config=Qwen2Config(), trust_remote_code=False)
    turns = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "left"}, {"role": "user", "content": "sure?"}]
    for conversation in (turns[:1], turns, [{"role": "system", "content": "be brief"}, *turns]):
        expected = ours.chat.prompt([Message(**turn) for turn in conversation])
        text = served.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        assert served(text, add_special_tokens=False)["input_ids"] == expected.tolist()
    again = InternVL3Processor.load(target, ProcessorOptions(system_prompt=system_prompt))
    assert again.fingerprint == ours.fingerprint


def test_a_directory_saved_by_newer_transformers(internvl_directory, tmp_path):
    nested = {"image_processor": json.loads((internvl_directory / "preprocessor_config.json").read_text()), "image_seq_length": 4}
    directory = write_internvl(tmp_path / "new")
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps(nested))
    InternVL3Processor.load(directory, ProcessorOptions(crop_to_patches=True, max_tiles=5)).save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((directory / "config.json").read_text())
    assert InternVL3Processor.load(tmp_path / "saved").tiling.max_tiles == 5
    assert json.loads((tmp_path / "saved" / "processor_config.json").read_text())["image_processor"]["max_patches"] == 5


def test_the_original_format_keeps_its_options_where_its_readers_look(tmp_path):
    directory = write_internvl(tmp_path / "model", original=True)
    (directory / "preprocessor_config.json").unlink()  # the owner's code does not read it
    ours = InternVL3Processor.load(directory)
    assert (ours.tiling.min_tiles, ours.tiling.max_tiles, ours.tiling.thumbnail) == (1, 12, True)
    target = tmp_path / "saved"
    target.mkdir()
    config = (directory / "config.json").read_bytes()
    (target / "config.json").write_bytes(config)
    ours.save(target)
    assert (target / "config.json").read_bytes() == config
    InternVL3Processor.load(directory, ProcessorOptions(crop_to_patches=False)).save(target)
    changed = json.loads((target / "config.json").read_text())
    assert changed == json.loads(config) | {"dynamic_image_size": False, "max_dynamic_patch": 1}
    assert InternVL3Processor.load(target).tiling.max_tiles == 1
    (target / "config.json").write_bytes(config)  # a config.json from elsewhere does not undo what a run wrote
    assert InternVL3Processor.load(target).tiling.max_tiles == 1


def owners_text(*turns):
    """ChatML as the owner's `internvl2_5` conversation writes it."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


def test_the_original_prompt_is_the_owners(tmp_path):
    processor = InternVL3Processor.load(write_internvl(tmp_path, original=True))
    image = "<img><IMG_CONTEXT></img>"
    cases = [
        ([("user", "the scan")], [("system", OWNER), ("user", "the scan")]),
        ([("user", None, "the scan")], [("system", OWNER), ("user", f"{image}\nthe scan")]),
        ([("user", None, "\nthe scan")], [("system", OWNER), ("user", f"{image}\nthe scan")]),
        ([("user", None, None, "both")], [("system", OWNER), ("user", f"{image}\n{image}\nboth")]),
        ([("user", "first ", None, "\nthen ", None)], [("system", OWNER), ("user", f"first {image}\nthen {image}")]),
        ([("system", "be brief"), ("user", "x")], [("system", "be brief"), ("user", "x")]),
        (
            [("user", None, "x"), ("assistant", "y"), ("user", "z")],
            [("system", OWNER), ("user", f"{image}\nx"), ("assistant", "y"), ("user", "z")],
        ),
    ]
    for turns, expected in cases:
        assert decode(processor, processor.chat.prompt(messages(*turns))) == owners_text(*expected)
    response = processor.chat.response("an opacity")
    assert decode(processor, response) == "an opacity<|im_end|>"
    scored = processor.chat.demonstration(messages(("user", None, "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w")))
    assert decode(processor, scored.tokens[scored.scored]) == "y<|im_end|>w<|im_end|>"


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "<ref>the effusion</ref><box>[[10, 20, 300, 400]]</box>",
        "Where is <ref>the heart</ref>?",
        "<box>[[0, 0, 999, 999], [1, 2, 3, 4]]</box>",
        "<quad>[[1, 2, 3, 4, 5, 6, 7, 8]]</quad> and text",
        "<ref>a</ref><ref>b</ref>",
    ],
)
def test_regions_are_read_as_the_owner_writes_them(tmp_path, original, text):
    processor = InternVL3Processor.load(write_internvl(tmp_path, original=original))
    record = Demonstration(messages=messages(("user", None, text), ("assistant", text)), images=("a.png",))
    segment = encode_demonstration(record, processor, [processor.grid(56, 56)]).segments[0]
    assert decode(processor, segment.scored_target) == f"{text}<|im_end|>"
    marks = [mark for mark in ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>") if mark in text]
    assert {processor.chat.special_id(mark) for mark in marks} <= {int(token) for token in segment.scored_target}
    assert (processor.vllm_image, processor.vllm_chat_template is None) == (("<image>", False) if original else (None, True))


def test_a_template_that_knows_images_replaces_the_owners(tmp_path):
    directory = write_internvl(tmp_path, original=True)
    assert (directory / "chat_template.jinja").read_text() == TEMPLATE
    (directory / "chat_template.jinja").write_text(INTERNVL_TEMPLATE)
    processor = InternVL3Processor.load(directory)
    assert decode(processor, processor.chat.prompt(messages(("user", "x")))) == owners_text(("user", "x"))


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


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the released tokenizer is not at {REAL}")
@pytest.mark.parametrize("original", [False, True])
def test_the_released_vocabulary(tmp_path, original):
    """InternVL3's tokenizer is Qwen2.5-VL's with nine more tokens."""
    directory = write_internvl(tmp_path, original=original, tile_size=448)
    (directory / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (directory / name).write_bytes((REAL / name).read_bytes())
    settings = json.loads((REAL / "tokenizer_config.json").read_text()) | json.loads((directory / "tokenizer_config.json").read_text())
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    nine = {str(151665 + number): {"content": token, **added} for number, token in enumerate(INTERNVL_SPECIAL[-9:])}
    settings |= {"added_tokens_decoder": settings["added_tokens_decoder"] | nine, "tokenizer_class": "Qwen2Tokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = InternVL3Processor.load(directory)
    assert (ours.image_token_id, ours.chat.end_token_id, ours.pad_token_id) == (151667, 151645, 151643)
    conversation = messages(("user", None, "Is there naïve 12.5 mmol/L <think>?"))
    text = decode(ours, ours.chat.prompt(conversation)).replace("<IMG_CONTEXT>", "<IMG_CONTEXT>" * 256)
    assert text.count("<img><IMG_CONTEXT>") == text.count("<IMG_CONTEXT></img>\nIs there") == 1 and (OWNER in text) == original
    expected = AutoTokenizer.from_pretrained(REAL)
    expected.add_special_tokens({"additional_special_tokens": list(INTERNVL_SPECIAL[-9:])})
    assert widened(ours, conversation, [(448, 448)]).tolist() == expected(text)["input_ids"]


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    directory, marker = write_internvl(tmp_path / "model", original=True), tmp_path / "ran"
    (directory / "configuration_internvl_chat.py").write_text(f"open({str(marker)!r}, 'w')\nclass InternVLChatConfig: pass\n")
    program = f"from mede2_jax.data.internvl3 import InternVL3Processor\nInternVL3Processor.load({str(directory)!r})"
    done = subprocess.run([sys.executable, "-c", program], input="y\n" * 9, capture_output=True, text=True, check=True)
    assert not marker.exists() and done.stdout == done.stderr == ""


@pytest.mark.parametrize("original", [False, True])
def test_no_torch_is_needed(tmp_path, original):
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "from PIL import Image\n"
        "from mede2_jax.data.internvl3 import InternVL3Processor\n"
        f"p = InternVL3Processor.load({str(write_internvl(tmp_path, original=original))!r})\n"
        "print(p.encode_image(Image.new('RGB', (112, 56))).patches.shape, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(48, 588) False"
