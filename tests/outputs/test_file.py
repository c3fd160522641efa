"""A file of records that may end anywhere, and what its manifest is asked."""

import json
from pathlib import Path

import pytest

from mede2_jax.config import Config, UserError
from mede2_jax.outputs.file import OutputFile, write_whole
from mede2_jax.outputs.manifest import by_reason, differences, image_root, manifest_path, read_manifest, recorded_path


class Number(Config):
    value: int


def test_wherever_a_file_is_cut_the_whole_lines_are_kept(tmp_path):
    path = tmp_path / "numbers.jsonl"
    with OutputFile(path, "numbers") as file:
        file.append(Number(value=value) for value in range(30))
    whole = path.read_bytes()
    for cut in range(1, len(whole) + 1):
        path.write_bytes(whole[:cut])
        with OutputFile(path, "numbers") as file:
            values = [raw["value"] for raw, _ in file.whole_lines()]
            torn = file.cut_torn()
            assert (values, torn) == ([*range(whole[:cut].count(b"\n"))], cut - whole[:cut].rfind(b"\n") - 1)
            file.append([Number(value=99)])
        assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [*values, 99]


def test_a_torn_line_longer_than_a_block_is_found(tmp_path):
    path = tmp_path / "numbers.jsonl"
    path.write_bytes(b'{"value":1}\n' + b"x" * 200_000)
    with OutputFile(path, "numbers") as file:
        assert file.cut_torn() == 200_000
    assert path.read_bytes() == b'{"value":1}\n'


def test_an_empty_file_is_not_left_behind(tmp_path):
    with OutputFile(tmp_path / "a" / "numbers.jsonl", "numbers") as file:
        assert file.is_empty
    assert not list((tmp_path / "a").iterdir())


def test_one_writer_at_a_time(tmp_path):
    with OutputFile(tmp_path / "n", "numbers") as file:
        file.append([Number(value=1)])
        with pytest.raises(UserError, match=r"another process is writing .*; wait for it or stop it, or use another --out, please"):
            OutputFile(tmp_path / "n", "numbers", ", please").__enter__()


def test_image_root(tmp_path):
    file = tmp_path / "a.jsonl"
    assert image_root(file, None) == tmp_path and image_root(file, Path("x")) == Path("x")
    (tmp_path / "images").mkdir()
    for images, root in [
        ({"root": str(tmp_path / "images")}, tmp_path / "images"),
        ({"root": "/gone"}, tmp_path),
        ({}, tmp_path),
        ([], tmp_path),
    ]:
        write_whole(manifest_path(file), json.dumps({"images": images}))
        assert image_root(file, None) == root
    write_whole(manifest_path(file), "{")
    with pytest.raises(UserError, match=r"cannot read .*a.jsonl.manifest.json"):
        read_manifest(file)
    write_whole(manifest_path(file), "[]")
    with pytest.raises(UserError, match=r"is no manifest"):
        read_manifest(file)


def test_recorded_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "beside.jsonl").touch()
    file = tmp_path / "run" / "pairs.jsonl"
    assert recorded_path("here.jsonl", file) == Path("here.jsonl")
    assert recorded_path("/gone/beside.jsonl", file) == tmp_path / "run" / "beside.jsonl"
    assert recorded_path("/gone/none.jsonl", file) == Path("/gone/none.jsonl")


def test_differences_show_both_values_and_spare_what_may_change():
    then = {"a": 1, "b": {"c": [], "d": 2}, "gone": "x", "free": 1, "new": None}
    now = {"a": 1, "b": {"c": None, "d": 3}, "free": 2}
    found = differences(then, now, lambda name: name == "free")
    assert found == {"b.c": "b.c: none then, none now", "b.d": "b.d: 2 then, 3 now", "gone": "gone: x then, none now"}


def test_reasons_that_differ_in_numbers_are_one():
    assert by_reason([("took 3 s", 1), ("took 45 s", 2), ("other", 1)]) == {"took # s": 3, "other": 1}
