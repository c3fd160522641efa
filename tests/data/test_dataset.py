import collections
import json

import numpy as np
import pytest
from data_builders import demonstrations, pairs, write_image, write_jsonl
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data import source
from mede2_jax.data.dataset import open_dataset, open_splits, split
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.qwen2_5_vl import Qwen2_5VLProcessor
from mede2_jax.data.source import DataConfig


def opened(processor, path, stage="dpo", **options):
    return open_dataset(DataConfig(path=path, **{"row_tokens": 256} | options), stage, processor, show_progress=False)


def test_every_example_is_in_one_row_and_the_shape_holds_them(processor, tmp_path):
    dataset = opened(processor, pairs(tmp_path, 24))
    assert len(dataset) == 24 and dataset.skipped == {} and dataset.ids[3] == "pair-3"
    assert sorted(example for row in dataset.rows for example in row) == list(range(24))
    shape = dataset.shape
    assert shape.tokens <= 256 and shape.patches % 64 == 0 and shape.scored % 64 == 0 and shape.responses % 2 == 0
    for number, examples in enumerate(dataset.rows):
        row = dataset.row(number, shape)
        assert row["response_pair"].tolist()[: 2 * len(examples) : 2] == list(examples)
        assert (row["key_end"] > 0).sum() == sum(dataset.entries[example].tokens for example in examples)
    statistics = dataset.statistics()
    assert statistics.examples == 24 and 0.5 < statistics.token_fill <= 1 and 0 < statistics.patch_fill <= 1


def test_demonstrations(processor, tmp_path):
    dataset = opened(processor, demonstrations(tmp_path, 9), stage="sft")
    row = dataset.row(0, dataset.shape)
    assert set(row["response_role"]) <= {2, -1} and row["scored_response"].max() + 1 == len(dataset.rows[0])


def test_without_packing_and_without_sharing(processor, tmp_path):
    path = pairs(tmp_path, 8)
    dataset = opened(processor, path, packing=False, shared_prompt=False)
    assert dataset.rows == tuple((i,) for i in range(8)) and dataset.shape.responses == 2
    assert dataset.shape.tokens < 256 and dataset.shape.tokens % 64 == 0
    shared = opened(processor, path, packing=False)
    assert all(ours.tokens > theirs.tokens for ours, theirs in zip(dataset.entries, shared.entries, strict=True))
    assert dataset.entries[2].patches == 2 * shared.entries[2].patches > 0


def test_text_only_has_no_patches(processor, tmp_path):
    dataset = opened(processor, pairs(tmp_path, 6, with_images=False))
    assert dataset.shape.patches == 0 and dataset.row(0, dataset.shape)["patches"].shape == (0, 1176)
    assert dataset.statistics().patch_fill == 0


def test_too_long_is_skipped_and_counted_or_an_error(processor, tmp_path):
    path = pairs(tmp_path, 12)
    full = opened(processor, path)
    limit = int(np.median([entry.tokens for entry in full.entries]))
    kept = opened(processor, path, row_tokens=limit)
    too_long = [entry.id for entry in full.entries if entry.tokens > limit]
    assert kept.skipped == {f"longer than row_tokens={limit}": too_long} and too_long
    assert [entry.id for entry in kept.entries] == [entry.id for entry in full.entries if entry.tokens <= limit]
    with pytest.raises(UserError, match=rf"pairs\.jsonl:\d+: longer than row_tokens={limit} \(\d+ tokens"):
        opened(processor, path, row_tokens=limit, too_long="error")
    patches = opened(processor, path, row_patches=40)
    assert list(patches.skipped) == ["more image patches than row_patches=40"]
    with pytest.raises(UserError, match="no examples left to use"):
        opened(processor, path, row_tokens=16)


def test_pairs_of_equal_responses_are_left_out_and_counted(processor, tmp_path):
    path = pairs(tmp_path, 6, with_images=False)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["rejected"] = records[1]["chosen"]
    records[4]["chosen"] = records[4]["rejected"] = "the patient " * 300  # also too long
    dataset = opened(processor, write_jsonl(path, records), too_long="error")
    assert dataset.skipped == {"chosen equals rejected": ["pair-1", "pair-4"]}
    assert dataset.statistics().skipped == {"chosen equals rejected": 2}
    assert dataset.ids == ["pair-0", "pair-2", "pair-3", "pair-5"]
    with pytest.raises(UserError, match=r"no examples left to use \(chosen equals rejected: 1\)"):
        opened(processor, write_jsonl(path, records[1:2]))


