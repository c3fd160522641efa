"""Judge and people compared: the figures by arithmetic that is written out here, and which judgments to look at."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from reviewing import all_met, annotation, lines, project, read, review, tasks
from scipy import stats

from mede2_jax.config import UserError
from mede2_jax.reasoning.rubric import ASPECTS, MMRP

MERITS = ("correct_answer", "logical_structure", "plausible_reasoning")


def kappa(pairs):
    """Cohen's, from the four counts."""
    counts, n = Counter(pairs), len(pairs)
    one, other = (sum(pair[place] for pair in pairs) / n for place in (0, 1))
    seen, chance = (counts[True, True] + counts[False, False]) / n, one * other + (1 - one) * (1 - other)
    return (seen - chance) / (1 - chance)


@pytest.fixture(scope="module")
def compared(sample, judged, tmp_path_factory):
    """Three people on ninety responses: they say what the judge says, but that each turns some verdicts round; two of them on sixty."""
    folder = tmp_path_factory.mktemp("compared")
    review("export", rollouts=sample / "rollouts.jsonl", judgments=judged, limit=90, out=folder / "review")
    some = tasks(folder / "review")
    place = {one["data"]["id"]: number for number, one in enumerate(some)}
    judge = {one["parents"][0]: one for one in read(judged)}

    def said(data):
        number, base = place[data["id"]], {name: judge[data["id"]][name]["met"] for name in ASPECTS}
        people = [1, 2, 3] if number < 30 else [1, 2] if number < 60 else [3]
        return [
            annotation(person, {name: met != ((number + 2 * person + at) % (7 + at) == 0) for at, (name, met) in enumerate(base.items())})
            for person in people
        ]

    project(folder / "export.json", some, said)
    review("import", rollouts=sample / "rollouts.jsonl", export=folder / "export.json", out=folder / "people.jsonl")
    review("agreement", people=folder / "people.jsonl", judgments=judged, out=folder / "out", look=3)
    return folder, {one["parents"][0]: one for one in read(judged)}


def votes(folder):
    found = {}
    for one in read(folder / "people.jsonl"):
        found.setdefault(one["parents"][0], []).append({name: one[name]["met"] for name in MMRP})
    return found


def test_the_figures_are_those_of_arithmetic(compared):
    folder, judge = compared
    result = json.loads((folder / "out" / "agreement.json").read_text())
    both = {}
    for id, some in votes(folder).items():
        sums = {name: sum(one[name] for one in some) for name in MMRP}
        if all(2 * count != len(some) for count in sums.values()):
            both[id] = {name: 2 * count > len(some) for name, count in sums.items()}
    assert result["compared"] == len(both) and result["left_out"] == {
        "people only": 0,
        "judge only": len(judge) - 90,
        "undecided": 90 - len(both),
    }
    for name in MMRP:
        pairs = [(both[id][name], judge[id][name]["met"]) for id in both]
        said, counts = result["criteria"][name], Counter(pairs)
        assert (said["both_yes"], said["people_only"]) == (counts[True, True], counts[True, False])
        assert (said["judge_only"], said["both_no"]) == (counts[False, True], counts[False, False])
        assert math.isclose(said["agreement"], (counts[True, True] + counts[False, False]) / len(both))
        assert (
            math.isclose(said["kappa"], kappa(pairs), abs_tol=1e-12)
            and said["kappa_interval"][0] < said["kappa"] < said["kappa_interval"][1]
        )
    differences = [sum(both[id].values()) - sum(judge[id][name]["met"] for name in MMRP) for id in both]
    assert result["differences"] == {str(value): count for value, count in sorted(Counter(differences).items())}
    sigma = math.sqrt(sum((one - sum(differences) / len(differences)) ** 2 for one in differences) / len(differences))
    assert math.isclose(result["sigma"], sigma, rel_tol=1e-12)
    assert result["within_sigma"] == sum(abs(one - sum(differences) / len(differences)) <= sigma for one in differences)


