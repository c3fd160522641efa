"""Which turns are scored, and keys that nothing here understands: each trainer's own spelling, in each format."""

import json

import numpy as np
import pytest
from data_builders import write_image, write_jsonl

from mede2_jax.config import UserError
from mede2_jax.data.readers import detect_format, read_own, read_record
from mede2_jax.data.records import Demonstration, PreferencePair, Question
from mede2_jax.data.rows import encode_demonstration
from mede2_jax.data.source import DataConfig, open_source


def read(raw, kind=Demonstration, format=None):
    return read_record(raw, kind, format or detect_format(raw), "f.jsonl:3")


def refused(raw, kind=Demonstration, format=None):
    with pytest.raises(UserError) as caught:
        read(raw, kind, format)
    message = str(caught.value)
    assert message.startswith("f.jsonl:3: ") and "\n" not in message
    return message


def messages(*turns):
    """user, assistant, user, …: each a text, or (text, further keys)."""
    turns = [(turn, {}) if isinstance(turn, str) else turn for turn in turns]
    return [{"role": ("user", "assistant")[at % 2], "content": text} | more for at, (text, more) in enumerate(turns)]


def conversations(*turns):
    named = {"user": "human", "assistant": "gpt"}
    return [
        {"from": named[turn.pop("role")], "value": turn.pop("content")} | turn for turn in (dict(message) for message in messages(*turns))
    ]


def scored_text(record, processor):
    """What of a demonstration is scored, decoded."""
    segment = encode_demonstration(record, processor, [processor.grid(56, 84)] * len(record.images)).segments[0]
    return processor.chat.tokenizer.decode([int(token) for token in segment.scored_target])


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": messages("a", ("BAD", {"weight": 0}), "b", ("GOOD", {"weight": 1}))},
        {"messages": messages("a", ("BAD", {"weight": 0.0}), "b", "GOOD")},
        {"messages": messages("<image>a", ("BAD", {"loss": False}), "b", ("GOOD", {"loss": True})), "images": ["a.png"]},
        {"messages": messages("a", ("BAD", {"loss": False}), "b", ("GOOD", {"loss": None})), "images": ["a.png"]},
        {"conversations": conversations("a", ("BAD", {"train": False}), "b", ("GOOD", {"train": True}))},
        {"conversations": conversations("a", ("BAD", {"loss": 0, "weight": 0}), "b", "GOOD"), "system": "Help."},
        {"messages": messages(("a", {"loss_weight": 0.0}), ("BAD", {"loss_weight": 0.0}), "b", ("GOOD", {"loss_weight": 1.0}))},
        {"messages": messages(("a", {"training": False}), ("BAD", {"training": False}), "b", "GOOD"), "image": "a.png"},
        {"prompt": messages("a", ("BAD", {"loss_scale": 0}), "b"), "completion": [{"role": "assistant", "content": "GOOD"}]},
        {"prompt": messages("a", "BAD", "b"), "completion": "GOOD"},
        {"messages": messages("a", "BAD", "b", "GOOD"), "unscored": [1]},
    ],
    ids=lambda raw: json.dumps(raw)[:40],
)
def test_a_turn_that_says_so_is_read_but_not_scored(raw, processor):
    record = read(raw)
    assert scored_text(record, processor) == "GOOD<|im_end|>"
    plain = record.model_copy(update={"unscored": ()})
    assert np.array_equal(
        processor.chat.demonstration(record.messages, record.unscored).tokens, processor.chat.demonstration(plain.messages).tokens
    )
    assert scored_text(plain, processor) == "BAD<|im_end|>GOOD<|im_end|>"