def test_a_row_reads_each_record_and_image_once(processor, tmp_path, monkeypatch):
    dataset = opened(processor, pairs(tmp_path, 6))
    calls = []
    for name in ("read_record", "read_image_bytes", "decode_image"):
        original = getattr(source, name)
        monkeypatch.setattr(source, name, lambda *args, name=name, original=original: calls.append((name, args)) or original(*args))
    row = next(number for number, examples in enumerate(dataset.rows) if {2, 5} & set(examples))
    dataset.row(row, dataset.shape)
    files = sum(len(dataset.record(example).images) for example in dataset.rows[row])
    counts = collections.Counter(name for name, _ in calls)
    assert files and counts["read_image_bytes"] == counts["decode_image"] == files
    assert counts["read_record"] == 2 * len(dataset.rows[row])  # half of them the line above


def test_digest_changes_with_whatever_changes_the_numbers(processor, model_directory, tmp_path):
    path = pairs(tmp_path, 6)
    digest = opened(processor, path).digest
    assert digest == opened(processor, path, verify_images=False).digest
    others = [opened(processor, path, **options).digest for options in ({"row_tokens": 300}, {"shared_prompt": False}, {"packing": False})]
    smaller = Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(max_pixels=28 * 28 * 6))
    others.append(opened(smaller, path).digest)
    others.append(opened(Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(system_prompt="Think.")), path).digest)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1].replace("fever", "rash", 1))
    others.append(opened(processor, path).digest)
    path.write_text("".join(lines))
    write_image(tmp_path / "images" / "1_0.png", 70, 60, seed=99)
    others.append(opened(processor, path).digest)
    assert len({digest, *others}) == 8


def test_split_follows_the_id_alone(processor, tmp_path):
    path = pairs(tmp_path, 40, with_images=False)
    train, held_out = split(opened(processor, path), 0.3)
    assert not set(train.ids) & set(held_out.ids) and len(train) + len(held_out) == 40 and 3 <= len(held_out) <= 22
    records = [json.loads(line) for line in path.read_text().splitlines()]
    again_train, again_held_out = split(opened(processor, write_jsonl(path, records[::-1][:30])), 0.3)
    assert set(again_train.ids) <= set(train.ids) and set(again_held_out.ids) <= set(held_out.ids)
    assert len(split(opened(processor, path), 1e-9)[1]) == 1
    with pytest.raises(UserError, match="leaves nothing to train on"):
        split(opened(processor, path), 0.9999)
    chosen = open_dataset(DataConfig(path=path), "dpo", processor, select=lambda id: id in held_out.ids, show_progress=False)
    assert set(chosen.ids) <= set(held_out.ids)


def test_open_splits(processor, tmp_path):
    (tmp_path / "held_out").mkdir()
    path, other = pairs(tmp_path, 12, with_images=False), pairs(tmp_path / "held_out", 4, with_images=False)
    train, held_out = open_splits(DataConfig(path=path, eval_fraction=0.25), "dpo", processor, show_progress=False)
    assert len(train) + len(held_out) == 12
    train, held_out = open_splits(DataConfig(path=path, eval_path=other), "dpo", processor, show_progress=False)
    assert (len(train), len(held_out)) == (12, 4)
    assert open_splits(DataConfig(path=path), "dpo", processor, show_progress=False)[1] is None


def test_ids_must_differ_but_copies_without_id_may_stay(processor, tmp_path):
    records = [json.loads(line) for line in pairs(tmp_path, 3, with_images=False).read_text().splitlines()]
    with pytest.raises(UserError, match=r"twice\.jsonl:4: field 'id': 'pair-1' was used before"):
        opened(processor, write_jsonl(tmp_path / "twice.jsonl", [*records, records[1]]))
    bare = [{name: value for name, value in record.items() if name != "id"} for record in [*records, records[1], records[1]]]
    dataset = opened(processor, write_jsonl(tmp_path / "copies.jsonl", bare))
    assert dataset.ids[3:] == [f"{dataset.ids[1]}~2", f"{dataset.ids[1]}~3"]
    train, held_out = split(dataset, 0.5)
    for side in (train, held_out):
        assert sum(dataset.ids[1] in id for id in side.ids) in (0, 3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"chosen": None}, r"pairs\.jsonl:2: field 'chosen'"),
        ({"images": []}, r"pairs\.jsonl:2: 1 image place in the messages but 0 files"),
        ({"images": ["none.png"]}, r"pairs\.jsonl:2: image 'none.png' not found"),
        ({"images": ["../outside.png"]}, r"pairs\.jsonl:2: image '../outside.png' lies outside"),
        ({"images": ["cut.png"]}, r"pairs\.jsonl:2: image 'cut.png' is truncated or damaged"),
        ({"images": ["big.png"]}, r"pairs\.jsonl:2: image 'big.png' has 900×800 = 720,000 pixels"),
        ({"images": ["thin.png"]}, r"pairs\.jsonl:2: image 'thin.png' .* longer than 200 times"),
        ({"chosen": "a <|image_pad|>"}, r"pairs\.jsonl:2: field 'chosen' contains the reserved token"),
    ],
)
def test_a_broken_record_or_image_is_one_line(processor, tmp_path, change, expected):
    folder = tmp_path / "data"
    folder.mkdir()
    path = pairs(folder, 3)
    write_image(tmp_path / "outside.png", 30, 30)
    write_image(folder / "big.png", 800, 900)
    write_image(folder / "thin.png", 4, 900)
    whole = write_image(folder / "whole.png", 200, 200).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1] |= change
    with pytest.raises(UserError, match=expected) as caught:
        opened(processor, write_jsonl(path, records), max_image_pixels=500_000)
    assert "\n" not in str(caught.value)