def test_people_among_one_another_are_compared_too(compared):
    """Fleiss's kappa in the form of Fleiss and Cuzick (1979), for 30 responses of three people and 30 of two."""
    folder, _ = compared
    several = [some for some in votes(folder).values() if len(some) > 1]
    assert sorted(Counter(map(len, several)).items()) == [(2, 30), (3, 30)]
    for name in MMRP:
        said = json.loads((folder / "out" / "agreement.json").read_text())["people"][name]
        yes, sizes = [sum(one[name] for one in some) for some in several], [len(some) for some in several]
        share, mean = sum(yes) / sum(sizes), sum(sizes) / len(sizes)
        mixed = sum(count * (size - count) / size for count, size in zip(yes, sizes, strict=True))
        assert math.isclose(said["kappa"], 1 - mixed / (len(sizes) * (mean - 1) * share * (1 - share)), abs_tol=1e-12)
        assert (said["kind"], said["items"]) == ("Fleiss", 60)


def test_the_judgments_to_look_at_are_those_that_differ_the_farthest_apart_first(compared):
    folder, judge = compared
    with (folder / "out" / "look.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    apart = [int(row["criteria apart"]) for row in rows]
    assert apart == sorted(apart, reverse=True) and min(apart) > 0
    majority = {id: {name: 2 * sum(one[name] for one in some) > len(some) for name in MMRP} for id, some in votes(folder).items()}
    for row in rows:
        differing = [name for name in MMRP if majority[row["rollout"]][name] != judge[row["rollout"]][name]["met"]]
        assert len(differing) == int(row["criteria apart"])
        assert all(name.replace("_", " ") + ": people " in row["in what"] for name in differing)


def test_the_figure_and_the_tables_are_there(compared):
    folder, _ = compared
    names = {"agreement.csv", "people.csv", "look.csv", "agreement.md", "figure3-judge.png", "figure3-judge.svg", "agreement.json"}
    assert names | {"agreement.json.manifest.json"} == {one.name for one in (folder / "out").iterdir()}
    assert Image.open(folder / "out" / "figure3-judge.png").size[0] > 600
    assert "Cohen's kappa" in (folder / "out" / "agreement.md").read_text()


def test_two_people_on_everything_are_compared_by_cohens_kappa(sample, tmp_path):
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    review("export", rollouts=sample / "rollouts.jsonl", limit=50, out=tmp_path / "review")
    some = tasks(tmp_path / "review")
    place = {one["data"]["id"]: number for number, one in enumerate(some)}
    by = lambda data: [annotation(who + 1, all_met(reflection=met)) for who, met in enumerate(pairs[place[data["id"]]])]  # noqa: E731
    project(tmp_path / "export.json", some, by)
    review("import", rollouts=sample / "rollouts.jsonl", export=tmp_path / "export.json", out=tmp_path / "people.jsonl")
    review("import", rollouts=sample / "rollouts.jsonl", export=tmp_path / "export.json", out=tmp_path / "other.jsonl")
    first = [one for one in read(tmp_path / "other.jsonl") if one["judge"]["model"] == "annotator-1"]
    lines(tmp_path / "other.jsonl", first)  # one of them as the judge
    review("agreement", people=tmp_path / "people.jsonl", judgments=tmp_path / "other.jsonl", out=tmp_path / "out")
    said = json.loads((tmp_path / "out" / "agreement.json").read_text())["people"]["reflection"]
    assert said["kind"] == "Cohen" and math.isclose(said["kappa"], 0.4) and math.isclose(said["agreement"], 0.7)


def test_a_table_that_does_not_say_who_judged_is_compared_too(judged, tmp_path):
    """Three rows a response, by nobody in particular: Fleiss's kappa of them."""
    ids = [one["parents"][0] for one in read(judged)][:20]
    said = [
        {"rollout": id, **dict.fromkeys(MMRP, "yes"), "reflection": "yes" if (n + k) % 3 else "no"}
        for n, id in enumerate(ids)
        for k in range(3)
    ]
    people = lines(tmp_path / "people.jsonl", said)
    review("agreement", people=people, judgments=judged, out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "agreement.json").read_text())["people"]
    assert found["reflection"]["kind"] == "Fleiss" and found["reflection"]["items"] == 20
    assert math.isclose(found["reflection"]["kappa"], 1 - (2 / 3) / (2 * (2 / 3) * (1 / 3))) and found["image_analysis"]["kappa"] is None


