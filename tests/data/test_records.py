"""Records of every format: what is read, what a round trip keeps, and what is refused."""

import copy
import json
import re

import pytest

from mede2_jax.config import UserError
from mede2_jax.data.readers import detect_format, read_own, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, PreferencePair, Question, Rollout

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
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]}, Demonstration, "trl"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]}, Demonstration, "trl"),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}], "chosen": "y"}, PreferencePair, "trl"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "text": None}]}], "images": ["a"]}, Demonstration, "trl"),
        ({"conversations": None, "completion": None, "messages": [{"role": "user", "content": "x"}]}, Demonstration, "mede2"),
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


@pytest.mark.parametrize("mark", ["<video>", "<audio>"])
def test_marks_of_files_that_are_not_read_are_refused_in_sharegpt(mark):
    raw = {"conversations": [{"from": "human", "value": f"{mark}What is seen?"}, {"from": "gpt", "value": "A lung."}]}
    with pytest.raises(
        UserError, match=f"a text holds '{mark}', which stands for a file in sharegpt's format, and videos and audios are not"
    ):
        read(raw, Demonstration)


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


def user(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "Q", "image": None}]}]


ANSWER = [{"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    ("parts", "images", "expected"),
    [
        ([{"type": "image", "image": "a.png"}], None, ("a.png",)),
        ([{"type": "image", "path": "a.png", "text": None}, {"type": "image", "url": "b.png"}], None, ("a.png", "b.png")),
        (
            [{"type": "image"}, {"type": "image", "image": "b.png"}, {"type": "image", "image": None}],
            ["a.png", "c.png"],
            ("a.png", "b.png", "c.png"),
        ),
        ([{"type": "image", "image": "a.png"}], ["a.png"], ("a.png",)),
    ],
    ids=["Qwen", "transformers", "the others from images", "in both places"],
)
def test_image_parts_may_carry_their_path(parts, images, expected):
    given = {} if images is None else {"images": images}
    alone = read({"messages": user(*parts) + ANSWER, **given}, Demonstration)
    explicit = read({"prompt": user(*parts), "chosen": ANSWER, "rejected": "B", **given})
    implicit = read({"chosen": user(*parts) + ANSWER, "rejected": [*user(*parts), {"role": "assistant", "content": "B"}], **given})
    assert alone.images == explicit.images == implicit.images == expected
    assert explicit == implicit and (explicit.chosen, explicit.rejected) == ("A", "B")
    assert alone.messages[0] == explicit.prompt[0] and alone.messages[0].image_count == len(expected)
    placeholders = [{"type": "image"}] * len(expected)
    assert read({"messages": user(*placeholders) + ANSWER, "images": list(expected)}, Demonstration) == alone


def test_trl_text_after_a_prompt_of_messages_is_the_assistants():
    record = read({"prompt": [{"role": "user", "content": "Q"}], "completion": "A"}, Demonstration)
    assert [(message.role, message.text) for message in record.messages] == [("user", "Q"), ("assistant", "A")]
    pair = read({"prompt": [{"role": "user", "content": "Q"}], "image": "a.png", "chosen": "A", "rejected": "B"})
    assert (pair.chosen, pair.rejected, pair.images) == ("A", "B", ("a.png",))


def test_trl_turns_that_are_the_same_throughout_still_end_in_a_response():
    turns = [{"role": "user", "content": "Q"}, *ANSWER]
    pair = read({"chosen": turns, "rejected": turns})
    assert (pair.prompt[0].text, pair.chosen, pair.rejected) == ("Q", "A", "A")


def test_a_number_may_be_an_id():
    assert read(PAIR | {"id": 7}).id == "7"
    assert read(PAIR | {"id": None}).id == read(PAIR).id


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        ({"instruction": "Q", "input": "", "output": "A"}, Demonstration, "field 'instruction': alpaca records are not read"),
        ({"instruction": "Q", "chosen": "A", "rejected": "B"}, PreferencePair, "field 'instruction': alpaca records are not read"),
        ({"prompt": "Q", "completion": "A"}, Demonstration, "field 'prompt' must be a list of messages, found text"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, PreferencePair, "field 'prompt' must be a list of messages, found text"),
        ({"messages": "Q"}, Demonstration, "field 'messages' must be a list of messages, found text"),
        ({"chosen": "QA", "rejected": "QB"}, PreferencePair, "field 'prompt' is missing (found: chosen, rejected)"),
        ({"text": "QA"}, Demonstration, "field 'messages' is missing (found: text)"),
    ],
)
def test_records_that_hold_no_conversation_name_what_is_read(raw, kind, expected):
    with pytest.raises(UserError) as caught:
        read(raw, kind)
    message = str(caught.value)
    assert message.startswith(f"pairs.jsonl:3: {expected}") and "\n" not in message
    assert '[{"role": "user", "content": "…"}' in message and "TRL" in message


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        ({k: v for k, v in PAIR.items() if k != "chosen"}, PreferencePair, "field 'chosen' is missing"),
        ({k: v for k, v in PAIR.items() if k != "prompt"}, PreferencePair, "field 'prompt' is missing"),
        (PAIR | {"rejected": 3}, PreferencePair, "field 'rejected' must be text, found 3"),
        (PAIR | {"chosn": 3}, PreferencePair, "unknown field 'chosn'; did you mean 'chosen'?"),
        (PAIR | {"images": []}, PreferencePair, "1 image place in the messages but 0 files in field 'images'"),
        (PAIR, Demonstration, "this is a preference pair"),
        (DEMONSTRATION, PreferencePair, "fields 'chosen' and 'rejected' are missing; DPO needs preference pairs"),
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
        (
            {"messages": [{"role": "user", "content": "x"}], "image": 3},
            Demonstration,
            "field 'images' must be a list of file paths, found 3",
        ),
        (PAIR | {"chosen": ""}, PreferencePair, "field 'chosen' is empty"),
        (PAIR | {"chosen": "\ud800"}, PreferencePair, "field 'chosen' holds one half of a surrogate pair"),
        (PAIR | {"prompt": 5}, PreferencePair, "field 'prompt' must be a list of messages, found 5"),
        (PAIR | {"prompt": []}, PreferencePair, "field 'prompt' must hold at least 1 message, found 0"),
        (PAIR | {"prompt": ["x"]}, PreferencePair, "field 'prompt.0' must be an object, found text"),
        (
            PAIR | {"prompt": [{"role": "user", "content": {"text": "x"}}]},
            PreferencePair,
            "'prompt.0.content' must be text or a list of parts",
        ),
        (
            PAIR | {"prompt": [{"role": "user", "content": ["x"]}]},
            PreferencePair,
            "field 'prompt.0.content.0' must be an object, found text",
        ),
        (
            PAIR | {"prompt": [{"role": "user", "content": [{"type": "audio"}]}]},
            PreferencePair,
            'or {"type": "image"}, found {"type": "audio"}',
        ),
        (PAIR | {"prompt": [{"role": "user", "content": "x", "name": "y"}]}, PreferencePair, "unknown field 'prompt.0.name'; take it out"),
        (
            PAIR | {"prompt": [{"role": 5, "content": "x"}]},
            PreferencePair,
            "field 'prompt.0.role' must be 'system', 'user' or 'assistant', found 5",
        ),
        (PAIR | {"images": "a.png"}, PreferencePair, "field 'images' must be a list, found text"),
        (PAIR | {"metadata": []}, PreferencePair, "field 'metadata' must be an object, found a list"),
        (PAIR | {"id": []}, PreferencePair, "field 'id' must be text or a number, found a list"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, Demonstration, "field 'conversations.0.from' must be text, found a list"),
        ({"conversations": [], "system": 5}, Demonstration, "field 'system' must be text, found 5"),
        ({"conversations": [], "tools": [{}]}, Demonstration, "field 'tools' is not supported"),
        ({"prompt": ANSWER, "completion": "A"}, Demonstration, "field 'messages' begins with the assistant's turn"),
        ({"prompt": [], "completion": 5}, Demonstration, "field 'completion' must be a list of messages, found 5"),
        ({"prompt": [], "completion": "A", "label": False}, Demonstration, "field 'label' is false"),
        (
            {"messages": [{"role": "user", "content": 5}], "image": "a"},
            Demonstration,
            "'messages.0.content' must be text or a list of parts, found 5",
        ),
        ({"messages": user({"type": "text", "text": None})}, Demonstration, "field 'messages.0.content.0.text' must be text, found null"),
        ({"messages": user({"type": "image", "base64": "iVBO"})}, Demonstration, 'must give one file ("path": "a.png")'),
        ({"messages": user({"type": "image", "image": {"bytes": "x"}})}, Demonstration, 'must give one file ("path": "a.png")'),
        ({"messages": user({"type": "image", "image": "a", "path": "b"})}, Demonstration, 'must give one file ("path": "a.png")'),
        (
            {"messages": user({"type": "image", "image": "a"}), "images": ["b"]},
            Demonstration,
            "0 image parts without a file of its own in the messages but 1 file in field 'images'",
        ),
        (
            {"chosen": ANSWER, "rejected": user({"type": "image", "path": "a"})},
            PreferencePair,
            "field 'rejected' must hold one assistant turn",
        ),
    ],
)
def test_broken_records_name_place_and_field(raw, kind, expected):
    with pytest.raises(UserError) as caught:
        read(raw, kind)
    assert str(caught.value).startswith("pairs.jsonl:3: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    # The words of pydantic and of Python.
    assert not re.search(r"Input should|[Tt]uple|dict|\bstr\b|NoneType|discriminator|validat", str(caught.value))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"chosen": "a \\ud800 b"}, "chosen"),
        ({"prompt": [{"role": "user", "content": "\\udc00"}]}, "prompt.0.content"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "\\ud83d"}]}]}, "prompt.0.content.0.text"),
        ({"id": "\\ud800"}, "id"),
    ],
)
def test_half_a_character_names_its_field(tmp_path, change, field):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"id": "b"} | change).replace("\\\\u", "\\u") + "\n")
    with pytest.raises(UserError, match=rf"pairs.jsonl:2: field '{field}' holds one half of a surrogate pair"):
        RecordFile(path)[1]
    path.write_text(json.dumps({"text": "😀 \\u00e9 😀"}) + "\n")
    assert RecordFile(path)[0]["text"].startswith("😀")