def test_other_user_errors(processor, tmp_path):
    with pytest.raises(UserError, match="no data file"):
        open_dataset(DataConfig(), "dpo", processor)
    with pytest.raises(UserError, match="SFT needs demonstrations"):
        opened(processor, pairs(tmp_path, 2), stage="sft")


def test_an_image_that_changes_after_indexing_is_noticed(processor, tmp_path):
    dataset = opened(processor, pairs(tmp_path, 6))
    write_image(tmp_path / "images" / "1_0.png", 300, 300)
    row = next(number for number, examples in enumerate(dataset.rows) if 1 in examples)
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: .* changed since the data were indexed"):
        dataset.row(row, dataset.shape)


@pytest.mark.parametrize("change", ["image", "text"])
def test_a_change_that_keeps_every_size_is_noticed(processor, tmp_path, change):
    path = pairs(tmp_path, 6)
    dataset = opened(processor, path)
    if change == "image":
        write_image(tmp_path / "images" / "1_0.png", 70, 60, seed=7)
    else:
        path.write_text(path.read_text().replace("reason 1", "reason 9"))
    row = next(number for number, examples in enumerate(dataset.rows) if 1 in examples)
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: .* changed since the data were indexed"):
        dataset.row(row, dataset.shape)


def test_sideways_images_of_every_format_keep_text_and_pixels_together(processor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    records = []
    for format in ("jpeg", "png", "tiff", "webp"):
        Image.new("RGB", (112, 56), "red").save(tmp_path / f"a.{format}", exif=exif)
        prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}]
        records.append({"id": format, "prompt": prompt, "images": [f"a.{format}"], "chosen": "A", "rejected": "B"})
    path = write_jsonl(tmp_path / "pairs.jsonl", records)
    for verify in (True, False):
        dataset = opened(processor, path, verify_images=verify)
        for number in range(4):
            assert dataset.example(number)[0].grids == ((8, 4),)


def test_a_record_of_another_format_than_the_one_asked_for_names_it(processor, tmp_path):
    text = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    image = {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, {"role": "assistant", "content": "A"}]}
    write_image(tmp_path / "a.png", 56, 56)
    path = write_jsonl(tmp_path / "d.jsonl", [text, image])
    with pytest.raises(UserError, match=r"d\.jsonl:2: .*this record looks like trl: try data\.format=trl\)"):
        opened(processor, path, stage="sft", format="mede2")
    assert len(opened(processor, path, stage="sft", format="trl")) == len(opened(processor, path, stage="sft")) == 2


@pytest.mark.parametrize("name", ["https://example.org/a.png", "data:image/png;base64,iVBORw0KGgo=", "file:///a.png"])
def test_image_parts_that_carry_no_path_are_refused(processor, tmp_path, name):
    prompt = [{"role": "user", "content": [{"type": "image", "image": name}, {"type": "text", "text": "Q"}]}]
    path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": prompt, "chosen": "A", "rejected": "B"}])
    with pytest.raises(UserError, match=r"d\.jsonl:1: image '.*' is not a file; download images and give their paths"):
        opened(processor, path)


def test_neighbours_formats_give_the_same_rows(processor, tmp_path):
    path = pairs(tmp_path, 6)
    ours = opened(processor, path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    sharegpt, trl = [], []
    for record in records:
        text = "<image>" * len(record["images"]) + record["prompt"][0]["content"][-1]["text"]
        answers = {name: record[name] for name in ("chosen", "rejected")}
        turns = {name: {"from": "gpt", "value": text} for name, text in answers.items()}
        sharegpt.append({"conversations": [{"from": "human", "value": text}], "images": record["images"]} | turns)
        lists = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
        trl.append({"prompt": record["prompt"], "images": record["images"]} | lists)
    (tmp_path / "sharegpt.json").write_text(json.dumps(sharegpt))
    for theirs in (opened(processor, tmp_path / "sharegpt.json"), opened(processor, write_jsonl(tmp_path / "trl.jsonl", trl))):
        assert theirs.rows == ours.rows and theirs.shape == ours.shape
        for number in range(len(ours.rows)):
            expected = ours.row(number, ours.shape)
            assert all(np.array_equal(value, expected[name]) for name, value in theirs.row(number, ours.shape).items())
