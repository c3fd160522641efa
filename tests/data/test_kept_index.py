"""An index that is kept is the index, nothing is read again for it, and what has changed since is."""

import json
import os
import random
import re

import numpy as np
import pytest
from data_builders import demonstrations, pairs, write_image, write_jsonl
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.dataset import open_dataset
from mede2_jax.data.kept_index import KEPT, IndexFolder
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.qwen2_5_vl import Qwen2_5VLProcessor
from mede2_jax.data.source import DataConfig, Source


class Reads(list):
    """What was read of a file to index it."""


@pytest.fixture
def reads(monkeypatch):
    found, record, image = Reads(), Source.record, Source.check_image
    monkeypatch.setattr(Source, "record", lambda self, number: found.append(number) or record(self, number))
    monkeypatch.setattr(Source, "check_image", lambda self, number, name: found.append(name) or image(self, number, name))
    return found


@pytest.fixture
def opened(processor, tmp_path):
    def open_it(path, stage="dpo", folder=None, compare=True, **options):
        kept = IndexFolder(folder or tmp_path / "kept", compare)
        return open_dataset(DataConfig(path=path, **{"row_tokens": 256} | options), stage, processor, kept=kept, show_progress=False)

    return open_it


def same(first, second):
    return (first.entries, first.rows, first.skipped, first.digest) == (second.entries, second.rows, second.skipped, second.digest)


def test_the_second_start_reads_nothing_and_finds_the_same(opened, processor, tmp_path, reads):
    for path, stage in ((pairs(tmp_path / "p", 24), "dpo"), (demonstrations(tmp_path / "d", 9), "sft")):
        first = opened(path, stage)
        assert reads
        reads.clear()
        assert same(opened(path, stage), first) and not reads
        plain = open_dataset(DataConfig(path=path, row_tokens=256), stage, processor, show_progress=False)
        assert same(plain, first)
        reads.clear()


def test_copies_stacks_and_skipped_records_are_kept(opened, tmp_path, reads):
    folder = tmp_path / "data"
    write_image(folder / "a.png", 56, 56)
    frames = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in (0, 90)]
    frames[0].save(folder / "b.gif", save_all=True, append_images=frames[1:])
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "An opacity."}]
    records = [{"messages": turns, "images": [name]} for name in ("a.png", "a.png", "b.gif")]
    records.append({"messages": [{"role": "user", "content": "pain " * 400}, {"role": "assistant", "content": "No."}], "images": []})
    path = write_jsonl(folder / "d.jsonl", records)
    first = opened(path, "sft")
    reads.clear()
    again = opened(path, "sft")
    assert same(again, first) and not reads and any(id.endswith("~2") for id in again.ids)
    assert [entry.stacks for entry in again.entries] == [(), (), ("b.gif",)] and sum(map(len, again.skipped.values())) == 1


@pytest.mark.parametrize("change", ["image", "time", "gone", "record", "option", "format"])
def test_what_changed_is_read_again(opened, tmp_path, reads, change):
    path, options = pairs(tmp_path / "p", 6), {}
    first = opened(path)
    image = next((tmp_path / "p").rglob("*.png"))
    reads.clear()
    match change:
        case "image":
            Image.new("RGB", (56, 56), (1, 2, 3)).save(image)
        case "time":
            os.utime(image, ns=(1, 1))
        case "gone":
            image.unlink()
        case "record":
            path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
        case "option":
            options = {"shared_prompt": False}
        case "format":
            options = {"format": "mede2"}
    if change == "gone":
        with pytest.raises(UserError, match="not found"):
            opened(path, **options)
    else:
        assert same(opened(path, **options), first) == (change in ("time", "format"))
    assert reads


@pytest.mark.parametrize("options", [{"system_prompt": "Think."}, {"max_pixels": 28 * 28 * 6}])
def test_another_processor_has_an_index_of_its_own(opened, model_directory, tmp_path, options):
    path, other = pairs(tmp_path / "p", 6), Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(**options))
    first, folder = opened(path), IndexFolder(tmp_path / "kept")
    found = open_dataset(DataConfig(path=path, row_tokens=256), "dpo", other, kept=folder, show_progress=False)
    assert same(found, open_dataset(DataConfig(path=path, row_tokens=256), "dpo", other, show_progress=False))
    assert found.entries != first.entries and same(opened(path), first)


def test_one_process_looks_at_images_for_all(opened, tmp_path, reads):
    path = pairs(tmp_path / "p", 6)
    first = opened(path)
    os.utime(next((tmp_path / "p").rglob("*.png")), ns=(1, 1))
    reads.clear()
    assert same(opened(path, compare=False), first) and not reads


def damages(content):
    rng = random.Random(0)
    yield b""
    yield content[: len(content) // 2]
    yield b"PK\x03\x04" + content[40:]
    for _ in range(40):
        at = rng.randrange(len(content))
        yield content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


def test_what_is_damaged_is_made_anew_or_not_believed(opened, tmp_path):
    """A bit that was flipped shows by the archive's own sums; where nothing shows, nothing is wrong."""
    path = pairs(tmp_path / "p", 6)
    first = opened(path)
    (kept,) = (tmp_path / "kept").iterdir()
    content = kept.read_bytes()
    for damaged in damages(content):
        kept.write_bytes(damaged)
        assert same(opened(path), first)


@pytest.mark.parametrize("at", [4, 6, 8, 28, 30])
def test_an_archive_of_another_kind_is_made_anew(opened, tmp_path, at):
    """Versions, flags and methods of compression that nobody here knows."""
    path = pairs(tmp_path / "p", 6)
    first = opened(path)
    (kept,) = (tmp_path / "kept").iterdir()
    content = kept.read_bytes()
    for value in (1, 99, 255):
        kept.write_bytes(b"".join(sign + part[: at - 4] + bytes([value]) + part[at - 3 :] for sign, part in headers(content)))
        assert same(opened(path), first)


def headers(content):
    """The pieces of an archive, each after the sign that it begins with."""
    for part in re.split(rb"(?=PK[\x01\x03\x05][\x02\x04\x06])", content)[1:]:
        yield part[:4], part[4:]


def test_objects_are_not_unpickled(opened, tmp_path):
    path = pairs(tmp_path / "p", 6)
    first = opened(path)
    (kept,) = (tmp_path / "kept").iterdir()
    with np.load(kept) as file:
        arrays = dict(file)
    np.savez(kept, **arrays | {"record": np.array([print] * 6, object)})
    assert same(opened(path), first)


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(opened, tmp_path):
    (tmp_path / "file").write_text("")
    path = pairs(tmp_path / "p", 6)
    assert len(opened(path, folder=tmp_path / "file" / "kept")) == 6
    assert (tmp_path / "file").read_text() == ""


def test_few_are_kept_and_nothing_else_is_left(opened, tmp_path):
    (tmp_path / "d").mkdir()
    for number in range(KEPT + 3):
        path = write_jsonl(tmp_path / f"{number}.jsonl", [json.loads(demonstrations(tmp_path / "d", 1).read_text()) | {"id": f"{number}"}])
        opened(path, "sft", image_root=tmp_path / "d")
    assert len(list((tmp_path / "kept").iterdir())) == KEPT and all(one.suffix == ".npz" for one in (tmp_path / "kept").iterdir())
