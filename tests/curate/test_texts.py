"""What texts of questions share, against sets of words counted in the test."""

import random

import pytest

from mede2_jax.curate.texts import LONG_RUN, Text, TextIndex, same_answer, share_options, similarity, text_of
from mede2_jax.data.about import stem_of
from mede2_jax.data.records import Message, Question


def text(stem, options=None, answer=None) -> Text:
    return text_of(stem, options, answer)


def jaccard(one, other):
    sets = [{tuple(words[place : place + 3]) for place in range(len(words) - 2)} for words in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_similarity_is_the_jaccard_index_of_three_word_runs():
    rng = random.Random(0)
    for _ in range(200):
        one, other = (" ".join(rng.choices("abcdef", k=rng.randint(3, 30))) for _ in range(2))
        assert similarity(text(one), text(other)) == pytest.approx(jaccard(one, other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Give 5 mg of it, now.", "give 5mg OF it now"),
        ("Temperature 38.5 °C; pulse 90/min", "temperature 38.5°C pulse 90 / min"),
        ("Ménière's disease", "meniere s disease"),
        ("A\n B\t c", "a b c"),
    ],
)
def test_case_punctuation_accents_and_spaces_do_not_count(one, other):
    assert similarity(text(one), text(other)) == 1.0


@pytest.mark.parametrize(("one", "other"), [("Give 5 mg", "Give 50 mg"), ("38.5 degrees", "38.6 degrees"), ("a b", "b a"), ("a", "a a")])
def test_what_is_another_text_is_not_the_same(one, other):
    assert similarity(text(one), text(other)) < 1.0


def test_options_count_in_any_order_and_by_what_they_say():
    one = text("Which?", {"A": "Acute gout", "B": "Ankle sprain"}, "A")
    other = text("Which?", {"A": "ankle  sprain", "B": "acute gout"}, "B")
    assert similarity(one, other) == 1.0 and share_options(one, other) and same_answer(one, other)
    third = text("Which?", {"A": "Acute gout", "B": "Cellulitis", "C": "Bursitis"}, "A")
    assert not share_options(one, third) and same_answer(one, third)
    assert not same_answer(one, text("Which?", {"A": "Acute gout", "B": "Ankle sprain"}, "B"))
    assert same_answer(one, text("Which?", None, None)) and share_options(one, text("Which?"))


def test_texts_without_words_are_the_same_and_like_no_other():
    assert similarity(text("…"), text("!")) == 1.0 and similarity(text(""), text("word")) == 0.0


def test_long_runs_are_of_thirteen_words():
    words = list("abcdefghijklmnopqrst")  # each a word
    assert LONG_RUN == 13 and len(text(" ".join(words)).long_runs) == 8 and not len(text(" ".join(words[:12])).long_runs)
    shared = set(text(" ".join(words)).long_runs.tolist()) & set(text(" ".join(["x", *words[3:16], "y"])).long_runs.tolist())
    assert len(shared) == 1


def test_the_index_finds_what_comparing_all_finds():
    rng = random.Random(1)
    stems = [" ".join(rng.choices([f"w{number}" for number in range(500)], k=60)) for _ in range(300)]
    changed = [" ".join("zz" if rng.random() < rng.choice((0.0, 0.02, 0.05)) else word for word in stem.split()) for stem in stems]
    index, known, others = TextIndex(0.8), [text(stem) for stem in stems], [text(stem) for stem in changed]
    for number, one in enumerate(known):
        index.add(number, one)
    found = {(number, other) for number, one in enumerate(others) for other, _ in index.like(one)}
    wanted = {(number, other) for number, one in enumerate(others) for other in range(300) if similarity(one, known[other]) >= 0.8}
    assert len(wanted) > 150 and found <= wanted and len(found) >= 0.98 * len(wanted)


def test_the_stem_is_what_comes_before_the_choices():
    def asked(said, options=None):
        return Question(prompt=(Message(role="user", content=said),), options=options)

    assert stem_of(asked("Which?\nAnswer Choices: (A) x (B) y", {"A": "x", "B": "y"})) == "Which?"
    assert stem_of(asked("Which?\nAnswer Choices: none")) == "Which?\nAnswer Choices: none"
