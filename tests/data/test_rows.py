import numpy as np
import pytest
from PIL import Image

from mede2_jax.data.records import Demonstration, PreferencePair
from mede2_jax.data.rows import BatchShape, assemble_row, encode_demonstration, encode_pair


@pytest.fixture(params=["processor", "internvl_processor"], scope="module")
def processor(request):
    """Each family's; four patches are a unit in both."""
    return request.getfixturevalue(request.param)


SIZES = {"wide": (60, 300), "tall": (250, 90), "small": (56, 56)}


def pair(images=(), prompt="the patient", chosen="<think> a cyst </think>", rejected="fever"):
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
    return PreferencePair.model_validate(
        {"prompt": [{"role": "user", "content": content}], "images": images, "chosen": chosen, "rejected": rejected}
    )


def demonstration(images=()):
    content = [{"type": "text", "text": "see"}] + [{"type": "image"} for _ in images]
    turns = [("user", content), ("assistant", "it is a mass"), ("user", "sure"), ("assistant", "yes")]
    return Demonstration.model_validate({"messages": [{"role": role, "content": text} for role, text in turns], "images": images})


def grids(processor, record):
    return [processor.grid(*SIZES[name]) for name in record.images]


def encode(processor, record, shared=True):
    if isinstance(record, Demonstration):
        return encode_demonstration(record, processor, grids(processor, record))
    return encode_pair(record, processor, grids(processor, record), shared_prompt=shared)


def images_of(processor, record):
    made = []
    for name in record.images:
        height, width = SIZES[name]
        values = np.random.default_rng(len(name)).integers(0, 255, (height, width, 3), dtype=np.uint8)
        made.append(processor.encode_image(Image.fromarray(values)))
    return made


RECORDS = [
    pair(["wide", "small"]),
    demonstration(["tall"]),
    pair(chosen="x"),
    demonstration(),
    pair(["tall"], rejected="the lung shows an opacity " * 3),
]


def build(processor, records, shared=True, shape=None):
    encoded = [encode(processor, record, shared) for record in records]
    shape = shape or BatchShape(
        tokens=sum(example.token_count for example in encoded) + 7,
        patches=sum(example.patch_count for example in encoded) + 8,
        scored=sum(example.scored_count for example in encoded) + 3,
        responses=sum(len(example.roles) for example in encoded) + 2,
        patch_dim=processor.patch_dim,
        position_axes=processor.position_axes,
    )
    examples = [(index, example, images_of(processor, records[index])) for index, example in enumerate(encoded)]
    row = assemble_row(examples, shape, processor.pad_token_id)
    return row, encoded, shape


def seen_by(row, query):
    """What a query attends to, as a set: token, position, and the pixels behind an image token."""
    seen = []
    for key in range(row["key_start"][query], row["key_end"][query]):
        unit = row["image_index"][key]
        pixels = row["patches"][4 * unit : 4 * unit + 4].sum(dtype=np.float64) if unit >= 0 else None
        seen.append((int(row["tokens"][key]), tuple(row["positions"][..., key].ravel().tolist()), pixels))
    return sorted(seen, key=str)


def scored(row):
    """(response slot, target) -> what predicts it, in order."""
    return [
        (int(slot), int(target), int(row["tokens"][index]), seen_by(row, index))
        for index, target, slot in zip(row["scored_index"], row["scored_target"], row["scored_response"], strict=True)
        if slot >= 0
    ]


def test_shapes_types_and_padding(processor):
    row, encoded, shape = build(processor, RECORDS)
    tokens = sum(example.token_count for example in encoded)
    assert (
        row["tokens"].shape == (shape.tokens,) and row["positions"].shape == {3: (3, shape.tokens), 1: (shape.tokens,)}[shape.position_axes]
    )
    assert row["patches"].shape == (shape.patches, processor.patch_dim) and row["patches"].dtype == np.float32
    assert all(value.dtype == np.int32 for name, value in row.items() if name not in ("patches", "response_reference", "response_weight"))
    assert (row["tokens"][tokens:] == processor.pad_token_id).all()
    assert (row["key_end"][tokens:] == 0).all() and (row["key_start"][tokens:] == 0).all() and (row["image_index"][tokens:] == -1).all()
    assert (row["patch_window_end"][-8:] == 0).all() and (row["patch_image_end"][-8:] == 0).all() and (row["patches"][-8:] == 0).all()
    assert (
        (row["scored_response"][-3:] == -1).all() and (row["response_pair"][-2:] == -1).all() and (row["response_weight"][-2:] == 0).all()
    )
    assert row["response_pair"].tolist() == [0, 0, 1, 2, 2, 3, 4, 4, -1, -1]
    assert row["response_role"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, -1, -1]


