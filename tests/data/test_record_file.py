"""Files of records: lines and lists at random, in blocks, and files that are none."""

import copy
import json
import os
import tracemalloc

import pytest
from data_builders import write_jsonl

from mede2_jax.config import UserError
from mede2_jax.data import record_file
from mede2_jax.data.record_file import RecordFile


def test_record_file_reads_lines_at_random(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"n": 0, "t": "ü"}\n\n  \n{"n": 1}\r\n{"n": 2}'.encode())
    file = RecordFile(path)
    assert [file[i]["n"] for i in (2, 0, 1)] == [2, 0, 1]
    assert [file.where(i) for i in range(3)] == [f"{path}:1", f"{path}:4", f"{path}:5"]


def test_record_file_reads_a_json_list(tmp_path):
    items = [{"n": 0, "t": "ü]," * 3}, {"n": 1, "x": [1, {"y": []}]}, {"n": 2}]
    for indent in (None, 2):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(items, indent=indent, ensure_ascii=False), encoding="utf-8")
        file = RecordFile(path)
        assert [file[i] for i in range(3)] == items
        assert file.where(2) == f"{path}:{1 if indent is None else 15} (item 3)"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 20])
def test_a_list_is_read_in_blocks_of_any_size(block, bom, indent, tmp_path, monkeypatch):
    """Characters, numbers, escapes and blanks all are cut somewhere; places and bytes stay right."""
    monkeypatch.setattr(record_file._Window, "BLOCK", block)
    items = [{"n": 123456, "t": "größer 肺 🫁"}, {"t": 'a "quoted\\ text', "x": [1.5e3, {}]}, {"肺": ""}, {"n": 4}]
    path = tmp_path / "a.json"
    path.write_bytes(bom + b" \n" + json.dumps(items, indent=indent, ensure_ascii=False).encode() + b"\n ")
    file = RecordFile(path)
    assert [file[number] for number in range(4)] == items
    lines = path.read_text("utf-8-sig").splitlines()
    wanted = [2] * 4 if indent is None else [number for number, line in enumerate(lines, start=1) if line == " {" or line == " {},"]
    assert [file.where(number) for number in range(4)] == [f"{path}:{line} (item {n})" for n, line in enumerate(wanted, start=1)]
    whole = path.read_text("utf-8")
    for cut, said in ((whole[: whole.rindex("4")] + "4 5}", "found '5}'"), (whole[: whole.rindex("]")], "found the end of the file")):
        path.write_text(cut, "utf-8")
        with pytest.raises(UserError) as raised:
            RecordFile(path)
        with pytest.raises(json.JSONDecodeError) as expected:
            json.loads(cut.removeprefix("\ufeff"))
        place = f"{path}:{expected.value.lineno} (item 4): not valid JSON at column {expected.value.colno}: expecting ',' "
        assert str(raised.value).startswith(place) and str(raised.value).endswith(said)
    path.write_text(whole, "utf-8")
    data = path.read_bytes()
    place = data.index("肺".encode()) + 1
    path.write_bytes(data[:place] + b"\xff" + data[place:])
    with pytest.raises(UserError, match=rf"a.json:\d+: not UTF-8 text \(byte {place - 1} of the file\)"):
        RecordFile(path)


@pytest.mark.parametrize("text", ["肺" * 5000, "🫀" * 4000, "a" * 15000, "\n" * 8000, '"[{' * 3000], ids=lambda text: ascii(text[:3]))
def test_a_list_is_never_whole_in_memory(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join([json.dumps({"t": text}, ensure_ascii=False)] * 2000) + "]", "utf-8")
    tracemalloc.start()
    assert len(RecordFile(path)) == 2000
    assert tracemalloc.get_traced_memory()[1] < 12 << 20 < 24_000_000 < path.stat().st_size
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"n": 1}\n{"n": \n',
            ":2: not valid JSON at column 6: expecting value, found the end of the line; a record is one object on one line",
        ),
        ('{"n": "x}\n', ":1: not valid JSON at column 7: unterminated string, found '\"x}'"),
        ('{"n": "x\ty"}\n', ":1: not valid JSON at column 9: invalid control character, found '\\ty\"}'"),
        ('{"n": 1} {"n": 2}\n', ":1: not valid JSON at column 10: extra data, found '{\"n\": 2}'"),
        ('{"n": 1}\n[1]\n', ":2: a record must be a JSON object, found a list"),
        ("", "no records"),
        ("[]", "no records"),
        ('[{"n": 1},\n {"n": ]', ":2 (item 2): not valid JSON at column 8: expecting value, found ']'"),
        ('[{"n": 1} {"n": 2}]', ":1 (item 1): not valid JSON at column 11: expecting ',' or ']' after the item, found '{\"n\": 2}]'"),
        ('[{"n": 1}', "expecting ',' or ']' after the item, found the end of the file"),
        ('[{"n": 1}]\n[{"n": 2}]', ":2 (item 1): not valid JSON at column 1: expecting one list with all items"),
        ("[" * 200_000, "(item 1): JSON nested too deeply"),
    ],
)
def test_broken_files_name_the_line(tmp_path, text, expected):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.jsonl") as caught:
        file = RecordFile(path)
        for index in range(len(file)):
            file[index]
    assert expected in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read data file .*none\.jsonl.*No such file"):
        RecordFile(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.parquet", b"PAR1\x15\x04\x00", "this is a Parquet file; make it"),
        ("a.data", b"PAR1\x15\x04\x00", "this is a Parquet file; make it"),
        ("a.parquet", b"not even that", "this is a Parquet file; make it"),
        ("a.arrow", b"\xff\xff\xff\xff\x78\x00", "this is an Arrow stream; make it"),
        ("a.feather", b"ARROW1\x00\x00", "this is an Arrow file; make it"),
        ("a.csv", b"instruction,output\nQ,A\n", "this is a CSV file; make it"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00", "this is compressed (gzip); unpack it"),
        ("a.jsonl", b"\x89PNG\r\n\x1a\n\x00\x00", "this is a binary file; give"),
        ("a.json", '[{"n": 1}]'.encode("utf-16"), "this is UTF-16 text; give"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        RecordFile(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {expected}") and "\n" not in str(caught.value)
    assert "a file of JSON objects, one a line (JSONL) or in one list" in str(caught.value)


def test_a_name_alone_refuses_nothing(tmp_path):
    assert RecordFile(write_jsonl(tmp_path / "a.csv", [{"n": 1}]))[0] == {"n": 1}


def test_a_pipe_is_refused_rather_than_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match="is a folder or a pipe"):
            RecordFile(path)


def test_a_record_file_that_was_sent_to_a_worker_reads_on(tmp_path):
    # copy takes an object apart and puts it together as multiprocessing does.
    file = copy.copy(RecordFile(write_jsonl(tmp_path / "a.jsonl", [{"n": 1}, {"n": 2}])))
    assert file[1] == {"n": 2}


def test_many_records_keep_only_offsets(tmp_path):
    path = write_jsonl(tmp_path / "big.jsonl", [{"n": i} for i in range(100_000)])
    file = RecordFile(path)
    assert len(file) == 100_000 and file[99_999] == {"n": 99_999}
    assert file._spans.nbytes == 100_000 * 24
