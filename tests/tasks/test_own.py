"""Benchmarks of one's own, described by a YAML file: every kind, every form of options and images, every fault."""

import base64
import json

import pytest
import yaml
from task_files import write_csv, write_jsonl, write_parquet

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.score.__main__ import main
from mede2_jax.scoring.modes import judge
from mede2_jax.tasks.catalogue import find_task, open_items
from mede2_jax.tasks.item import ItemImage

BASE = {"name": "mine", "files": ["*.jsonl"], "columns": {"question": "q", "answer": "a"}, "kind": "short"}
CHOICE = BASE | {"kind": "choice", "columns": {"question": "q", "answer": "a", "options": "o"}}
ROW = {"q": "Which?", "a": "B", "o": ["lung", "heart", "liver"]}
PNG = b"\x89PNG not a whole one"


def task(tmp_path, *parts):
    """Of a YAML file made of several mappings, the later ones over the earlier."""
    values = {}
    for part in parts:
        columns = values.get("columns", {}) | part.get("columns", {})
        values |= part | ({"columns": columns} if columns else {})
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}, allow_unicode=True), "utf-8")
    return find_task(str(path))


def items(tmp_path, rows, *parts, images=True):
    return open_items(task(tmp_path, *parts), write_jsonl(tmp_path / "rows.jsonl", rows), images=images).items


def refused(tmp_path, rows, *parts):
    with pytest.raises(UserError) as raised:
        items(tmp_path, rows, *parts)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_question_is_asked_with_its_choices_images_and_what_usually_follows(tmp_path):
    image = {"columns": {"images": ["i"]}, "prompt": "Answer with a letter."}
    own = task(tmp_path, CHOICE, image)
    (item,) = open_items(own, write_jsonl(tmp_path / "rows.jsonl", [ROW | {"i": "a.png"}])).items
    question = "Which?\nAnswer Choices: (A) lung (B) heart (C) liver"
    asked = own.asked(item, "official")
    assert (asked.user, asked.system) == ((ItemImage("a.png"), f"{question}\nAnswer with a letter."), None)
    ours = own.asked(item, "mede2")
    assert ours.user == (ItemImage("a.png"), question) and "<think>" in ours.system


@pytest.mark.parametrize(
    ("kind", "answer", "expected", "right", "wrong"),
    [
        ("choice", "B", "B", "(B)", "(C)"),
        ("choice", " b ", "B", "<answer> heart </answer>", "<answer> A </answer>"),
        ("yes_no", "Yes", "Yes", "yes, a mass", "No."),
        ("yes_no", False, "no", "no", "yes"),
        ("yes_no", "否", "否", "否", "是"),
        ("short", "right lung", "right lung", "The right lung.", "Answer: left lung"),
        ("short", 3, "3", "3", "Answer: 4"),
        ("short", 2.5, "2.5", "2.5", "Answer: 2.6"),
        ("short", ["left", "left side"], ("left", "left side"), "Left side", "Answer: right"),
        ("open", "a small effusion", "a small effusion", "A small effusion.", "It is small"),
    ],
)
def test_every_kind(tmp_path, kind, answer, expected, right, wrong):
    own = task(tmp_path, CHOICE, {"kind": kind})
    (item,) = open_items(own, write_jsonl(tmp_path / "rows.jsonl", [ROW | {"a": answer}])).items
    assert item.answer == expected and item.fields == {"kind": kind} and item.groups == {} and item.id == "mine-0"
    assert item.options == ({"A": "lung", "B": "heart", "C": "liver"} if kind == "choice" else {})
    for reply, outcome in ((right, "correct"), (wrong, "wrong")):
        for thought in ("", "<think> … </think>\n"):
            assert judge("mede2", thought + reply, item.answer, own.rule(item, "official"), item.options or None).outcome == outcome
    if "<" not in right:
        assert judge("official", right, item.answer, own.rule(item, "official"), item.options or None).outcome == "correct"


@pytest.mark.parametrize(
    "options",
    [
        ["lung", "heart", "liver"],
        {"A": "lung", "B": "heart", "C": "liver", "D": None},
        [{"letter": "A", "content": "lung"}, {"letter": "B", "content": "heart"}, {"letter": "C", "content": "liver"}],
        '["lung", "heart", "liver"]',
        '{"A": "lung", "B": "heart", "C": "liver"}',
        "['lung', 'heart', 'liver']",
        "{'A': 'lung', 'B': 'heart', 'C': 'liver'}",
        "A. lung\nB. heart\nC. liver",
        "(A) lung\n (B) heart\n(C) liver\n",
        [" A:lung", "B: heart", "(C) liver "],
        {"A": "A. lung", "B": "B. heart", "C": "C. liver"},
    ],
)
def test_options_in_one_column(tmp_path, options):
    (item,) = items(tmp_path, [ROW | {"o": options}], CHOICE)
    assert item.options == {"A": "lung", "B": "heart", "C": "liver"}


