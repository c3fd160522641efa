"""A judgment knows the images that it judged: other files under the same names are noticed by every command that comes after."""

import hashlib
import json
import shutil

import pytest
from judging import Engine, manifest, read, reply, with_engine
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.judged import difference, files_digest, of_both
from mede2_jax.judge.__main__ import main
from mede2_jax.pair.__main__ import main as pair

RED, BLUE = (200, 10, 10), (10, 10, 200)


def rollout(number, names, right=True):
    parts = [*({"type": "image"} for _ in names), {"type": "text", "text": "What is shown? A. Air B. Fluid"}]
    return {
        "id": f"q{number // 2}#{number % 2}",
        "parents": [f"q{number // 2}"],
        "prompt": [{"role": "user", "content": parts}],
        "images": names,
        "answer": "A",
        "options": {"A": "Air", "B": "Fluid"},
        "sample": number % 2,
        "response": f"<think> seen {number} and thought about at some length </think> <answer> {'A' if right else 'B'} </answer>",
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "response_tokens": 5,
        "seed": number,
        "model": "m",
    }


def paint(path, colour):
    Image.new("RGB", (8, 8), colour).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two questions with two responses each, one image in the first, two in the second; the second response of each is flawed."""
    for name in ("a", "b", "c"):
        paint(tmp_path / f"{name}.png", RED)
    rollouts = [rollout(number, ["a.png"] if number < 2 else ["b.png", "c.png"]) for number in range(4)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rollouts))
    with_engine(monkeypatch, Engine(lambda request: reply(*(["reflection"] if "#1@" in request.id else []))))
    return tmp_path


def judge(folder, *flags):
    main([f"--rollouts={folder / 'r.jsonl'}", f"--out={folder / 'j.jsonl'}", "--judge=gemini", *flags])


def make_pairs(folder):
    pair([f"--judgments={folder / 'j.jsonl'}", f"--rollouts={folder / 'r.jsonl'}", f"--out={folder / 'p.jsonl'}", "--eval_fraction=0"])


def digests(folder):
    def digest(*names):
        return files_digest(hashlib.sha256((folder / name).read_bytes()).digest() for name in names)

    return {"q0": digest("a.png"), "q1": digest("b.png", "c.png")}


def sampled_with(folder, digests, **more):
    """As `rollout` writes it beside its file."""
    content = {"command": "python -m mede2_jax.rollout", "images": {"root": str(folder), "digests": digests, **more}}
    (folder / "r.jsonl.manifest.json").write_text(json.dumps(content))


def without_images(folder):
    """A file of judgments as they were written before they knew their images."""
    lines = [one | {"of": one["of"].partition("-")[0]} for one in read(folder / "j.jsonl")]
    (folder / "j.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_a_judgment_names_response_and_images(folder):
    judge(folder)
    found = {one["parents"][0]: one["of"].split("-") for one in read(folder / "j.jsonl")}
    assert len({content for content, _ in found.values()}) == 4
    assert {name: files for name, (_, files) in found.items()} == {f"q{q}#{s}": digests(folder)[f"q{q}"] for q in (0, 1) for s in (0, 1)}


@pytest.mark.parametrize("name", ["a.png", "b.png", "c.png"])
def test_more_repeats_with_another_picture_are_refused(folder, name):
    judge(folder)
    paint(folder / name, BLUE)
    before = (folder / "j.jsonl").read_bytes()
    with pytest.raises(
        UserError, match=r"j.jsonl:\d: a judgment of other images than 'q\d#\d' has now; put them back, or use another --out"
    ):
        judge(folder, "--repeat=2")
    assert (folder / "j.jsonl").read_bytes() == before
    paint(folder / name, RED)
    judge(folder, "--repeat=2")
    assert len(read(folder / "j.jsonl")) == 8


def test_two_pictures_that_change_places_are_noticed(folder):
    paint(folder / "c.png", BLUE)
    judge(folder)
    shutil.move(folder / "b.png", folder / "x.png")
    shutil.move(folder / "c.png", folder / "b.png")
    shutil.move(folder / "x.png", folder / "c.png")
    with pytest.raises(UserError, match="a judgment of other images than 'q1#0' has now"):
        judge(folder, "--repeat=2")


@pytest.mark.parametrize("question", ["q0", "q1"])
def test_other_images_than_those_that_were_sampled_with_are_not_judged(folder, question):
    sampled_with(folder, digests(folder) | {question: "0123456789abcdef"})
    said = rf"images of question '{question}' are other files than those that it was sampled with \(0123456789abcdef then, "
    with pytest.raises(UserError, match=said + r"[0-9a-f]{16} now\); put them back, or sample it anew"):
        judge(folder)
    assert not (folder / "j.jsonl").exists()


@pytest.mark.parametrize("said", [None, {}, {"q0": 7}, [], "x", {"other": "0123456789abcdef"}])
def test_a_manifest_that_does_not_know_is_no_obstacle(folder, said):
    sampled_with(folder, said)
    judge(folder)
    assert len(read(folder / "j.jsonl")) == 4


def test_a_picture_that_changes_while_the_run_goes_on_is_noticed(folder, monkeypatch):
    def say(request):
        paint(folder / "b.png", BLUE)
        return reply()

    engine = Engine(say)
    engine.answer = lambda requests: (answer for request in requests for answer in engine._replies([request]))
    with_engine(monkeypatch, engine)
    with pytest.raises(UserError, match="images of 'q1#0' have changed since this run began; put them back, or start it again"):
        judge(folder)
    assert len(read(folder / "j.jsonl")) == 2


def test_pairs_are_made_of_what_was_judged(folder):
    judge(folder)
    make_pairs(folder)
    assert len(read(folder / "p.jsonl")) == 2
    paint(folder / "c.png", BLUE)
    with pytest.raises(UserError, match=r"j.jsonl:\d: a judgment of other images than 'q1#0' of .*r.jsonl:3 has now; put them back"):
        make_pairs(folder)


def test_judgments_of_before_they_knew_their_images_are_still_read(folder):
    judge(folder)
    without_images(folder)
    judge(folder, "--repeat=2")
    assert sum("-" in one["of"] for one in read(folder / "j.jsonl")) == 4 and manifest(folder / "j.jsonl")["finished"]
    make_pairs(folder)
    assert len(read(folder / "p.jsonl")) == 2
    paint(folder / "a.png", BLUE)
    with pytest.raises(UserError, match="of other images than 'q0#0'"):
        make_pairs(folder)


def test_an_old_file_alone_makes_pairs_as_it_did(folder):
    judge(folder)
    without_images(folder)
    paint(folder / "a.png", BLUE)
    make_pairs(folder)
    assert len(read(folder / "p.jsonl")) == 2


def test_judgments_of_two_pictures_under_one_name_are_told_apart(folder):
    judge(folder)
    lines = read(folder / "j.jsonl")
    lines.append(lines[0] | {"id": lines[0]["id"][:-1] + "1", "repeat": 1, "of": lines[0]["of"].partition("-")[0] + "-0123456789abcdef"})
    (folder / "j.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(UserError, match=r"j.jsonl:5: a judgment of other images than .*j.jsonl:1, both called"):
        make_pairs(folder)


@pytest.mark.parametrize(
    ("of", "other", "expected"),
    [
        ("a-1", "a-1", ""),
        ("a", "a-1", ""),
        ("a-1", "a", ""),
        ("a-1", "a-2", "images"),
        ("b-1", "a-1", "response"),
        ("b", "a-1", "response"),
    ],
)
def test_in_what_two_differ(of, other, expected):
    assert difference(of, other) == difference(other, of) == expected
    assert of_both("a", "") == "a" and of_both("a", "1") == "a-1"