def test_an_id_follows_from_what_is_scored_and_is_what_it_was_where_all_is():
    both, one = read({"messages": messages("a", "b", "c", "d")}), read({"messages": messages("a", ("b", {"weight": 0}), "c", "d")})
    assert both.id == "973e9b12d660aab6" and one.id != both.id
    assert read({"messages": messages("a", ("b", {"weight": 1}), "c", "d")}).id == both.id
    assert Demonstration.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"messages": messages("a", ("b", {"weight": 0.5}))},
            "'messages.1.weight' must be 0 or 1 (a turn is scored or not, never w",
        ),
        (
            {"messages": messages("a", ("b", {"loss": "false"}))},
            "'messages.1.loss' must be 0 or 1 (a turn is scored or not, never weighed), found the text 'false'",
        ),
        ({"messages": messages("<image>a", ("b", {"loss": -1})), "images": ["a"]}, "'messages.1.loss' must be 0 or 1"),
        ({"conversations": conversations("a", ("b", {"train": [True]}))}, "'conversations.1.train' must be 0 or 1"),
        ({"conversations": conversations(("a", {"train": True}), "b")}, "'conversations.0.train' asks for the user's turn to be scored"),
        ({"messages": messages(("a", {"weight": 1}), "b")}, "'messages.0.weight' asks for the user's turn to be scored"),
        ({"messages": messages("a", ("b", {"weight": 0}))}, "no assistant turn of the record is to be scored"),
        ({"messages": messages("a", ("b", {"loss": False, "train": True}))}, "'messages.1': loss and train contradict one another"),
        ({"messages": messages("a", ("b", {"mask": 1}))}, "unknown field 'messages.1.mask': trainers differ on what it means"),
        ({"conversations": conversations("a", ("b", {"train_detail": [{"begin_offset": 0}]}))}, "'conversations.1.train_detail'"),
        ({"messages": messages("a", ("b", {"unscored": True}))}, "unknown field 'messages.1.unscored'"),
        ({"messages": messages("a", "b"), "unscored": [0]}, "'unscored' names turn 0, which is not the assistant's"),
        ({"messages": messages("a", ("b", {"loss": 0}), "c", "d"), "unscored": [3]}, "keep one of them"),
        ({"prompt": messages("a", ("b", {"loss": True}), "c"), "completion": "d"}, "asks for a prompt's turn to be scored"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_flags_that_ask_for_what_is_not_done_are_refused(raw, expected):
    assert expected in refused(raw)


@pytest.mark.parametrize("flag", [{"weight": 0}, {"loss": False}, {"train": 0.0}, {"loss_weight": 0}, {"training": False}])
def test_flags_in_pairs(flag):
    prompt, on = messages("a", ("b", flag), "c"), dict.fromkeys(flag, 1)
    turn = {"role": "assistant", "content": "yes"}
    bad = turn | {"content": "no"}
    plain = read({"prompt": messages("a", "b", "c"), "chosen": "yes", "rejected": "no"}, PreferencePair)
    assert read({"prompt": prompt, "chosen": "yes", "rejected": "no"}, PreferencePair) == plain
    assert read({"chosen": [*prompt, turn | on], "rejected": [*prompt, bad]}, PreferencePair) == plain
    assert read({"messages": prompt, "chosen": turn | on, "rejected": bad}, PreferencePair) == plain
    key = next(iter(flag))
    assert f"'rejected.3.{key}' asks for a response not to be scored" in refused(
        {"chosen": [*prompt, turn], "rejected": [*prompt, bad | flag]}, PreferencePair
    )
    assert f"'chosen.{key}' asks for a response not" in refused(
        {"messages": prompt, "chosen": turn | flag, "rejected": bad}, PreferencePair
    )
    asked = messages("a", ("b", on), "c")
    assert f"'prompt.1.{key}' asks for a prompt's turn" in refused({"prompt": asked, "chosen": "y", "rejected": "n"}, PreferencePair)


THOUGHT = "a thought is read as part of the content only"
TOOL = "tool calls are not supported"


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ({"tool_calls": [{"function": {"name": "measure"}}]}, TOOL),
        ({"function_call": {"name": "measure", "arguments": "{}"}}, TOOL),
        ({"reasoning_content": "I compare."}, THOUGHT),
        ({"reasoning": "I compare."}, THOUGHT),
        ({"thinking": "I compare."}, THOUGHT),
        ({"name": "house"}, "; take it out"),
        ({"refusal": "no"}, "; take it out"),
        ({"audio": {"id": "a"}}, "; take it out"),
        ({"answer": 0}, "; take it out"),
    ],
    ids=lambda value: json.dumps(value)[:30],
)
def test_a_key_of_a_turn_that_is_not_understood_is_refused_in_every_format(more, hint):
    (key,) = more
    turns = messages("<image>a", ("b", more))
    parts = [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}, turns[1]]
    pair = {"prompt": messages("a"), "chosen": [{"role": "assistant", "content": "b"} | more], "rejected": "c"}
    for message, field in (
        (refused({"messages": messages("a", ("b", more))}), "messages.1"),
        (refused({"messages": turns, "images": ["a.png"]}), "messages.1"),
        (refused({"messages": messages("a", ("b", more)), "images": ["a.png"]}), "messages.1"),
        (refused({"conversations": conversations("a", ("b", more))}), "conversations.1"),
        (refused({"messages": parts}), "messages.1"),
        (refused(pair, PreferencePair), "chosen.0"),
        (refused({"prompt": messages(("a", more)), "chosen": "b", "rejected": "c"}, PreferencePair), "prompt.0"),
    ):
        assert f"unknown field '{field}.{key}'" in message and hint in message
    # what a table fills for the turns that have none
    for nothing in (None, "", [], {}):
        assert read({"messages": messages("a", ("b", {key: nothing}))}) == read({"messages": messages("a", "b")})
        assert read({"conversations": conversations("a", ("b", {key: nothing}))}) == read({"messages": messages("a", "b")})
    with pytest.raises(UserError, match=rf"unknown field 'prompt.0.{key}'"):
        read_own({"prompt": messages(("a", more))}, Question, "q:1")
    assert read_own({"prompt": messages(("a", {key: None})), "images": None}, Question, "q:1").prompt[0].text == "a"


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ({"type": "image", "path": "a.png", "max_pixels": 1003520}, "max_pixels"),
        ({"type": "image", "image": "a.png", "resized_height": 280}, "resized_height"),
        ({"type": "image", "path": "a.png", "text": "a caption"}, "text"),
        ({"type": "text", "text": "Q", "image": "b.png"}, "image"),
        ({"type": "text", "text": "Q", "cache_control": {"type": "ephemeral"}}, "cache_control"),
        ({"type": "image", "path": "a.png", "detail": "high"}, "detail"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_a_key_of_a_part_that_is_not_understood_is_refused(part, key):
    turns = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "b"}]
    assert f"unknown field 'messages.0.content.0.{key}'" in refused({"messages": turns}, format="trl")
    own = [{"role": "user", "content": [{name: part[name] for name in part if name not in ("path", "image")} | {key: part[key]}]}, turns[1]]
    assert f"unknown field 'messages.0.content.0.{key}'" in refused({"messages": own, "images": ["a"]}, format="mede2")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"weight": 0.0}, "field 'weight' is 0.0: records are not weighed"),
        ({"sample_weight": 2}, "field 'sample_weight' is 2: records are not weighed"),
        ({"loss_weight": 0.3}, "field 'loss_weight' is 0.3: records are not weighed"),
        ({"train": False}, "field 'train' is false: records are not weighed"),
        ({"label": False}, "field 'label' is false: this response is not wanted"),
        ({"kto_tag": False}, "field 'kto_tag' is false: this response is not wanted"),
        ({"functions": [{"name": "f"}]}, "field 'functions' is not supported; describe the tools"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "field 'chat_template_kwargs' is not supported"),
        ({"input_ids": [1, 2]}, "field 'input_ids' holds tokens"),
        ({"assistant_masks": [0, 1]}, "field 'assistant_masks' is not supported"),
        ({"loss_mask": [0, 1]}, "field 'loss_mask' is not supported: a turn is scored as a whole"),
        ({"weights": [0, 1]}, "field 'weights' is not supported: a turn is scored as a whole"),
        ({"advantage": 0.5}, "field 'advantage' weighs a response"),
        ({"ref_chosen_logps": -3.5}, "field 'ref_chosen_logps' is not read: reference log-probabilities are those of the model"),
        ({"objects": {"bbox": [[1, 2, 3, 4]]}}, "field 'objects' is not supported"),
        ({"rejected_response": "no"}, "Swift's preference pairs are not read"),
        ({"video": "a.mp4"}, "videos and audios are not supported"),
        ({"imges": ["a.png"]}, "unknown field 'imges'; did you mean 'images'?"),
        ({"image_path": "x/a.PNG"}, "field 'image_path' names a file (x/a.PNG) that is not read; call it 'images'"),
        ({"views": ["a.jpg", "b.jpg"]}, "field 'views' names a file"),
        ({"picture": "data:image/png;base64,iVBO"}, "field 'picture' names a file"),
        ({"scan": {"bytes": None, "path": "a.png"}}, "field 'scan' names a file"),  # an Image column of Hugging Face's datasets
        ({"views": [{"bytes": "iVBO", "path": None}, {"bytes": "iVBO", "path": None}]}, "field 'views' names a file"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_what_a_record_says_of_its_training_is_refused_in_foreign_formats(more, expected):
    foreign = {"conversations": conversations("a", "b")}, {"prompt": messages("a"), "completion": "b"}
    for raw in foreign:
        assert expected in refused(raw | more)
    assert next(iter(more)) in refused({"messages": messages("a", "b")} | more)


@pytest.mark.parametrize(
    "columns",
    [
        {"score": 0.9},
        {"source": "pubmed", "parents": ["x"]},
        {"prompt_id": "a1", "image_id": 7, "metadata": {"age": 61}},
        {"labels": ["effusion"], "history": "smoker", "answer": "B"},
        {"dataset": None, "rank": [0, {"a": 1}]},
    ],
)
def test_other_columns_of_foreign_formats_are_kept_in_the_metadata(columns):
    kept = {name: value for name, value in columns.items() if value is not None}
    plain = {"weight": 1, "loss": True, "tools": "[]", "videos": [], "label": True}
    for raw in ({"conversations": conversations("a", "b")}, {"prompt": messages("a"), "completion": "b"}):
        record = read(raw | columns)
        assert record.metadata == kept and record.id == read(raw).id
        assert read(raw | columns | plain).metadata == kept | {"label": True}
    turn = {"role": "assistant", "content": "b"}
    pair = read({"chosen": [*messages("a"), turn], "rejected": [*messages("a"), turn | {"content": "c"}]} | columns, PreferencePair)
    assert pair.metadata == kept


def test_an_own_record_with_another_column_names_what_reads_it():
    raw = {"messages": messages("a", "b"), "score": 0.9}
    assert "unknown field 'score'" in (message := refused(raw)) and "data.format=trl keeps other trainers' columns" in message
    assert read(raw, format="trl").metadata == {"score": 0.9}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"conversations": [{"from": "gpt", "value": "Welcome"}, *conversations("a", "b")]}, "begins with the assistant's turn"),
        ({"messages": [{"role": "assistant", "content": "Welcome"}, *messages("a", "b")]}, "begins with the assistant's turn"),
        ({"messages": [{"role": "assistant", "content": "Welcome"}, {"role": "assistant", "content": "b"}]}, "begins with the assistant's"),
        (
            {"messages": [{"role": "assistant", "content": "Welcome"}, *messages("<image>a", "b")], "images": ["a.png"]},
            "begins with the assistant's turn",
        ),
        ({"prompt": [{"role": "assistant", "content": "Welcome"}], "completion": "a"}, "begins with the assistant's turn"),
        ({"conversations": [{"from": "assistant", "value": "Welcome"}, *conversations("a", "b")]}, "begins with the assistant's turn"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "Welcome"}]}, *messages("a", "b")]},
            "begins with the assistant's turn",
        ),
        (
            {"messages": [{"role": "assistant", "content": "Welcome", "weight": 0}, *messages("a", "b")]},
            "begins with the assistant's turn",
        ),
    ],
)
def test_conversations_that_the_assistant_opens_are_refused(raw, expected):
    assert expected in refused(raw)


