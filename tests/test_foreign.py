"""Text and JSON that others wrote."""

import time

import pytest

from mede2_jax.foreign import MAX_DEPTH, JSONFault, one_line, parse_json, shown, visible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\x1b]0;title\x07b\x9b2Jc\u202ed\ud800\te\n", "a\\x1b]0;title\\x07b\\x9b2Jc\\u202ed\\ud800\te\n"),
        ("safe\rgone", "safe\\rgone"),  # writes over the line's beginning
        ("x\b\b\x7f", "x\\x08\\x08\\x7f"),
        ("\x1bP1;1|17/61\x1b\\", "\\x1bP1;1|17/61\\x1b\\"),  # sets what a key sends
        ("\x1b]8;;http://a\x1b\\link", "\\x1b]8;;http://a\\x1b\\link"),
        ("\x9d52;c;Y3VybA==\x9c", "\\x9d52;c;Y3VybA==\\x9c"),  # fills the clipboard
        ("\x0e\x0f\x05", "\\x0e\\x0f\\x05"),  # other letters, and an answer that nobody typed
        ("a\u2066b\u2069\u200f\u061c", "a\\u2066b\\u2069\\u200f\\u061c"),
        ("a\u2028b\u2029c\ufeff", "a\\u2028b\\u2029c\\ufeff"),
    ],
    ids=ascii,
)
def test_what_a_terminal_would_obey_is_shown_instead(text, seen):
    assert visible(text) == seen and visible(seen) == seen


def test_what_is_shown_is_left_as_it_is():
    assert one_line("a\r\n b\x00") == "a b\\x00"
    assert visible("é ≠ がん 🫀 \u200d") == "é ≠ がん 🫀 \u200d"


def test_values_are_quoted_on_one_line_and_cut():
    assert shown("x" * 100, 10) == "xxxxxxxxx…"
    assert shown({"a": [1, None, "ü\x1b"]}) == '{"a": [1, null, "ü\\u001b"]}'
    assert len(shown("\x1b" * 1000, 40)) == 40


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"a": 1,}', "column 9"),
        ('{"a": 1\n"b": 2}', "line 2 column 1: expecting ',' delimiter, found"),
        ('{"a"', "found the end"),
        ("", "found the end"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("[1e400]", "1e400 is too large"),
        ("9" * 5000, "4,300 digits"),
        (b"\xff{}", "not UTF-8 text (byte 0)"),
        ("[" * 200_000, "nested too deeply"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ('{"a\x1b]0;": 1', "not valid JSON"),
    ],
)
def test_a_fault_is_one_line_that_says_where(text, says):
    with pytest.raises(JSONFault) as fault:
        parse_json(text)
    message = str(fault.value)
    assert says in message and message == one_line(message) and len(message) < 200


def test_json_is_read():
    assert parse_json(b'{"a": [1, 2.5, "\xc3\xbc", null, true]}') == {"a": [1, 2.5, "ü", None, True]}
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) is not None
    assert len(parse_json("[" + ",".join(["[]"] * 1000) + "]")) == 1000


@pytest.mark.parametrize("many", [100, 200_000])
def test_a_name_given_twice_is_found_at_once_among_many(many):
    text = "{" + ", ".join(f'"{place}": 0' for place in (*range(many), many - 1)) + "}"
    begun = time.process_time()
    with pytest.raises(JSONFault, match=f"'{many - 1}' is given twice"):
        parse_json(text)
    assert time.process_time() - begun < 10