def test_options_in_several_columns(tmp_path):
    columns = {"columns": {"options": ["oa", "ob", "oc"]}}
    rows = [{"q": "1", "a": "A", "oa": "x", "ob": "y", "oc": "z"}, {"q": "2", "a": "B", "oa": "yes", "ob": "no"}]
    rows += [{"q": "3", "a": "B", "oa": "A. x", "ob": "b. y", "oc": ""}, {"q": "4", "a": "A", "oa": 1, "ob": 2, "oc": None}]
    found = items(tmp_path, rows, CHOICE, columns)
    assert [list(item.options.values()) for item in found] == [["x", "y", "z"], ["yes", "no"], ["A. x", "b. y"], ["1", "2"]]
    rows[0]["ob"] = ""
    assert "column 'ob' is empty, and an option after it is not" in refused(tmp_path, rows, CHOICE, columns)


def test_the_right_option_by_its_text_or_its_place(tmp_path):
    text, index = {"answer_is": "text"}, {"answer_is": "index"}
    rows = [ROW | {"a": answer} for answer in ("heart", " lung ", "The Liver.")]
    assert [item.answer for item in items(tmp_path, rows, CHOICE, text)] == ["B", "A", "C"]
    assert items(tmp_path, [{"q": "?", "a": "x", "o": ["x", "y", "x"]}], CHOICE, text)[0].answer == ("A", "C")
    assert [item.answer for item in items(tmp_path, [ROW | {"a": 0}, ROW | {"a": "2"}], CHOICE, index)] == ["A", "C"]
    assert "must be the text of one of the options (lung; heart; liver), found B" in refused(tmp_path, [ROW], CHOICE, text)
    for place in (3, -1, "B", "²"):
        assert "must be the place of an option from 0 to 2" in refused(tmp_path, [ROW | {"a": place}], CHOICE, index)


def test_images_are_names_lists_of_them_or_in_the_table(tmp_path):
    one, two = {"columns": {"images": "i"}}, {"columns": {"images": ["i", "j"]}}
    folder = {"image_folder": "scans/"}
    assert items(tmp_path, [ROW | {"i": "a.png"}], BASE, one, folder)[0].images == (ItemImage("scans/a.png"),)
    for value in (["a.png", "b.png"], '["a.png", "b.png"]', "['a.png', 'b.png']", [{"path": "a.png", "bytes": None}, "b.png"]):
        assert [image.name for image in items(tmp_path, [ROW | {"i": value}], BASE, one)[0].images] == ["a.png", "b.png"]
    rows = [ROW | {"i": "", "j": "b.png"}, ROW | {"i": "a.png", "j": None}, ROW | {"i": ["a.png", "c.png"], "j": "b.png"}]
    found = items(tmp_path, rows, BASE, two)
    assert [[image.name for image in item.images] for item in found] == [["b.png"], ["a.png"], ["a.png", "c.png", "b.png"]]
    structs = [ROW | {"i": {"bytes": PNG, "path": "x.png"}, "j": None}, ROW | {"i": {"bytes": PNG, "path": None}, "j": PNG}]
    data = write_parquet(tmp_path / "t.parquet", structs)
    found = open_items(task(tmp_path, BASE, two, folder), data).items
    assert found[0].images == (ItemImage("x.png", PNG),) and [image.data for image in found[1].images] == [PNG, PNG]
    assert all(item.images == () for item in open_items(task(tmp_path, BASE, two), data, images=False).items)


def test_images_in_base64(tmp_path):
    coded = base64.b64encode(PNG).decode()
    config = ({"columns": {"images": "i"}, "images_are": "base64"},)
    for value in (coded, f"data:image/png;base64,{coded}", coded[:8] + "\n" + coded[8:], [coded]):
        assert [image.data for image in items(tmp_path, [ROW | {"i": value}], BASE, *config)[0].images] == [PNG]
    for value in ("scans/a.png", "lung.1234", coded[:-1], "data:image/png;base64,", "����", 7):
        said = refused(tmp_path, [ROW | {"i": value}], BASE, *config)
        assert "column 'i' must hold an image" in said
    assert items(tmp_path, [ROW | {"i": "scans/a.png"}], BASE, *config, images=False)[0].images == ()