@pytest.mark.parametrize("format", ["mede2", "trl", "both sides whole", "sharegpt"])
def test_a_prompt_that_the_assistant_opens_is_part_of_what_is_given(format, processor):
    """Only responses are scored, so that a greeting before the question is read as any other turn."""
    hello, sides = [{"role": "assistant", "content": "Welcome"}, *messages("a")], {"chosen": "b", "rejected": "c"}
    raw = {
        "mede2": {"prompt": hello, **sides},
        "trl": {"prompt": hello} | {name: [{"role": "assistant", "content": text}] for name, text in sides.items()},
        "both sides whole": {name: [*hello, {"role": "assistant", "content": text}] for name, text in sides.items()},
        "sharegpt": {"conversations": [{"from": "gpt", "value": "Welcome"}, *conversations("a")]}
        | {name: {"from": "gpt", "value": text} for name, text in sides.items()},
    }[format]
    pair = read(raw, PreferencePair)
    assert [message.role for message in pair.prompt] == ["assistant", "user"] and (pair.chosen, pair.rejected) == ("b", "c")
    prompt = processor.chat.tokenizer.decode(processor.chat.prompt(pair.prompt).tolist())
    assert prompt.index("assistant\nWelcome<|im_end|>") < prompt.index("user\na<|im_end|>")


