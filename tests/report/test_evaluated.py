"""A report of what `evaluate` itself leaves: several benchmarks, prompts in one turn and in two, images as files and in tables."""

import json

import pytest
from benchmark_files import ITEMS, write_all
from chat_server import ChatServer, model_tokenise
from evaluating import flags, lines

from mede2_jax.evaluate.__main__ import main as evaluate
from mede2_jax.report.__main__ import main
from mede2_jax.score.__main__ import main as score

PROMPTS = {
    "medxpertqa_mm": ["mede2", "cot", "ao", "reasoning", "boxed"],
    "mmmu_health": ["mede2", "official"],
    "mmmu_pro_vision": None,
    "mmxu": None,
    "medqa": None,
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("evaluated")
    data = write_all(folder / "data")
    with ChatServer(tokenise=model_tokenise(tiny_model)) as server:
        evaluate(flags(list(PROMPTS), data, tiny_model, folder / "out", server, "--prompt=mede2,official", "--n=2", "--temperature=0.5"))
    return folder / "out"


@pytest.fixture(scope="module")
def report(evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    main([f"--scores=tiny={evaluated}", f"--out={out}"])
    return out


def loaded(out, name):
    text = (out / "data" / f"{name}.js").read_text("utf-8")
    return json.loads(text[text.index(",") + 1 : text.rindex(")")])


def boards(out):
    """The items of each board, by task and prompt as their names have them."""
    found = {}
    for place, name in enumerate(loaded(out, "index")["boards"]):
        found[name] = [
            item for number in range(len(loaded(out, f"board-{place}")["pieces"])) for item in loaded(out, f"items-{place}-{number}")
        ]
    return found


def whole(sample):
    """A reply put together again, without blanks."""
    return "".join(f"<think>{text}</think>" if kind == "think" else text for kind, text in sample["reply"]).replace(" ", "")


def test_everything_that_was_said_is_there(report, evaluated):
    scores = sorted(evaluated.glob("*/*/score.json"))
    found = boards(report)
    assert len(found) == len(scores) and "are not shown" not in (report / "index.html").read_text("utf-8")
    sent = {}
    for file in ("rollouts.jsonl", "second_turns.jsonl"):
        for row in lines(evaluated / file):
            if "then" not in row["metadata"]:
                sent[row["parents"][0], row["sample"]] = row
    replies = 0
    for path in scores:
        said = json.loads(path.read_text())
        items = found[f"{said['title']} · asked as {said['prompt']} · read as mede2"]
        assert len(items) == ITEMS
        for item in items:
            for sample in item["samples"][0]:
                row = sent[f"{said['task']}/{said['prompt']}/{item['id']}", sample["sample"]]
                assert whole(sample) == row["response"].replace(" ", "") and len(item["images"]) == len(row["images"])
                replies += 1
    assert replies == 2 * ITEMS * len(scores)


def test_images_are_those_that_were_shown(report, evaluated):
    for items in boards(report).values():
        for item in items:
            for image in item["images"]:
                assert (report / image["src"]).read_bytes() == (evaluated / image["name"]).read_bytes()
    first = boards(report)["MedXpertQA MM · asked as mede2 · read as mede2"][0]
    assert len(first["images"]) == 6


def test_two_turns_are_shown_as_two(report):
    found = boards(report)
    for item in found["MedXpertQA MM · asked as cot · read as mede2"]:
        assert [turn["role"] for turn in item["turns"]] == ["system", "user"]
        for sample in item["samples"][0]:
            assert [turn["role"] for turn in sample["before"]] == ["assistant", "user"]
            assert sample["before"][1]["pieces"] == ["Therefore, among A through E, the answer is"]
    assert "before" not in found["MedXpertQA MM · asked as ao · read as mede2"][0]["samples"][0][0]


def test_options_in_several_orders(tmp_path, tiny_model):
    """Each reply stands under its item, with the question as it was put where that is not as the item's first reply had it."""
    data, out = write_all(tmp_path / "data"), tmp_path / "out"
    with ChatServer(tokenise=model_tokenise(tiny_model)) as server:
        evaluate(flags(["medqa"], data, tiny_model, out, server, "--shuffle_options=1,2,3", "--n=2", "--temperature=0.5"))
    main([f"--scores={out}", f"--out={tmp_path / 'report'}"])
    assert "are not" not in (tmp_path / "report" / "index.html").read_text("utf-8")
    sent = {(row["metadata"]["shuffle"], row["metadata"]["item"], row["sample"]): row for row in lines(out / "rollouts.jsonl")}
    (items,) = boards(tmp_path / "report").values()
    assert len(sent) == 6 * ITEMS == sum(len(item["samples"][0]) for item in items)
    otherwise = 0
    for item in items:
        first = "".join(item["turns"][-1]["pieces"])
        for place, sample in enumerate(item["samples"][0]):
            row = sent[1 + place // 2, item["id"], place % 2]
            assert whole(sample) == row["response"].replace(" ", "")
            before = sample.get("before", [])
            assert ("".join(before[1]["pieces"]) if before else first) == row["prompt"][1]["content"]
            otherwise += bool(before)
    assert otherwise > 0


def test_an_owners_file_that_carries_the_items(tmp_path):
    rows = [
        {"id": f"test_Pharmacy_{n}", "options": "['aspirin', 'heparin']", "answer": "B", "subject": "Pharmacy", "question": "Which?",
         "response": f"Answer: {one}"}
        for n, one in enumerate("BAB")
    ]  # fmt: skip
    file = tmp_path / "model_standard_cot.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(["--task=mmmu_pro_standard10", f"--responses={file}", "--mode=official", f"--out={tmp_path / 'score'}"])
    main([f"--scores={tmp_path / 'score'}", f"--out={tmp_path / 'out'}"])
    (items,) = boards(tmp_path / "out").values()
    assert [item["answer"] for item in items] == [["B"]] * 3 and items[1]["options"] == {"A": "aspirin", "B": "heparin"}
    assert items[1]["samples"][0][0]["reply"] == [["text", "Answer: A"]] and "Which?" in items[0]["turns"][0]["pieces"][0]
