import json

import pytest
from data_builders import write_jsonl

from mede2_jax.config import UserError
from mede2_jax.data.readers import detect_format, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, PreferencePair

PAIR = {
    "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
    "images": ["a.png"],
    "chosen": "A cyst.",
    "rejected": "A fracture.",
}
DEMONSTRATION = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "See "}, {"type": "image"}]},
        {"role": "assistant", "content": "Yes."},
    ],
    "images": ["a.png"],
}


def read(raw, kind=PreferencePair, format=None):
    return read_record(raw, kind, format or detect_format(raw), "pairs.jsonl:3")


def test_a_derived_id_follows_from_the_content_whatever_the_format():
    first = read(PAIR)
    assert first.id == read(json.loads(json.dumps(PAIR))).id and len(first.id) == 16
    assert first.id != read(PAIR | {"chosen": "A mass."}).id
    sharegpt = {
        "conversations": [{"from": "human", "value": "<image>What is it?"}],
        "images": ["a.png"],
        "chosen": {"from": "gpt", "value": "A cyst."},
        "rejected": {"from": "gpt", "value": "A fracture."},
    }
    assert read(sharegpt).id == first.id
    assert read(PAIR | {"id": "mine", "source": "here", "parents": ["q1"], "metadata": {"k": 1}}).id == "mine"


def test_records_are_frozen_and_round_trip():
    record = read(PAIR | {"id": "x"})
    with pytest.raises(Exception, match="frozen"):
        record.chosen = "other"
    assert PreferencePair.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(
    ("raw", "kind", "format"),
    [
        (PAIR, PreferencePair, "mede2"),
        (DEMONSTRATION, Demonstration, "mede2"),
        ({"conversations": []}, Demonstration, "sharegpt"),
        ({"messages": [{"role": "user", "content": "<image>x"}], "images": ["a"]}, Demonstration, "sharegpt"),
        ({"messages": [{"role": "user", "content": "x"}], "chosen": {"role": "assistant", "content": "y"}}, PreferencePair, "sharegpt"),
        ({"chosen": [], "rejected": []}, PreferencePair, "trl"),
        ({"messages": [{"role": "user", "content": "x"}], "images": ["a"]}, Demonstration, "trl"),
        ({"prompt": [], "completion": []}, Demonstration, "trl"),
    ],
)
def test_detect_format(raw, kind, format):
    assert detect_format(raw) == format


def test_sharegpt_demonstration_with_system_and_placeholders():
    raw = {
        "conversations": [
            {"from": "human", "value": "<image>First<image>\nsecond"},
            {"from": "gpt", "value": "One."},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Two."},
        ],
        "system": "Be exact.",
        "images": ["a.png", "b.png"],
        "anything": "else",
    }
    record = read(raw, Demonstration)
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [part.type for part in record.messages[1].content] == ["image", "text", "image", "text"]
    assert record.messages[1].content[3].text == "\nsecond" and record.messages[4].text == "Two."


def test_sharegpt_pair_in_openai_style():
    raw = {
        "messages": [{"role": "user", "content": "<image>Q"}],
        "images": "a.png",
        "chosen": {"role": "assistant", "content": " C"},
        "rejected": {"role": "assistant", "content": "R"},
    }
    record = read(raw)
    assert (record.chosen, record.rejected, record.images) == (" C", "R", ("a.png",))


def test_trl_pair_explicit_and_implicit_prompt_agree():
    prompt = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Q"}]}]
    answers = {name: [{"role": "assistant", "content": [{"type": "text", "text": name}]}] for name in ("chosen", "rejected")}
    explicit = read({"prompt": prompt, "images": ["a.png"], **answers})
    implicit = read({"images": ["a.png"], **{name: prompt + answer for name, answer in answers.items()}})
    assert explicit == implicit
    assert explicit.chosen == "chosen" and explicit.prompt[0].image_count == 1


def test_trl_images_without_parts_come_before_the_first_user_text():
    record = read({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "image": "a.png"}, Demonstration)
    assert [part.type for part in record.messages[0].content] == ["image", "text"]


def test_trl_prompt_and_completion():
    raw = {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}
    assert [message.text for message in read(raw, Demonstration).messages] == ["Q", "A"]


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        ({k: v for k, v in PAIR.items() if k != "chosen"}, PreferencePair, "field 'chosen' is missing"),
        ({k: v for k, v in PAIR.items() if k != "prompt"}, PreferencePair, "field 'prompt' is missing"),
        (PAIR | {"rejected": 3}, PreferencePair, "field 'rejected': Input should be a valid string"),
        (PAIR | {"chosn": 3}, PreferencePair, "unknown field 'chosn'; did you mean 'chosen'?"),
        (PAIR | {"images": []}, PreferencePair, "1 image places in the messages but 0 files in field 'images'"),
        (PAIR, Demonstration, "this is a preference pair"),
        (DEMONSTRATION, PreferencePair, "field 'prompt' is missing"),
        (DEMONSTRATION | {"messages": DEMONSTRATION["messages"][:1]}, Demonstration, "field 'messages'"),
        (PAIR | {"prompt": [{"role": "doctor", "content": "x"}]}, PreferencePair, "field 'prompt.0.role'"),
        (PAIR | {"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, PreferencePair, "video input is not supported"),
        (PAIR | {"prompt": [{"role": "user", "content": [{"type": "text"}]}]}, PreferencePair, "text' is missing"),
        ({"conversations": [{"from": "human"}]}, Demonstration, "field 'conversations.0.value' is missing"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, Demonstration, "role 'tool' is not supported"),
        (
            {"conversations": [{"from": "human", "value": "<image>x"}], "chosen": {"from": "gpt", "value": "a"}},
            PreferencePair,
            "field 'rejected' is missing",
        ),
        ({"chosen": [{"role": "user", "content": "x"}], "rejected": []}, PreferencePair, "one assistant turn"),
        ({"messages": [{"role": "user", "content": "x"}], "image": 3}, Demonstration, "field 'images' must be a list"),
    ],
)
def test_broken_records_name_place_and_field(raw, kind, expected):
    with pytest.raises(UserError) as caught:
        read(raw, kind)
    assert str(caught.value).startswith("pairs.jsonl:3: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


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
        assert file.where(2) == f"{path}: item 3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"n": 1}\n{"n": \n', ":2: not valid JSON"),
        ('{"n": 1}\n[1]\n', ":2: expected a JSON object, found list"),
        ("", "no records"),
        ("[]", "no records"),
        ('[{"n": 1}, {"n": ]', "item 2: not valid JSON"),
        ('[{"n": 1} {"n": 2}]', "item 1: not valid JSON: expected ','"),
        ('[{"n": 1}', "expected ',' or ']'"),
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


def test_many_records_keep_only_offsets(tmp_path):
    path = write_jsonl(tmp_path / "big.jsonl", [{"n": i} for i in range(100_000)])
    file = RecordFile(path)
    assert len(file) == 100_000 and file[99_999] == {"n": 99_999}
    assert file._spans.nbytes == 100_000 * 24
