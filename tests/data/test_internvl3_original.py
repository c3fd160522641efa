"""InternVL3's original checkpoints: the owner's preprocessing, prompt and files."""

import itertools
import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from data_builders import INTERNVL_SPECIAL, INTERNVL_TEMPLATE, REAL, TEMPLATE, write_internvl
from internvl3_inputs import OWNER, SIZES, TILE, decode, messages, owners_text, picture, tiles_of, widened
from PIL import Image
from transformers import AutoTokenizer, Qwen2Config

from mede2_jax.data.internvl3 import InternVL3Processor
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.records import Demonstration, Message
from mede2_jax.data.rows import encode_demonstration


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


@pytest.mark.slow
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
        "左肺<ref>结节</ref><box>[[1, 2, 3, 4]]</box>。",
        "</ref> before <ref>",
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_code_of_a_checkpoint_is_never_run(tmp_path):
    directory, marker = write_internvl(tmp_path / "model", original=True), tmp_path / "ran"
    (directory / "configuration_internvl_chat.py").write_text(f"open({str(marker)!r}, 'w')\nclass InternVLChatConfig: pass\n")
    program = f"from mede2_jax.data.internvl3 import InternVL3Processor\nInternVL3Processor.load({str(directory)!r})"
    done = subprocess.run([sys.executable, "-c", program], input="y\n" * 9, capture_output=True, text=True, check=True)
    assert not marker.exists() and done.stdout == done.stderr == ""


@pytest.mark.slow
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
