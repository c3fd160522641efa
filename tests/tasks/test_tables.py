"""Rows of every form that benchmarks are published in."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from task_files import write_csv, write_jsonl, write_parquet

from mede2_jax.config import UserError
from mede2_jax.tasks.item import python_literal
from mede2_jax.tasks.tables import column_names, rows

RECORDS = [{"id": "1", "text": 'a, "b"\nc 肺'}, {"id": "2", "text": "<think> = 1"}]


def found(path, columns=None):
    return [dict(row) for _, row in rows(path, columns)]


def test_one_table_in_every_form(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", RECORDS)
    write_csv(tmp_path / "a.csv", RECORDS)
    write_parquet(tmp_path / "a.parquet", RECORDS)
    (tmp_path / "list.json").write_text(json.dumps(RECORDS, indent=1))
    columns = {name: {str(n): record[name] for n, record in enumerate(RECORDS)} for name in RECORDS[0]}
    (tmp_path / "columns.json").write_text(json.dumps(columns))
    for name in ("a.jsonl", "a.csv", "a.parquet", "list.json", "columns.json"):
        assert found(tmp_path / name) == RECORDS, name


def test_an_object_by_id_is_rows(tmp_path):
    (tmp_path / "output.json").write_text(json.dumps({"q1": "B", "q2": ["A", "C"]}))
    assert found(tmp_path / "output.json") == [{"id": "q1", "value": "B"}, {"id": "q2", "value": ["A", "C"]}]
    (tmp_path / "output.json").write_text(json.dumps({"q1": {"response": "B"}, "q2": {"response": "C"}}))
    assert found(tmp_path / "output.json") == [{"id": "q1", "response": "B"}, {"id": "q2", "response": "C"}]


def test_columns_that_nobody_wants_are_not_read_from_parquet(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"id": "1", "image": {"bytes": b"x" * 1000, "path": None}}] * 200)
    assert found(path, ("id", "other")) == [{"id": "1"}] * 200
    assert found(path)[0]["image"] == {"bytes": b"x" * 1000, "path": None}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.xlsx", b"PK", "the name ends in none of .jsonl, .json, .csv, .parquet"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as parquet: "),
        ("a.csv", b'id,text\n1,"a', "not a CSV file"),
        ("a.csv", b"id,text\n1,2,3\n", "a.csv:2: the row has other columns than the first line"),
        ("a.csv", b"id,text\n1\n", "a.csv:2: the row has other columns than the first line"),
        ("a.csv", "id,text\n1,\xe4\n".encode("latin-1"), "not UTF-8 text"),
        ("a.json", b'{"a": 1', "not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "a.jsonl:2: a record must be a JSON object"),
        ("a.json", b"[]", "no records"),
        ("a.csv", b"id,response,response\n1,A,B\n", "a.csv: the column 'response' is there twice; rename one, or take it out"),
        ("a.json", b'{"q1": {"response": "\\ud800"}}', "a.json: field 'q1.response' holds one half of a surrogate pair"),
        ("a.json", b'[{"id": "1", "response": "\\ud800"}]', "a.json:1 (item 1): field 'response' holds one half of a surrogate pair"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        found(tmp_path / name)
    assert expected in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(UserError, match="none"):
        found(tmp_path / f"none{name[1:]}")


def test_a_column_of_parquet_that_is_there_twice_is_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["1"]), pyarrow.array(["A"]), pyarrow.array(["B"])], ["id", "response", "response"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for reading in (found, column_names):
        with pytest.raises(UserError, match=r"a\.parquet: the column 'response' is there twice"):
            reading(tmp_path / "a.parquet")


def test_columns_without_a_name_are_nobodys(tmp_path):
    """A spreadsheet leaves such at the end."""
    (tmp_path / "a.csv").write_text("id,response,,\n1,A,,\n")
    assert found(tmp_path / "a.csv") == [{"id": "1", "response": "A", "": ""}]


def test_half_a_character_is_no_text_in_a_list_that_python_wrote():
    assert python_literal("['a', 'b\\u00e9']") == ["a", "bé"] and python_literal("['a', '\\ud800']", "none") == "none"