def test_kinds_by_a_column(tmp_path):
    kinds = {"kind": None, "kinds": {"column": "t", "values": {"OPEN": "open", "closed": "short"}}}
    rows = [ROW | {"t": "OPEN"}, ROW | {"t": "Closed "}]
    found = items(tmp_path, rows, BASE, kinds)
    assert [item.groups for item in found] == [{"kind": "open"}, {"kind": "short"}]
    own = task(tmp_path, BASE, kinds, {"columns": {"groups": ["m"]}})
    assert own.breakdowns == ("kind", "m")
    said = refused(tmp_path, [ROW | {"t": "either"}], BASE, kinds)
    assert "column 't' says either, which kinds.values does not have (OPEN, closed); add it there, or give kinds.others" in said
    others = {"kind": None, "kinds": {"column": "a", "values": {"yes": "yes_no", "no": "yes_no"}, "others": "open"}}
    found = items(tmp_path, [ROW | {"a": "Yes"}, ROW | {"a": "a mass"}], BASE, others)
    assert [item.fields["kind"] for item in found] == ["yes_no", "open"]


def test_only_the_rows_that_are_wanted_are_read(tmp_path):
    rows = [ROW | {"lang": "zh", "a": ""}, ROW | {"lang": "en", "n": 1}, ROW | {"lang": "en", "n": 2}, ROW | {"lang": "EN", "n": True}]
    found = items(tmp_path, rows, BASE, {"where": {"lang": "en"}})
    assert [item.id for item in found] == ["mine-1", "mine-2", "mine-3"], "rows that are left out keep their numbers"
    assert [item.id for item in items(tmp_path, rows, BASE, {"where": {"lang": "en", "n": [2, True]}})] == ["mine-2", "mine-3"]
    assert "none of its items is one of mine" in refused(tmp_path, rows, BASE, {"where": {"lang": "de"}})


def test_groups_clusters_prompt_and_count(tmp_path):
    more = {"columns": {"id": "n", "groups": ["m", "k"], "cluster": "i"}, "prompt": "In one word.", "items": 3, "title": "Mine"}
    rows = [ROW | {"n": 7, "m": "CT", "k": True, "i": 1}, ROW | {"n": 8, "m": "", "k": None, "i": 1}]
    own = task(tmp_path, BASE, more)
    found = open_items(own, write_jsonl(tmp_path / "rows.jsonl", rows))
    assert [(item.id, item.cluster, item.groups) for item in found.items] == [
        ("7", "1", {"m": "CT", "k": "true"}),
        ("8", "1", {"m": "unknown", "k": "unknown"}),
    ]
    assert own.clustered and own.title == "Mine" and found.items[0].fields["prompt"] == "In one word."
    assert found.deviations == ["items: 2 instead of 3"]


def test_all_files_of_a_pattern_are_one_table_in_any_form(tmp_path):
    rows = [{"q": f"Q{n}", "a": "x"} for n in range(6)]
    config = {"files": ["none/*.csv", "data/**/*.*"], "columns": {"images": ()}}
    write_csv(tmp_path / "data" / "a.csv", rows[:2])
    write_parquet(tmp_path / "data" / "b.parquet", rows[2:4])
    (tmp_path / "data" / "c.json").write_text(json.dumps(rows[4:]))
    (tmp_path / "data" / "notes.txt").write_text("no table")
    found = open_items(task(tmp_path, BASE, config), tmp_path).items
    assert [(item.id, item.question) for item in found] == [(f"mine-{n}", f"Q{n}") for n in range(6)]


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_jsonl])
def test_a_column_that_is_not_there(tmp_path, write):
    suffix = {"write_csv": "csv", "write_parquet": "parquet", "write_jsonl": "jsonl"}[write.__name__]
    data = write(tmp_path / f"t.{suffix}", [{"question": "1", "answer": "x", "modality": "CT", "image": "a.png"}])
    columns = {"question": "question", "answer": "answers", "groups": ["modalty"], "images": "picture"}
    with pytest.raises(UserError) as raised:
        open_items(task(tmp_path, BASE | {"columns": columns}), data)
    assert f"t.{suffix}: no column 'answers' (did you mean 'answer'?), 'modalty' (did you mean 'modality'?), 'picture'" in str(raised.value)
    assert str(raised.value).endswith("which mine names; the columns are question, answer, modality, image")