def test_a_placeholder_in_trl_text_is_refused():
    """It would stay as text, and its image would come before it."""
    messages = [{"role": "user", "content": "left <image> or right?"}]
    turns = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    with pytest.raises(UserError, match="stands for an image in sharegpt's format only"):
        read_record({"prompt": messages, "images": ["a.png"], **turns}, PreferencePair, "trl", "f:1")


QUESTION = {
    "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
    "images": ["a.png"],
    "answer": "B",
    "options": {"A": "A cyst", "B": "A fracture"},
}
ROLLOUT = QUESTION | {
    "id": "q#0",
    "parents": ["q"],
    "sample": 0,
    "response": "",
    "finish_reason": "stop",
    "prompt_tokens": 12,
    "response_tokens": 1,
    "seed": 7,
    "model": "sha256:ab",
}


def test_questions_and_rollouts_round_trip():
    question = read_own(QUESTION, Question, "q.jsonl:1")
    assert (question.answer, question.options["B"], len(question.id)) == ("B", "A fracture", 16)
    assert read_own(QUESTION | {"id": 3, "answer": None, "options": None}, Question, "q.jsonl:1").id == "3"
    rollout = read_own(ROLLOUT, Rollout, "r.jsonl:1")
    assert read_own(json.loads(rollout.model_dump_json(exclude_none=True)), Rollout, "r.jsonl:1") == rollout


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        (QUESTION | {"anwser": "B"}, Question, "unknown field 'anwser'; did you mean 'answer'?"),
        (QUESTION | {"choices": ["x"]}, Question, "unknown field 'choices' (known: id, images"),
        ({"question": "Q", "answer": "A"}, Question, "field 'prompt' is missing (found: question, answer); write {"),
        ({}, Question, "field 'prompt' is missing (found: no fields)"),
        (PAIR, Question, "this is a preference pair"),
        (QUESTION | {"prompt": "What?"}, Question, "field 'prompt' must be a list of messages, found text"),
        (QUESTION | {"prompt": [*QUESTION["prompt"], {"role": "assistant", "content": "B"}]}, Question, "must end with the user's turn"),
        (QUESTION | {"images": []}, Question, "1 image place in the messages but 0 files"),
        (QUESTION | {"answer": ""}, Question, "field 'answer' is empty"),
        (QUESTION | {"answer": 2}, Question, "field 'answer' must be text, found 2"),
        (QUESTION | {"options": ["x", "y"]}, Question, "field 'options' must be an object, found a list"),
        (QUESTION | {"options": {"a": "x", "b": "y"}}, Question, "field 'options': 'a' must be one capital letter"),
        (QUESTION | {"options": {"A": "x"}}, Question, "field 'options' must hold at least 2 choices, found 1"),
        (QUESTION | {"options": {"A": "x", "B": " "}}, Question, "field 'options.B' is empty"),
        (QUESTION | {"options": {"A": "x", "B": 3}}, Question, "field 'options.B' must be text, found 3"),
        (ROLLOUT | {"finish_reason": "abort"}, Rollout, "field 'finish_reason' must be 'stop', 'length' or 'refusal', found abort"),
        ({key: value for key, value in ROLLOUT.items() if key != "seed"}, Rollout, "field 'seed' is missing"),
        (ROLLOUT | {"sample": -1}, Rollout, "field 'sample'"),
    ],
)
def test_faults_in_questions_and_rollouts_name_place_and_field(raw, kind, expected):
    with pytest.raises(UserError) as caught:
        read_own(copy.deepcopy(raw), kind, "q.jsonl:3")
    message = str(caught.value)
    assert message.startswith("q.jsonl:3: ") and expected in message and "\n" not in message