@pytest.mark.parametrize("system", [0, False, 0.0, -0.0, 1, True, ["be brief"], {"content": "be brief"}])
def test_a_system_column_that_is_no_text_is_refused(system):
    for raw in (
        {"conversations": conversations("a", "b")},
        {"messages": messages("<image>a", "b"), "images": ["a.png"]},
        {"prompt": messages("a"), "completion": "b"},
        {"messages": messages("a", "b")},
    ):
        assert "'system'" in refused(raw | {"system": system})


@pytest.mark.parametrize("given", [True, False, [], {}, ["a"]])
def test_an_id_is_a_text_or_a_number(given):
    assert "field 'id' must be text or a number" in refused({"id": given, "messages": messages("a", "b")})


@pytest.mark.parametrize("system", ["TURN", "", "<think>", "two\nlines", " "])
def test_a_system_column_counts_where_the_conversation_has_no_system_turn(system):
    turns, column = conversations("a", "b"), {"system": "COLUMN"}
    alone = read({"conversations": turns} | column)
    assert [message.text for message in alone.messages] == ["COLUMN", "a", "b"]
    both = read({"conversations": [{"from": "system", "value": system}, *turns]} | column)
    assert [message.text for message in both.messages] == [system, "a", "b"] and both.metadata == column
    pair = {name: {"role": "assistant", "content": name} for name in ("chosen", "rejected")}
    first = [{"role": "system", "content": system}, *messages("a")]
    assert [message.text for message in read({"messages": first} | pair | column, PreferencePair).prompt] == [system, "a"]
    assert [message.text for message in read({"messages": messages("a", "b")} | column).messages] == ["COLUMN", "a", "b"]
    assert "field 'system' is not read in TRL's format" in refused({"messages": messages("a", "b")} | column, format="trl")