def test_a_column_may_be_in_some_rows_and_files_only(tmp_path):
    columns = {"columns": {"options": ["oa", "ob", "oc"], "groups": ["m"]}}
    write_jsonl(tmp_path / "1.jsonl", [{"q": "1", "a": "A", "oa": "x", "ob": "y"}])
    write_jsonl(tmp_path / "2.jsonl", [{"q": "2", "a": "C", "oa": "x", "ob": "y", "oc": "z", "m": "CT"}])
    found = open_items(task(tmp_path, CHOICE, columns), tmp_path).items
    assert [len(item.options) for item in found] == [2, 3] and found[0].groups == {"m": "unknown"}


@pytest.mark.parametrize(
    ("row", "parts", "expected"),
    [
        (ROW | {"a": "D"}, [CHOICE], "column 'a' must be one of A, B, C, found D"),
        (ROW | {"a": "maybe"}, [BASE, {"kind": "yes_no"}], "column 'a' must be yes or no, found maybe"),
        (ROW | {"a": ""}, [BASE], "column 'a' must be text"),
        (ROW | {"a": []}, [BASE], "column 'a' must be text"),
        (ROW | {"a": ["x", 1.5]}, [BASE], "column 'a' must be text, found 1.5"),
        (ROW | {"q": None}, [BASE], "column 'q' must be text"),
        (ROW | {"o": ["lung"], "a": "A"}, [CHOICE], "a choice wants two options or more"),
        (ROW | {"o": "lung or heart"}, [CHOICE], "column 'o' must hold the options by letter"),
        (ROW | {"o": "[" * 3000}, [CHOICE], "column 'o' must hold the options by letter"),
        (ROW | {"i": 3}, [BASE, {"columns": {"images": "i"}}], "column 'i' must hold an image, found 3"),
        (ROW | {"m": ["x"]}, [BASE, {"columns": {"groups": "m"}}], "column 'm' must be text"),
    ],
)
def test_a_row_that_is_not_as_it_should_be(tmp_path, row, parts, expected):
    assert expected in refused(tmp_path, [row], *parts)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"colums": {}}, "unknown key 'colums' (did you mean 'columns'?)"),
        ({"columns": {"awnser": "x"}}, "unknown key 'columns.awnser' (did you mean 'columns.answer'?)"),
        ({"kind": "multiple"}, "kind: Input should be 'choice', 'yes_no', 'short' or 'open' (got 'multiple')"),
        ({"kind": None}, "give one of 'kind' (choice, yes_no, short or open) and 'kinds'"),
        ({"kinds": {"column": "t", "values": {"x": "open"}}}, "give one of 'kind'"),
        ({"kind": None, "kinds": {"column": "t", "values": {True: "yes_no"}}}, "write them in quotes"),
        ({"kind": None, "kinds": {"column": "t", "values": {"x": "choice"}}}, "'kind: choice' wants columns.options"),
        ({"kind": "choice"}, "'kind: choice' wants columns.options"),
        ({"name": "Mine!"}, "name: String should match pattern"),
        ({"name": "medqa"}, "is that of another benchmark"),
        ({"files": []}, "files: "),
        ({"files": "../x.json"}, "is no pattern of files below the data's folder"),
        ({"files": "/etc/*.json"}, "is no pattern of files below the data's folder"),
        ({"files": "./"}, "is no pattern of files below the data's folder"),
        ({"files": "a/" + "n" * 256 + ".json"}, "is longer than a file's name can be"),
        ({"files": "ü" * 130}, "is longer than a file's name can be: 255 bytes a part"),
        ({"files": "a/" * 400 + "*"}, "is longer than a file's name can be"),
        ({"files": "a**/x.json"}, "** stands for folders"),
        ({"items": 0}, "items: Input should be greater than or equal to 1"),
        ({"answer_is": "number"}, "answer_is: Input should be 'letter', 'text' or 'index'"),
        ({"where": {"lang": {"is": "en"}}}, "where.lang: "),
    ],
)
def test_a_yaml_file_that_is_not_as_it_should_be_is_one_line_and_status_2(tmp_path, capsys, more, expected):
    values = BASE | more
    if "columns" in more:
        values["columns"] = BASE["columns"] | more["columns"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}), "utf-8")
    with pytest.raises(SystemExit) as raised:
        run_command(main, [f"--task={path}", f"--data={tmp_path}", "--responses=r.jsonl"])
    said = capsys.readouterr().err
    assert raised.value.code == 2 and said.count("\n") == 1 and expected in said and str(path) in said


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match="cannot read config"):
        find_task(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(UserError, match="expected a mapping of options, found list"):
        find_task(str(tmp_path / "list.yaml"))
    with pytest.raises(UserError, match=r"unknown task 'vqa_rat' \(did you mean 'vqa_rad'\?\).*slake.*or a YAML file of yours"):
        find_task("vqa_rat")
