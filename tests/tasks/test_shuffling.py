"""Options in another order: the texts move, the right one stays right, and a letter stands for the option that was shown there."""

import itertools
import json
from collections import Counter

import pytest
from task_files import diagnosisarena, medqa, mmmu, mmmu_pro, write_jsonl, write_parquet

from mede2_jax.config import UserError
from mede2_jax.tasks.catalogue import find_task, open_items
from mede2_jax.tasks.item import Item
from mede2_jax.tasks.shuffling import meant_by, order_of, shuffled

OPTIONS = {"A": "gout", "B": "lupus", "C": "flu", "D": "None of the above"}


def items(name, path):
    task = find_task(name)
    return task, open_items(task, path).items


def test_an_order_is_a_permutation_that_follows_from_seed_and_id():
    item = Item("q1", "Which?", "B", OPTIONS)
    assert order_of(3, item) == order_of(3, Item("q1", "Another text?", "C", dict.fromkeys("DCBA", "x")))
    orders = Counter(order_of(seed, item) for seed in range(2400))
    assert set(orders) == {"".join(order) for order in itertools.permutations("ABCD")}
    # 24 orders, 100 expected of each; a standard deviation is 10.
    assert all(60 < count < 140 for count in orders.values())
    assert len({order_of(3, Item(f"q{n}", "Which?", "B", OPTIONS)) for n in range(60)}) > 15


def test_texts_move_and_the_right_one_stays_right(tmp_path):
    task, (item,) = items("medqa", write_jsonl(tmp_path / "medqa.jsonl", [medqa(0, "C")]))
    moved = shuffled(task, item, "CADB")
    assert moved.options == {"A": item.options["C"], "B": item.options["A"], "C": item.options["D"], "D": item.options["B"]}
    assert moved.answer == "A" and (moved.id, moved.groups, moved.cluster) == (item.id, item.groups, item.cluster)
    assert [meant_by(letter, item, "CADB") for letter in ("A", "B", "C", "D", None, "a text")] == ["C", "A", "D", "B", None, "a text"]
    for order in map("".join, itertools.permutations("ABCD")):
        moved = shuffled(task, item, order)
        assert moved.options[moved.answer] == item.options[item.answer] and meant_by(moved.answer, item, order) == "C"
        assert all(moved.options[letter] == item.options[meant_by(letter, item, order)] for letter in "ABCD")


def test_several_right_letters_move_together():
    task = find_task("medqa")
    assert shuffled(task, Item("q", "?", ("A", "D"), OPTIONS), "DBAC").answer == ("C", "A")


@pytest.mark.parametrize("order", ["ABC", "ABCDE", "AABC", "abcd", ""])
def test_what_is_no_order_is_refused(order):
    with pytest.raises(UserError, match=rf"^q1: '{order}' is no order of its options \(A, B, C, D\)"):
        shuffled(find_task("medqa"), Item("q1", "?", "B", OPTIONS), order)


def pieces(asked):
    return [piece if isinstance(piece, str) else f"[{piece.data.decode()}]" for piece in asked.user]


def test_images_go_with_the_options_that_they_stand_in(tmp_path):
    images = {1: b"one", 2: b"two", 3: b"three"}
    row = mmmu(1, question="Beside <image 2>?", options=("<image 3>", "as <image 1>", "none"), answer="B", images=images)
    task, (item,) = items("mmmu_health", write_parquet(tmp_path / "Pharmacy" / "validation-0.parquet", [row]).parents[1])
    moved = shuffled(task, item, "CBA")
    assert [image.data for image in moved.images] == [b"two", b"one", b"three"] and moved.answer == "B"
    said = "".join(pieces(task.asked(moved, "mede2")))
    assert said == "Beside [two]?\nAnswer Choices: (A) none (B) as [one] (C) [three]"
    official = "".join(pieces(task.asked(moved, "official")))
    assert "(A) none\n(B) as [one]\n(C) [three]\n" in official
    row = mmmu_pro(1, question="See <image 2>.", options=("a <image 1>", "b", "c <image 3>"), answer="C", images=images)
    data = write_parquet(tmp_path / "standard (10 options)" / "test-0.parquet", [row]).parents[1]
    task, (item,) = items("mmmu_pro_standard10", data)
    text, *shown = pieces(task.asked(shuffled(task, item, "CBA"), "direct"))
    assert text.startswith("See <image>.\nA. c <image>\nB. b\nC. a <image>\n") and shown == ["[two]", "[three]", "[one]"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("A. gout\nB. lupus\nC. flu", "A. flu\nB. gout\nC. lupus"),
        ("(A) gout\n(B) lupus\n(C) flu\n", "(A) flu\n(B) gout\n(C) lupus\n"),
        (json.dumps({"A": "gout", "B": "lupus", "C": "flu"}), json.dumps({"A": "flu", "B": "gout", "C": "lupus"})),
        (json.dumps(["gout", "lupus", "flu"]), json.dumps(["flu", "gout", "lupus"])),
        ("['gout', 'lupus', 'flu']", "['flu', 'gout', 'lupus']"),
        ({"A": "gout", "B": "lupus", "C": "flu"}, '{"A": "flu", "B": "gout", "C": "lupus"}'),
        (
            json.dumps([{"letter": "A", "content": "gout"}, {"letter": "B", "content": "lupus"}, {"letter": "C", "content": "flu"}]),
            json.dumps([{"letter": "A", "content": "flu"}, {"letter": "B", "content": "gout"}, {"letter": "C", "content": "lupus"}]),
        ),
        ("A. A. gout\nB. B\nC. C", "A. C\nB. A. gout\nC. B"),
    ],
)
def test_options_that_are_shown_as_they_are_written_keep_their_form(tmp_path, written, expected):
    task, (item,) = items("diagnosisarena", write_jsonl(tmp_path / "diagnosisarena.jsonl", [diagnosisarena(3, written)]))
    (asked,) = task.asked(shuffled(task, item, "CAB"), "official").user
    assert f"Here are the four options: \n{expected}\n\nPut your final" in asked
    assert f"Here are the four options: \n{item.fields['Options']}\n" in task.asked(shuffled(task, item, "ABC"), "official").user[0]