def test_no_key_range_leaves_its_example(processor):
    row, encoded, _ = build(processor, RECORDS)
    at, patch_at = 0, 0
    for example in encoded:
        own = slice(at, at + example.token_count)
        assert (row["key_start"][own] >= own.start).all() and (row["key_end"][own] <= own.stop).all()
        index = np.arange(own.start, own.stop)
        assert (row["key_start"][own] <= index).all() and (index < row["key_end"][own]).all()
        units = row["image_index"][own]
        assert sorted(units[units >= 0]) == list(range(patch_at // 4, (patch_at + example.patch_count) // 4))
        at, patch_at = own.stop, patch_at + example.patch_count


def test_images_and_windows_are_ranges_around_their_patches(processor):
    row, encoded, _ = build(processor, RECORDS)
    count = sum(example.patch_count for example in encoded)
    index = np.arange(count)
    for name in ("window", "image"):
        start, end = row[f"patch_{name}_start"][:count], row[f"patch_{name}_end"][:count]
        assert (start <= index).all() and (index < end).all() and (end <= count).all()
        assert np.array_equal(start[start], start) and np.array_equal(end[start], end)
    assert (row["patch_image_start"][:count] <= row["patch_window_start"][:count]).all()
    assert (row["patch_window_end"][:count] <= row["patch_image_end"][:count]).all()
    sizes = np.unique(row["patch_image_start"][:count], return_counts=True)[1].tolist()
    assert sizes == [height * width for example in encoded for height, width in example.grids]


def test_pair_is_stored_reversed_around_its_prompt(processor):
    record = pair(["small"])
    row, (example,), _ = build(processor, [record])
    chosen, rejected = processor.chat.response(record.chosen), processor.chat.response(record.rejected)
    n, k = len(chosen), len(rejected)
    m = example.token_count - n - k
    assert np.array_equal(row["tokens"][:n], chosen[::-1])
    assert np.array_equal(row["tokens"][n + m : n + m + k], rejected)
    start, end = row["key_start"], row["key_end"]
    assert np.array_equal(start[: n + m + k], [*range(n), *[n] * (m + k)])
    assert np.array_equal(end[: n + m + k], [*[n + m] * n, *range(n + 1, n + m + k + 1)])
    last = row["positions"][..., n + m - 1].max()
    assert (row["positions"][..., :n] == last + np.arange(n, 0, -1)).all()
    assert (row["positions"][..., n + m : n + m + k] == last + np.arange(1, k + 1)).all()
    first = np.flatnonzero(row["scored_target"] == chosen[0])[0]
    assert row["scored_index"][first] == n + m - 1 and row["scored_index"][n] == n + m - 1
    assert np.array_equal(row["scored_target"][: n + k], np.concatenate([chosen, rejected]))
    assert np.array_equal(row["scored_response"][: n + k], [0] * n + [1] * k)


@pytest.mark.parametrize("record", [RECORDS[0], RECORDS[2], RECORDS[4]])
def test_shared_prompt_predicts_from_the_same_sight_as_separate_rows(processor, record):
    shared, _, _ = build(processor, [record])
    separate, example, _ = build(processor, [record], shared=False)
    assert len(example[0].segments) == 2
    assert scored(shared) == scored(separate)


def test_packed_predicts_from_the_same_sight_as_alone(processor):
    packed = scored(build(processor, RECORDS)[0])
    at, slots = 0, 0
    for record in RECORDS:
        row, (example,), _ = build(processor, [record])
        alone = [(slot + slots, *rest) for slot, *rest in scored(row)]
        assert packed[at : at + len(alone)] == alone
        at, slots = at + len(alone), slots + len(example.roles)
    assert at == len(packed)


def test_demonstration_scores_only_the_assistant(processor):
    record = demonstration(["wide"])
    row, (example,), _ = build(processor, [record])
    count = example.scored_count
    targets = processor.chat.tokenizer.decode(row["scored_target"][:count].tolist())
    assert targets == "it is a mass<|im_end|>yes<|im_end|>"
    assert np.array_equal(row["tokens"][row["scored_index"][:count] + 1], row["scored_target"][:count])
    assert (row["image_index"][row["scored_index"][:count] + 1] == -1).all()
    assert row["tokens"][example.token_count - 1] == processor.chat.end_token_id


def test_reference_goes_to_its_pair(processor):
    examples = [(index, encode(processor, RECORDS[index]), images_of(processor, RECORDS[index])) for index in (2, 0)]
    reference = np.arange(10, dtype=np.float32).reshape(5, 2)
    shape = BatchShape(2000, 2000, 200, 6, processor.patch_dim, processor.position_axes)
    row = assemble_row(examples, shape, processor.pad_token_id, reference)
    assert row["response_reference"].tolist() == [4, 5, 0, 1, 0, 0]
    assert row["response_pair"].tolist() == [2, 2, 0, 0, -1, -1]


def test_text_rows_need_no_patches(processor):
    row, _, _ = build(processor, [RECORDS[2], RECORDS[3]], shape=BatchShape(300, 0, 80, 3, processor.patch_dim, processor.position_axes))
    assert row["patches"].shape == (0, processor.patch_dim) and row["patch_positions"].shape == (0, 2)
    with pytest.raises(ValueError):
        build(processor, [RECORDS[2]], shape=BatchShape(10, 0, 80, 3, processor.patch_dim, processor.position_axes))


def test_union_of_shapes():
    assert BatchShape(1, 8, 3, 4, 7).union(BatchShape(5, 6, 1, 9, 7)) == BatchShape(5, 8, 3, 9, 7)
    assert BatchShape(1, 8, 3, 4, 7, 1).union(BatchShape(5, 6, 1, 9, 7, 1)).position_axes == 1
    with pytest.raises(AssertionError):
        BatchShape(1, 8, 3, 4, 7, 1).union(BatchShape(1, 8, 3, 4, 7, 3))