def test_ratings_and_people_are_compared(tmp_path, monkeypatch):
    from mede2_jax.distill.__main__ import main as distill

    monkeypatch.chdir(tmp_path)
    distill([])
    review("export", demonstrations="runs/demonstrations.jsonl", out="review")
    some = tasks(tmp_path / "review")
    half = {one["data"]["id"] for one in some[:24]}
    project(tmp_path / "export.json", some, lambda data: [annotation(1, all_met(MERITS, logical_structure=data["id"] in half))])
    review("import", demonstrations="runs/demonstrations.jsonl", export="export.json", out="reviews.jsonl")
    with pytest.raises(UserError, match=r"has no ratings; run python -m mede2_jax\.distill with --ratings first"):
        review("agreement", people="reviews.jsonl", demonstrations="runs/demonstrations.jsonl", out="out")
    rated = [one | {"metadata": one["metadata"] | {"merits": dict.fromkeys(MERITS, 1.0)}} for one in read("runs/demonstrations.jsonl")]
    lines("rated.jsonl", rated)
    review("agreement", people="reviews.jsonl", demonstrations="rated.jsonl", out="out")
    said = json.loads((tmp_path / "out" / "agreement.json").read_text())["criteria"]
    assert said["logical_structure"]["agreement"] == 0.5 and said["correct_answer"]["agreement"] == 1.0
    assert said["correct_answer"]["kappa"] is None and said["logical_structure"]["kappa"] == 0.0


def test_people_and_judge_of_different_kinds_are_refused(compared, judged, tmp_path):
    folder, _ = compared
    demonstrations = lines(
        tmp_path / "d.jsonl",
        [
            {
                "id": "d",
                "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "metadata": {"merits": dict.fromkeys(MERITS, 1.0)},
            }
        ],
    )
    with pytest.raises(UserError, match="has no verdict on 'correct_answer'; give --judgments instead"):
        review("agreement", people=folder / "people.jsonl", demonstrations=demonstrations, out=tmp_path / "out")
    reviews = lines(
        tmp_path / "r.jsonl",
        [{"id": "a", "parents": ["d"], "of": "x", "annotator": "annotator-1", "verdicts": dict.fromkeys(MERITS, True)}],
    )
    with pytest.raises(UserError, match="has no verdict on 'logical_consistency'; give --demonstrations instead"):
        review("agreement", people=reviews, judgments=judged, out=tmp_path / "out")
    with pytest.raises(UserError, match="missing --judgments or --demonstrations and --out"):
        review("agreement", people=reviews)
    assert not (tmp_path / "out").exists()


def test_intervals_cover_what_they_should():
    """Of 200 draws of 150 items with a known kappa, the 95% interval holds it in about 95%: between 88 and 99."""
    from mede2_jax.statistics.agreement import kappa_interval

    random, held = np.random.default_rng(0), 0
    both, one, other, neither = 0.5, 0.1, 0.1, 0.3
    truth = (0.8 - (0.6 * 0.6 + 0.4 * 0.4)) / (1 - (0.6 * 0.6 + 0.4 * 0.4))
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    for draw in range(200):
        items = [kinds[kind] for kind in random.choice(4, size=150, p=[both, one, other, neither])]
        interval = kappa_interval(items, "Cohen", seed=draw, resamples=400)
        held += interval.low <= truth <= interval.high
    assert stats.binom(200, 0.95).ppf(1e-5) <= held <= 199
