"""The command: what stays, what is left out and why, what is held out, and what is refused."""

from pathlib import Path

import pytest
from curating import asked, curate, lines, manifest, read, stem
from planted import question, radiograph

from mede2_jax.bank.__main__ import main as bank
from mede2_jax.config import UserError
from mede2_jax.curate.__main__ import main
from mede2_jax.origins.history import Historian
from mede2_jax.origins.leakage import certificates
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.trace.__main__ import main as trace


def test_without_arguments_it_takes_the_samples_bank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^no runs/bank.jsonl yet: run python -m mede2_jax.bank first"):
        main([])
    bank([])
    main([])
    said = manifest("runs/curated.jsonl")
    left, out = read("runs/curated.jsonl"), read("runs/curated.dropped.jsonl")
    assert len(left) + len(out) == 93 and {one["id"] for one in left}.isdisjoint(one["id"] for one in out)
    assert said["counts"]["bank"] == {"text": 45, "images": 48} and sum(said["counts"]["duplicates"].values()) == len(left)
    assert sum(said["dropped"]["duplicates"].values()) == len(out)
    assert Path("runs/curated.funnel.png").read_bytes().startswith(b"\x89PNG")


def test_of_the_same_questions_the_first_stays_and_the_others_say_why(tmp_path):
    assert curate(tmp_path, [asked(1), asked(2), asked(3, of=1), asked(4, of=2, answer="B")]) == ["q1", "q2", "q4"]
    assert read(tmp_path / "c.dropped.jsonl") == [
        {"id": "q3", "step": "duplicates", "reason": "the same as another", "by": "q1", "similarity": 1.0}
    ]


def test_pictures_make_questions_of_the_same_words_different(tmp_path):
    for number in range(3):
        radiograph(number).save(tmp_path / f"{number}.png")
    radiograph(0).save(tmp_path / "0.jpg", quality=70)

    def film(number, *images):
        return question(f"q{number}", "What does this image show?", ["gout", "sprain"], "gout", images)

    kept = curate(
        tmp_path, [film(1, "0.png"), film(2, "1.png"), film(3, "0.jpg"), film(4, "0.png", "1.png"), film(5, "1.png", "0.jpg"), asked(6)]
    )
    assert kept == ["q1", "q2", "q4", "q5", "q6"], "two images in another order are another question"
    (left,) = read(tmp_path / "c.dropped.jsonl")
    assert (left["id"], left["by"], left["reason"]) == ("q3", "q1", "nearly the same as another") and 0 <= left["distance"] <= 0.2


def test_records_stay_as_they_are_and_keep_their_images(tmp_path):
    radiograph(1).save(tmp_path / "a.png")
    record = {
        **question("q1", stem(1), ["gout", "sprain"], "gout", ["a.png"]),
        "source": "ward",
        "licence": "MIT",
        "metadata": {"case": "p"},
        "parents": ["r"],
    }
    curate(tmp_path, [record])
    assert read(tmp_path / "c.jsonl") == [record]
    assert manifest(tmp_path / "c.jsonl")["images"]["root"] == str(tmp_path)


def benchmark(folder, rows):
    place = folder / "benchmark"
    place.mkdir()
    lines(place / "items.jsonl", rows)
    columns = "{id: id, question: q, answer: a, options: o, images: i}"
    (place / "w.yaml").write_text(f"name: ward\nfiles: [items.jsonl]\ncolumns: {columns}\nkind: choice\nsome_without_images: true\n")
    return [f"--leakage.task={place / 'w.yaml'}", f"--leakage.data={place}"]


def item(id, said, image=None):
    return {"id": id, "q": said, "a": "A", "o": {"A": "gout", "B": "sprain"}, "i": image}


def test_what_stands_in_a_benchmark_is_left_out_with_a_certificate(tmp_path):
    radiograph(7).save(tmp_path / "film.png")
    radiograph(7).save(tmp_path / "again.jpg")
    radiograph(8).save(tmp_path / "other.png")
    flags = benchmark(tmp_path, [item("i1", stem(1)), item("i2", "What does this show?", "film.png"), item("i3", f"{stem(9)} {stem(3)}")])
    short = question("q6", "What does this show?", ["gout", "sprain"], "gout", ["other.png"])
    film = question("q5", stem(5), ["gout", "sprain"], "gout", ["again.jpg"])
    part = question("q7", f"{stem(30)} {stem(31)} {' '.join(stem(3).split()[5:18])}", ["x", "y"], "x")
    less = question("q8", f"{stem(32)} {' '.join(stem(3).split()[5:17])}", ["x", "y"], "x")
    kept = curate(tmp_path, [asked(1), asked(2), film, short, part, less], *flags, f"--leakage.images={tmp_path / 'benchmark'},{tmp_path}")
    assert kept == ["q2", "q6", "q8"]
    assert {one["id"]: (one["by"], one["reason"]) for one in read(tmp_path / "c.dropped.jsonl")} == {
        "q1": ("ward/i1", "its text stands in ward"),
        "q5": ("ward/i2", "its image stands in ward"),
        "q7": ("ward/i3", "its text stands in ward"),
    }
    (found,) = certificates(Historian().records("questions", tmp_path / "c.jsonl"))
    assert found.certificate.benchmark == "ward" and [(match.id, match.record) for match in found.certificate.matches] == [
        ("i1", "q1"),
        ("i2", "q5"),
        ("i3", "q7"),
    ]
    assert found.certificate.thresholds == {"similarity": 0.8, "ngram": 13, "image_distance": 0.2}


