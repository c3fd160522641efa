"""Every rule takes every text: it never fails, says the same again, reads no letter that is not there, and takes time in proportion."""

import random
import time

import pytest

from mede2_jax.scoring import diagnosisarena, medxpertqa, mmmu, mmmu_pro, modes, peers
from mede2_jax.scoring.reading import NOTHING, Reading, Rule, outcome_of

LETTERS = "ABCDEFGHIJ"
TEXTS = ["normal x", "acute x", "12", "b", "胸", "Normal", ".5", "is", "\\x", "İ"]
OPTIONS = dict(zip(LETTERS, TEXTS, strict=True))
TRIGGER = medxpertqa.two_turn_trigger(LETTERS)
CHOICE, OPEN = Rule(lambda reply: mmmu.read_choice(reply, OPTIONS)), Rule(mmmu.read_open, mmmu.is_right)
SIGNS = [*LETTERS, *"bce012.,!?;:'\"()[]{}<>/*_-+=$%\\ \n\t", "胸", "答案：", "é", "İ", "ſ", "²", "١", "\0", "\ud800", "\u200b"]
WORDS = [
    *("Answer:", " answer is ", "Final answer", "The answer is ", TRIGGER, "A through J", "A through E", "I understand"),
    *("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\\text{", "}", "(A)", "(C)", " B ", "C. ", "normal", "acute x"),
    *("so ", "is ", "could be ", "thus ", "final ", "1,000", ",000", "1e5", "-2.5", "e-3", "nan", "inf", "word "),
    "normal x, acute x and no more than that ",
]
RULES = {
    "two turns": (lambda reply: medxpertqa.read(reply, LETTERS, TRIGGER), {"after the trigger", "after 'answer is'", "whole reply"}),
    "reasoning": (lambda reply: medxpertqa.read_reasoning(reply, "ABCDE"), {"after 'final answer'", "last letter"}),
    "first box": (lambda reply: medxpertqa.read_first_box(reply, "ABCDE"), {"box"}),
    "mmmu": (CHOICE.read, {"(X)", "X as a word", "option text"}),
    "mmmu open": (OPEN.read, {"after a cue", "whole reply"}),
    "mmmu pro": (
        lambda reply: mmmu_pro.read(reply, OPTIONS),
        {"after 'Answer:'", "(X)", "X before a space", "X before a full stop", "option text"},
    ),
    "diagnosisarena": (lambda reply: diagnosisarena.read_choice(reply, "ABCD"), {"box"}),
    "diagnosisarena's judge": (lambda reply: _scores(diagnosisarena.read_judge(reply)), {"scores"}),
    "medevalkit": (lambda reply: peers.medevalkit(reply, OPTIONS), {"letter", "likeness"}),
    "vlmevalkit": (lambda reply: peers.vlmevalkit(reply, OPTIONS), {"letter", "after 'answer is'", "option text"}),
    "mede2": (
        lambda reply: modes.mede2(reply, "B", CHOICE, OPTIONS).reading,
        {"answer tag", "plain answer", "(X)", "X as a word", "option text"},
    ),
    "mede2 open": (lambda reply: modes.mede2(reply, "2", OPEN).reading, {"answer tag", "plain answer", "after a cue", "whole reply"}),
}
TEXT_RULES = {"mmmu open", "mede2 open", "diagnosisarena", "diagnosisarena's judge"}


def _scores(scores):
    return Reading(None, NOTHING) if scores is None else Reading(repr([*scores.scores, scores.top1, scores.top5]), "scores")


def _replies(name, count):
    made = random.Random(name)
    for _ in range(count):
        size, share = made.randint(0, 24), made.random()
        yield "".join(made.choice(SIGNS if made.random() < share else WORDS) for _ in range(size))


@pytest.mark.parametrize("name", RULES)
def test_20000_random_replies(name):
    read, steps = RULES[name]
    seen = set()
    for number, reply in enumerate(_replies(name, 20_000)):
        reading = read(reply)
        assert number % 10 or reading == read(reply), reply
        if reading.answer is None:
            assert reading.step in {NOTHING, "answer tag", "cut"}, reply
            continue
        seen.add(reading.step)
        assert name in TEXT_RULES or reading.answer in LETTERS, reply
        assert outcome_of(reading, "B") in ("correct", "wrong")
    assert seen == steps  # so that each step was tried


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_million_characters_take_no_longer_than_they_must(name):
    pieces = ["1", "1.", "1e", "-", "12,", "1,0001", " A", "(A) ", "'", "\n", "İ", "<answer>", "<think>", "\\boxed{", "\\boxed{\n", "so \n"]
    for piece in [*pieces, "Final answer", "Answer:", TRIGGER, "acute x "]:
        reply = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
        begun = time.process_time()
        RULES[name][0](f"{reply}x")
        assert time.process_time() - begun < 8, piece  # a search that begins anew at each place would take hours