TEXT = {"messages": messages("Hi", "Yo")}
SHAREGPT = {"messages": messages("<image>What?", "ok"), "images": ["a.png"]}
TRL = {"messages": messages("What?", "ok"), "images": ["a.png"]}
PARTS = {
    "messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}, TEXT["messages"][1]]
}
CONVERSATION = {"conversations": conversations("<image>What?", "ok"), "images": ["a.png"]}


@pytest.mark.parametrize("image", [SHAREGPT, TRL, PARTS, CONVERSATION, {"image": "a.png", "messages": messages("What?", "ok")}])
@pytest.mark.parametrize("nothing", [{}, {"images": None}, {"images": []}, {"image": None, "completion": None}])
def test_texts_and_images_in_one_file_are_read_alike_in_either_order(tmp_path, processor, image, nothing):
    write_image(tmp_path / "a.png", 56, 84)
    found = []
    for at, order in enumerate(([TEXT | nothing, image], [image, TEXT | nothing])):
        source = open_source(DataConfig(path=write_jsonl(tmp_path / f"{at}.jsonl", order)), "sft", processor)
        found.append([source.load(number)[0].segments[0].tokens.tolist() for number in range(2)])
    assert found[0] == found[1][::-1]


@pytest.mark.parametrize("nothing", ["images", "image", "id", "metadata", "parents", "score"])
def test_null_is_left_out_in_records_of_every_format(nothing):
    for raw in (TEXT, {"conversations": conversations("a", "b")}, {"prompt": messages("a"), "completion": "b"}):
        assert read(raw | {nothing: None}) == read(raw)
    pair = {"prompt": messages("a"), "chosen": "b", "rejected": "c"}
    assert read(pair | {nothing: None}, PreferencePair) == read(pair, PreferencePair)
    assert read_own({"prompt": messages("a"), nothing: None}, Question, "q:1") == read_own({"prompt": messages("a")}, Question, "q:1")


def test_two_fields_that_name_different_images_are_refused():
    raw = {"conversations": conversations("<image>a", "b")}
    assert read(raw | {"image": "a.png", "images": ["a.png"]}).images == ("a.png",)
    assert "name different files" in refused(raw | {"image": "a.png", "images": ["b.png"]})
