"""A file of records that may end anywhere, and what its manifest is asked."""

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from mede2_jax.config import Config, UserError
from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.manifest import begun_otherwise, by_reason, differences, recorded_path


class Number(Config):
    value: int
    metadata: dict[str, Any] = pydantic.Field(default_factory=dict)


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


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "JSON nested too deeply"),
        (b'{"value": "\xff"}', "not UTF-8 text"),
        (b'{"value": %s}' % (b"9" * 5000), "a number of more than 4,300 digits"),
        (b'{"value": 1, "value": 2}', "'value' is given twice"),
        (b"{broken", "not valid JSON at column 2"),
        (b"[1]", "a record must be a JSON object"),
        (b'{"\x1b]0;title', "not valid JSON"),
    ],
)
def test_whatever_a_line_holds_is_one_line_that_names_it(tmp_path, line, fault):
    path = tmp_path / "numbers.jsonl"
    path.write_bytes(b'{"value": 1}\n' + line + b"\n")
    with OutputFile(path, "numbers") as file, pytest.raises(UserError) as error:
        list(file.whole_lines())
    told = str(error.value)
    assert f"{path}:2: " in told and fault in told and "use another --out" in told
    assert told.isprintable() and len(told) < 1000


def test_lines_after_a_place(tmp_path):
    path = tmp_path / "numbers.jsonl"
    with OutputFile(path, "numbers") as file:
        file.append([Number(value=1)])
        size = file.size
        file.append([Number(value=2), Number(value=3)])
        assert [raw["value"] for raw, _ in file.whole_lines(size)] == [2, 3]
        assert not list(file.whole_lines(file.size))


def test_a_record_that_cannot_be_written_is_one_line_and_nothing_of_it_is_written(tmp_path):
    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    path = tmp_path / "numbers.jsonl"
    with OutputFile(path, "numbers") as file:
        file.append([Number(value=1)])
        with pytest.raises(UserError, match=r"one of the numbers for .*numbers.jsonl cannot be written as JSON"):
            file.append([Number(value=2), Number(value=3, metadata={"deep": deep})])
    assert path.read_bytes() == b'{"value":1,"metadata":{}}\n'


def test_an_empty_file_is_not_left_behind(tmp_path):
    with OutputFile(tmp_path / "a" / "numbers.jsonl", "numbers") as file:
        assert file.is_empty
    assert not list((tmp_path / "a").iterdir())


def test_one_writer_at_a_time(tmp_path):
    with OutputFile(tmp_path / "n", "numbers") as file:
        file.append([Number(value=1)])
        with pytest.raises(UserError, match=r"another process is writing .*; wait for it or stop it, or use another --out, please"):
            OutputFile(tmp_path / "n", "numbers", ", please").__enter__()


def test_recorded_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "beside.jsonl").touch()
    file = tmp_path / "run" / "pairs.jsonl"
    assert recorded_path("here.jsonl", file) == Path("here.jsonl")
    assert recorded_path("/gone/beside.jsonl", file) == tmp_path / "run" / "beside.jsonl"
    assert recorded_path("/gone/none.jsonl", file) == Path("/gone/none.jsonl")


def test_a_recorded_path_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        recorded_path("x" * 100_000, tmp_path / "pairs.jsonl")
    assert "is no path (File name too long)" in str(error.value) and len(str(error.value)) < 500


def test_differences_of_what_others_wrote_are_shown_and_not_obeyed():
    (found,) = differences({"a\x1b[2J": "\x1b]0;title\x07" + "x" * 100_000}, {}, lambda _: False).values()
    assert found.isprintable() and len(found) < 400


def test_a_section_with_nothing_in_it_is_as_one_that_is_missing():
    assert differences({"vllm": {"extra": {}}}, {}, lambda _: False) == {}
    assert differences({"vllm": {"extra": {}}}, {"vllm": {"extra": {"a": 1}}}, lambda _: False) == {
        "vllm.extra.a": "vllm.extra.a: none then, 1 now"
    }


def test_a_line_names_some_of_very_many_differences():
    line = str(begun_otherwise(Path("o.jsonl"), [f"option{n}" for n in range(1000)]))
    assert "(option0; " in line and "; option7; and 992 more);" in line and "option8;" not in line


def test_differences_show_both_values_and_spare_what_may_change():
    then = {"a": 1, "b": {"c": [], "d": 2}, "gone": "x", "free": 1, "new": None}
    now = {"a": 1, "b": {"c": None, "d": 3}, "free": 2}
    found = differences(then, now, lambda name: name == "free")
    assert found == {"b.c": "b.c: none then, none now", "b.d": "b.d: 2 then, 3 now", "gone": "gone: x then, none now"}


def test_reasons_that_differ_in_numbers_are_one():
    assert by_reason([("took 3 s", 1), ("took 45 s", 2), ("other", 1)]) == {"took # s": 3, "other": 1}