def test_a_phrase_of_many_items_is_no_leak(tmp_path):
    phrase = "which of the following is the most likely diagnosis in this patient given the findings above"
    rows = [item(f"i{number}", f"{stem(50 + number)} {phrase}") for number in range(4)]
    assert curate(tmp_path, [question("q1", f"{stem(1)} {phrase}", ["x", "y"], "x")], *benchmark(tmp_path, rows)) == ["q1"]


def test_what_hangs_together_is_not_parted(tmp_path):
    for number in range(60):
        radiograph(number, size=(60, 50)).save(tmp_path / f"{number}.png")
    cases = [asked(number, metadata={"case": f"p{number // 2}"}) for number in range(60)]
    films = [question(f"f{number}", stem(100 + number), ["x", "y"], "x", [f"{number // 2}.png"]) for number in range(60)]
    same = [asked(200 + number, of=300 + number // 2, answer="AB"[number % 2]) for number in range(60)]  # one text, two answers
    kept = set(curate(tmp_path, [*cases, *films, *same], "--eval_fraction=0.4", "--duplicates.image_distance=0.02"))
    held = {one["id"] for one in read(tmp_path / "c.eval.jsonl")}
    assert kept.isdisjoint(held) and len(kept) + len(held) == 180 and 0.2 < len(held) / 180 < 0.6
    for name, start in (("q", 0), ("f", 0), ("q", 200)):
        for number in range(start, start + 60, 2):
            assert (f"{name}{number}" in held) == (f"{name}{number + 1}" in held)
    assert manifest(tmp_path / "c.jsonl")["dropped"]["split"] == {"held out": len(held)}
    assert curate(tmp_path, [*cases, *films, *same], "--eval_fraction=0.4", "--seed=1", "--duplicates.image_distance=0.02") != sorted(kept)
    # Nor without the step that looks for duplicates, where it is one image file.
    curate(tmp_path, films, "--eval_fraction=0.4", "--steps=leakage")
    held = {one["id"] for one in read(tmp_path / "c.eval.jsonl")}
    assert all((f"f{number}" in held) == (f"f{number + 1}" in held) for number in range(0, 60, 2))
    # Without a split what was held out before goes.
    curate(tmp_path, [*cases, *films, *same], "--duplicates.image_distance=0.02")
    assert not (tmp_path / "c.eval.jsonl").exists()


def test_steps_are_those_that_are_named(tmp_path):
    records = [asked(1), asked(2, of=1)]
    assert curate(tmp_path, records, "--steps=leakage") == ["q1", "q2"]
    assert curate(tmp_path, records, "--steps=duplicates") == ["q1"]
    assert manifest(tmp_path / "c.jsonl")["questions"]["digest"] == file_digest(tmp_path / "bank.jsonl")


def test_trace_says_what_became_of_a_question(tmp_path, capsys):
    curate(tmp_path, [asked(1), asked(2, of=1), asked(3)])
    told = {}
    for id in ("q1", "q2"):
        capsys.readouterr()
        trace([id, f"--curated={tmp_path / 'c.jsonl'}"])
        told[id] = " ".join(capsys.readouterr().out.split())
    assert "q1 stays" in told["q1"] and "by step duplicates: the same as another (q1, similarity 1.0)" in told["q2"]
    with pytest.raises(UserError, match="no question 'q9' in"):
        trace(["q9", f"--curated={tmp_path / 'c.jsonl'}"])


def test_trace_goes_back_through_steps_that_were_taken_one_by_one(tmp_path, capsys):
    curate(tmp_path, [asked(1), asked(2, of=1), asked(3), asked(4, of=3)], "--steps=duplicates")
    for name, before in (("second", "c"), ("third", "second")):
        main([f"--questions={tmp_path / f'{before}.jsonl'}", f"--out={tmp_path / f'{name}.jsonl'}", "--steps=duplicates"])
    capsys.readouterr()
    for id, expected in (("q1", "q1 stays: it is in"), ("q4", f"q4 is left out of {tmp_path / 'c.jsonl'} by step duplicates")):
        trace([id, f"--curated={tmp_path / 'third.jsonl'}"])
        assert expected in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"no question 'q9' in .*third.jsonl or the files beside it"):
        trace(["q9", f"--curated={tmp_path / 'third.jsonl'}"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps=duplicates,duplicates"], "--steps: must name each step once"),
        (["--steps=dedup"], "--steps"),
        (["--leakage.task=medqa"], "leakage.data has 0 folders for 1 tasks"),
        (["--leakage.task=medqs", "--leakage.data=."], "unknown task 'medqs' (did you mean 'medqa'?)"),
        (["--leakage.task=medqa", "--leakage.data={empty}"], "no file of medqa in"),
        (["--duplicates.similarity=0"], "--duplicates.similarity"),
        (["--similarity=0.5"], "unknown option '--similarity'"),
        (["--questions=nowhere.jsonl"], "nowhere.jsonl"),
        (["--image_root=nowhere"], "image 'a.png' not found"),
        (["--max_image_pixels=10"], "image 'a.png' has 50×60 = 3,000 pixels, more than"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, flags, said):
    radiograph(1, size=(60, 50)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as fault:
        curate(tmp_path, [question("q1", stem(1), ["x", "y"], "x", ["a.png"])], *(flag.format(empty=tmp_path / "empty") for flag in flags))
    assert said in str(fault.value) and "\n" not in str(fault.value)
    assert not list(tmp_path.glob("*c.*jsonl*"))


def test_ids_that_are_given_twice_are_one_line(tmp_path):
    with pytest.raises(UserError, match="field 'id': 'q1' is also that of"):
        curate(tmp_path, [asked(1), asked(1, of=2)])
