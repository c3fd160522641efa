"""What the benchmarks' owners' own functions gave for replies, made up and real, is what our rules read."""

import ast
import json
from pathlib import Path

import pytest

from mede2_jax.scoring import diagnosisarena, medxpertqa, mmmu, mmmu_pro, peers
from mede2_jax.scoring.reading import outcome_of
from mede2_jax.tasks.catalogue import find_task

FOLDER = Path(__file__).parents[2].parent / "shared" / "benchmarks"
ALL_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the owners' readings are not at {FOLDER}")


def lines(name):
    path = FOLDER / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def lettered(options):
    return {letter: option if isinstance(option, str) else str(option) for letter, option in zip(ALL_LETTERS, options, strict=False)}


def shown(reading):
    """An open reading as the files have the owner's: sorted strings."""
    return sorted([*reading.texts, *map(str, reading.numbers)])


@pytest.mark.parametrize("line", lines("vectors/medxpertqa_owner.jsonl"), ids=lambda line: line["reply"])
def test_medxpertqa(line):
    letters = ALL_LETTERS[: line["choices"]]
    reading = medxpertqa.read(line["reply"], letters, medxpertqa.two_turn_trigger(letters))
    assert reading.answer == line["extracted"]
    assert (outcome_of(reading, line["label"]) == "correct") == line["correct"]


@pytest.mark.parametrize("line", lines("vectors/medqa_by_medxpertqa.jsonl"), ids=lambda line: line["reply"])
def test_medqa(line):
    reading = medxpertqa.read(line["reply"], "ABCD", medxpertqa.two_turn_trigger("ABCD"))
    assert reading.answer == line["extracted"]
    assert (outcome_of(reading, line["label"]) == "correct") == line["correct"]


@pytest.mark.parametrize("line", lines("vectors/medxpertqa_owner_oneturn.jsonl"), ids=lambda line: line["reply"])
@pytest.mark.parametrize(("key", "read"), [("qvq", medxpertqa.read_reasoning), ("boxed", medxpertqa.read_first_box)])
def test_medxpertqa_in_one_turn(line, key, read):
    reading = read(line["reply"], "ABCDE")
    extracted, correct = line[key]
    assert reading.answer == (None if extracted == line["reply"] else extracted)  # he keeps the reply where he reads nothing
    assert (outcome_of(reading, line["label"]) == "correct") == correct


@pytest.mark.parametrize("line", lines("vectors/mmmu_owner_choice.jsonl"), ids=lambda line: line["reply"])
def test_mmmu_choices(line):
    assert mmmu.read_choice(line["reply"], lettered(line["options"])).answer == line["extracted"]


@pytest.mark.parametrize("line", lines("vectors/mmmu_owner_open.jsonl"), ids=lambda line: line["reply"])
def test_mmmu_open(line):
    reading = mmmu.read_open(line["reply"])
    assert shown(reading) == sorted(line["extracted"])
    assert mmmu.is_right(reading, line["answer"]) == line["correct"]


@pytest.mark.parametrize("line", lines("vectors/mmmu_pro_owner.jsonl"), ids=lambda line: line["reply"])
def test_mmmu_pro(line):
    assert mmmu_pro.read(line["reply"], lettered(line["options"])).answer == line["extracted"]


@pytest.mark.parametrize("line", lines("vectors/diagnosisarena_mcq.jsonl"), ids=lambda line: line["reply"])
def test_diagnosisarena(line):
    reading = diagnosisarena.read_choice(line["reply"], "ABCD")
    assert (reading.answer or "").lower() == (line["extracted"] or "")
    assert (outcome_of(reading, line["label"]) == "correct") == line["intended"]


@pytest.mark.parametrize("line", lines("vectors/diagnosisarena_judge.jsonl"), ids=lambda line: line["judge_reply"])
def test_diagnosisarenas_judge(line):
    scores = diagnosisarena.read_judge(line["judge_reply"])
    if "owner" in line:
        assert line["owner"].startswith("stops the run") and scores is None
    else:
        assert ([*scores.scores], scores.top1, scores.top5) == (line["scores"], line["top1"], line["top5"])


@pytest.mark.parametrize("line", lines("vectors/medevalkit.jsonl"), ids=lambda line: line["reply"])
def test_medevalkit(line):
    options = next(iter(lines("vectors/mmmu_owner_choice.jsonl")))["options"]
    reading = peers.medevalkit(line["reply"], lettered(options))
    assert [reading.answer] == line["scored_as"]
    assert (outcome_of(reading, line["label"]) == "correct") == line["correct"]


@pytest.mark.parametrize("line", lines("vectors/vlmevalkit.jsonl"), ids=lambda line: line["reply"])
def test_vlmevalkit(line):
    options = next(iter(lines("vectors/mmmu_pro_owner.jsonl")))["options"]
    reading = peers.vlmevalkit(line["reply"], lettered(options))
    assert ("Z" if reading.step == "refusal" else reading.answer) == line["extracted"]


def test_real_replies_to_mmmu():
    items = json.loads((FOLDER / "mmmu_val.responses.sample.json").read_text(encoding="utf-8"))
    for item in items:
        if item["question_type"] == "multiple-choice":
            reading = mmmu.read_choice(item["response"], item["index2ans"])
            assert list(item["index2ans"]) == item["all_choices"]
            assert reading.answer == item["owner_extracted"], item["id"]
            assert (reading.answer is None) == item["owner_random"], item["id"]
            correct = outcome_of(reading, item["answer"]) == "correct"
        else:
            reading = mmmu.read_open(item["response"])
            assert shown(reading) == sorted(item["owner_extracted"]), item["id"]
            correct = mmmu.is_right(reading, item["answer"])
        assert correct == item["owner_correct"], item["id"]
    assert len(items) == 9


@pytest.mark.parametrize(
    ("name", "count"), [("mmmu_pro_standard10_cot.responses.sample.jsonl", 6), ("mmmu_pro.responses.more.sample.jsonl", 8)]
)
def test_real_replies_to_mmmu_pro(name, count):
    items = lines(name)
    for item in items:
        task = find_task(f"mmmu_pro_{item.get('setting', 'standard10_cot').partition('_')[0]}")
        reading = task.rule(task.read(item, ""), "cot").read(item["response"])
        assert reading == mmmu_pro.read(item["response"], lettered(ast.literal_eval(item["options"])))
        is_guess = item.get("owner_random", False)
        assert reading.answer == (None if is_guess else item["pred_indexs"]), item["id"]
        assert reading.answer == item.get("owner_extracted", reading.answer), item["id"]
        assert (outcome_of(reading, item["answer"]) == "correct") == item.get("owner_correct", item["if_right"]), item["id"]
    assert len(items) == count


def test_every_file_of_readings_is_tried():
    here = Path(__file__).read_text(encoding="utf-8")
    found = sorted(path.name for path in (FOLDER / "vectors").iterdir())
    assert found and [name for name in found if f'lines("vectors/{name}")' not in here] == []
