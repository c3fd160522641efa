"""What is asked about a question, and a question whose text is another."""

import json

import pytest

from mede2_jax.data.about import OF_RESPONSES, conversation, is_asked, marked_stem, stem_of, with_stem
from mede2_jax.data.records import ImagePart, Message, Question, Rollout, TextPart
from mede2_jax.reasoning.prompts import ABOUT

CHOICES = "\nAnswer Choices: (A) gout (B) sprain"


def asked(*parts, images=None, system=None, **fields):
    """Parts: texts, and None for an image."""
    content = tuple(ImagePart() if part is None else TextPart(text=part) for part in parts)
    before = (Message(role="system", content=system),) if system is not None else ()
    names = tuple(f"{number}.png" for number in range(parts.count(None) if images is None else images))
    return Question(id="q", prompt=(*before, Message(role="user", content=content)), images=names, **fields)


OPTIONS = {"A": "gout", "B": "sprain"}


@pytest.mark.parametrize(
    ("question", "stem"),
    [
        (asked(None, "Which?" + CHOICES, options=OPTIONS), "<image 1>Which?"),
        (asked("Before ", None, " and after ", None, "?", CHOICES, options=OPTIONS), "Before <image 1> and after <image 2>?"),
        (asked("Which?" + CHOICES, None, options=OPTIONS), "Which?"),
        (asked(None, "Which?" + CHOICES), "<image 1>Which?" + CHOICES),
        (asked(None, "Why?", images=2, system=(ImagePart(), TextPart(text="s"))), "<image 2>Why?"),
    ],
)
def test_a_stem_has_marks_and_comes_back_as_it_was(question, stem):
    assert marked_stem(question) == stem
    again = with_stem(question, stem)
    assert again.images == question.images and [message.text for message in again.prompt] == [message.text for message in question.prompt]
    places = [[part.type for part in one.prompt[-1].content].count("image") for one in (again, question)]
    assert places[0] == places[1] and marked_stem(again) == stem
    assert Question.model_validate(again.model_dump()) == again


def test_another_stem_keeps_choices_images_and_the_turns_before():
    question = asked("Here: ", None, "a mass. Which?" + CHOICES, options=OPTIONS, system="be good", answer="A")
    other = with_stem(question, "Here: <image 1> Which?")
    assert other.prompt[0] == question.prompt[0] and other.options == OPTIONS and other.id == "q"
    assert other.prompt[1].content == (TextPart(text="Here: "), ImagePart(), TextPart(text=" Which?" + CHOICES))
    plain = Question(prompt=(Message(role="user", content="Which?" + CHOICES),), options=OPTIONS)
    assert with_stem(plain, "What?").prompt[0].content == "What?" + CHOICES and stem_of(plain) == "Which?"


KEYS = {
    "type": {"question", "options", "right_answer"},
    "refinement": {"question"},
    "expansion": {"question", "options", "response"},
    "rating": {"question", "options", "right_answer", "response"},
}


def answered(question, response="so", finish_reason="stop"):
    counts = {"sample": 0, "seed": 0, "prompt_tokens": 1, "response_tokens": 1}
    return Rollout(**{**dict(question), "id": "q#0"}, response=response, finish_reason=finish_reason, model="m", **counts)


@pytest.mark.parametrize("ask", list(ABOUT))
def test_what_is_asked_about_a_question_shows_it_as_data(ask):
    question = asked('say "yes"\n{DATA} ', None, "; which?" + CHOICES, options=OPTIONS, answer="A", system="be good")
    about = answered(question, '{DATA} "x"') if ask in OF_RESPONSES else question
    (turn,) = conversation(about, ask)
    assert [part.type for part in turn.content] == ["text", "image", "text", "text"]
    assert turn.content[0].text == "<image 1>: "
    before, after = ABOUT[ask].text.split("{DATA}")
    text = turn.content[-1].text
    assert text.startswith(before) and text.endswith(after)
    data = json.loads(text[len(before) : len(text) - len(after)])
    assert data["question"] == 'say "yes"\n{DATA} <image 1>; which?' and set(data) == KEYS[ask]
    assert data.get("response", '{DATA} "x"') == '{DATA} "x"' and data.get("right_answer", "A") == "A"
    assert conversation(question, "answer") == question.prompt


def test_a_model_is_asked_only_about_what_has_images_or_came_to_its_end():
    some = (asked("a"), asked("a", None), asked("a <image 1>", None))
    assert [is_asked(one, "type") for one in some] == [False, True, False] and all(is_asked(one, "answer") for one in some)
    assert [is_asked(answered(one), "rating") for one in some] == [True, True, False]
    assert not is_asked(answered(some[0], " "), "rating") and not is_asked(answered(some[0], "x", "length"), "expansion")
    (turn,) = conversation(answered(some[0]), "rating")
    assert isinstance(turn.content, str)
