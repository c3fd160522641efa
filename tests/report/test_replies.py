"""Replies cut into thoughts and the rest."""

import pytest

from mede2_jax.report.replies import Image, Turn, segments, turns


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("plain", [("text", "plain")]),
        ("<think> a </think> b", [("think", " a "), ("text", " b")]),
        ("a </think> b", [("think", "a "), ("text", " b")]),  # the prompt began it
        ("<think> cut", [("think", " cut")]),
        ("x <think>a</think> y <THINK>b</Think> z", [("text", "x "), ("think", "a"), ("text", " y "), ("think", "b"), ("text", " z")]),
        ("<think> a <think> b </think> c", [("think", " a <think> b "), ("text", " c")]),
        ("<think>a</think> b </think> c", [("think", "a"), ("text", " b </think> c")]),
        ("<think> </think> b", [("text", " b")]),
        ("", []),
        ("<answer> B </answer>", [("text", "<answer> B </answer>")]),
    ],
)
def test_thoughts_are_apart(reply, expected):
    assert segments(reply) == expected


def test_images_stand_in_their_places():
    content = [{"type": "image"}, {"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]
    found = turns([{"role": "system", "content": "s"}, {"role": "user", "content": content}], ["a.png", "b.png"])
    assert found == (Turn("system", ("s",)), Turn("user", (Image("a.png"), "one", Image("b.png"), "two")))
