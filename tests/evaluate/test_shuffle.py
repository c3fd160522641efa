"""Options in other orders, from the questions to the scores: against a server whose model has habits that are known."""

import json
import re
import statistics

import pytest
from benchmark_files import png
from evaluating import lines, result
from gemini_server import KEY, GeminiServer
from task_files import medqa, mmmu, write_jsonl, write_parquet
from test_evaluate_api import asked

from mede2_jax.config import UserError
from mede2_jax.evaluate.__main__ import main
from mede2_jax.score.__main__ import main as score
from mede2_jax.tasks.catalogue import find_task, open_items
from mede2_jax.tasks.shuffling import order_of

ITEMS = 24
SEEDS = (3, 11, 40)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


@pytest.fixture
def many(tmp_path):
    write_jsonl(tmp_path / "many" / "medqa.jsonl", [medqa(n, "ABCD"[n % 4]) for n in range(ITEMS)])
    return {"medqa": tmp_path / "many"}


def always_a(body, texts, images):
    return "<think> the first </think> <answer> A </answer>"


def knows(body, texts, images):
    """Knows the drug of each case by its name (that of its right letter in the file), wherever it stands; says its letter alone."""
    number = int(re.search(r"Case (\d+)", texts[-1])[1])
    letter = re.search(rf"\(([A-D])\) drug {'ABCD'[number % 4]}{number}(?= |$|\n)", texts[-1])[1]
    return f"<answer> {letter} </answer>"


def shuffled(data, out, say, *more):
    with GeminiServer(say=say) as server:
        main(asked(["medqa"], data, out, server, *more))
    return server


def test_who_knows_the_answer_is_right_in_every_order(many, tmp_path, capsys):
    out = tmp_path / "out"
    server = shuffled(many, out, knows, f"--shuffle_options={','.join(map(str, SEEDS))}")
    assert len(server.bodies) == ITEMS * len(SEEDS)
    found = result(out, "medqa", "mede2")
    assert (found["overall"]["correct"], found["overall"]["samples"], found["overall"]["items"]) == (72, 72, 24)
    assert found["shuffles"]["answers"] == {"items": 24, "changed": 0, "share": 0.0}
    assert found["shuffles"]["spread"] == {"mean": 1.0, "standard_deviation": 0.0, "lowest": 1.0, "highest": 1.0}
    verdicts = lines(out / "medqa" / "mede2" / "verdicts.jsonl")
    assert [row["read"] for row in verdicts[:12]] == [letter for letter in "ABCD" for _ in SEEDS], "letters of the file, so votes agree"
    assert found["at"]["majority"]["3"]["value"] == 1.0
    printed = capsys.readouterr().out
    assert "over 3 orders of the options: 100.00 to 100.00, standard deviation 0.00 points" in printed
    assert "the read answer of 0 of 24 items changes with the order" in printed and "100.00–100.00" in printed


@pytest.mark.slow
def test_who_always_says_a_is_right_where_the_right_one_stands_there(many, tmp_path):
    """Every figure is computed here from the orders alone."""
    out = tmp_path / "out"
    shuffled(many, out, always_a, f"--shuffle_options={','.join(map(str, SEEDS))}", "--n=2", "--temperature=1")
    items = open_items(find_task("medqa"), many["medqa"]).items
    orders = {(seed, item.id): order_of(seed, item) for seed in SEEDS for item in items}
    right = {seed: sum(orders[seed, item.id][0] == item.answer for item in items) for seed in SEEDS}
    found = result(out, "medqa", "mede2")
    assert {int(seed): one["correct"] for seed, one in found["shuffles"]["by_seed"].items()} == {s: 2 * k for s, k in right.items()}
    shares = [k / ITEMS for k in right.values()]
    assert len(set(shares)) > 1 and found["overall"]["accuracy"] == pytest.approx(statistics.fmean(shares))
    spread = found["shuffles"]["spread"]
    assert spread["standard_deviation"] == pytest.approx(statistics.stdev(shares))
    assert (spread["lowest"], spread["highest"], spread["mean"]) == (min(shares), max(shares), pytest.approx(statistics.fmean(shares)))
    changed = sum(len({orders[seed, item.id][0] for seed in SEEDS}) > 1 for item in items)
    assert found["shuffles"]["answers"] == {"items": ITEMS, "changed": changed, "share": changed / ITEMS} and changed > 0
    verdicts = lines(out / "medqa" / "mede2" / "verdicts.jsonl")
    assert [row["sample"] for row in verdicts] == list(range(6)) * ITEMS, "one number for each sample of an item"
    assert [(row["shuffle"], row["of_order"]) for row in verdicts[:6]] == [(seed, sample) for seed in SEEDS for sample in range(2)]
    for row in verdicts:
        assert row["order"] == orders[row["shuffle"], row["id"]] and row["read"] == row["order"][0]
    for row in lines(out / "rollouts.jsonl"):
        assert row["metadata"]["order"] == orders[row["metadata"]["shuffle"], row["metadata"]["item"]]
        assert row["parents"] == [f"medqa/mede2~{row['metadata']['shuffle']}/{row['metadata']['item']}"]
    # MV@k over all orders, by brute force for k = all: the letter that stands first most often, ties shared.
    expected = []
    for item in items:
        votes = [orders[seed, item.id][0] for seed in SEEDS]
        best = max(map(votes.count, votes))
        winners = {vote for vote in votes if votes.count(vote) == best}
        expected.append((item.answer in winners) / len(winners))
    assert found["at"]["majority"]["6"]["value"] == pytest.approx(statistics.fmean(expected))


@pytest.mark.slow
def test_score_reads_the_orders_from_the_file_alone(many, tmp_path):
    out, hand = tmp_path / "out", tmp_path / "hand"
    shuffled(many, out, always_a, "--shuffle_options=3,11", "--prompt=mede2,cot")
    for prompt, name, more in (("mede2", "rollouts", ["--prompt=mede2"]), ("cot", "second_turns", [])):
        score(["--task=medqa", f"--data={many['medqa']}", f"--responses={out / f'{name}.jsonl'}", f"--out={hand / prompt}", *more])
        assert (hand / prompt / "verdicts.jsonl").read_bytes() == (out / "medqa" / prompt / "verdicts.jsonl").read_bytes()
        found = json.loads((hand / prompt / "score.json").read_text())
        assert found == {key: value for key, value in result(out, "medqa", prompt).items() if key not in ("prompts", "api")}
    rows = lines(out / "second_turns.jsonl")
    base = ["--task=medqa", f"--data={many['medqa']}", f"--responses={tmp_path / 'changed.jsonl'}"]
    for change, expected in (
        ({"order": "ABC"}, r"^medqa-\d+: 'ABC' is no order of its options \(A, B, C, D\)"),
        ({"order": 3}, r"changed.jsonl:1: metadata.order must be the letters of the options as they were shown, found 3"),
        ({"order": ""}, r"^medqa-\d+: a reply says only half of how its options were shown"),
    ):
        changed = [rows[0] | {"metadata": rows[0]["metadata"] | change}, *rows[1:]]
        write_jsonl(tmp_path / "changed.jsonl", changed)
        with pytest.raises(UserError, match=expected):
            score(base)
    write_jsonl(tmp_path / "changed.jsonl", [*rows, rows[5]])
    with pytest.raises(UserError, match=r"ids given twice: medqa-\d+ \(options in the order of seed (3|11)\)"):
        score(base)
    write_jsonl(tmp_path / "changed.jsonl", rows[1:])
    with pytest.raises(UserError, match="1 item with fewer than 2 samples"):
        score(base)


def test_a_reply_that_failed_in_one_order_stays_in_the_denominator(many, tmp_path):
    out = tmp_path / "out"
    items = open_items(find_task("medqa"), many["medqa"]).by_id
    place = "Answer Choices: " + " ".join(f"({a}) drug {b}0" for a, b in zip("ABCD", order_of(3, items["medqa-0"]), strict=True))

    def faults(number, body):
        if place in json.dumps(body["contents"]):
            return 400, {}, b'{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}'
        return None

    with GeminiServer(say=knows, faults=faults) as server:
        main(asked(["medqa"], many, out, server, "--shuffle_options=3,11"))
    found = result(out, "medqa", "mede2")
    assert (found["overall"]["failed"], found["overall"]["samples"], found["overall"]["correct"]) == (1, 48, 47)
    assert found["unparsed"] == ["medqa-0#0~3"] and found["shuffles"]["by_seed"]["3"]["failed"] == 1
    assert found["shuffles"]["answers"]["changed"] == 1, "to have read nothing is another answer"


def test_a_folder_of_other_orders_is_refused(many, tmp_path):
    out = tmp_path / "out"
    shuffled(many, out, knows, "--shuffle_options=3")
    assert result(out, "medqa", "mede2")["shuffles"]["spread"]["standard_deviation"] is None
    for more in ([], ["--shuffle_options=4"], ["--shuffle_options=3,4"]):
        with pytest.raises(UserError, match=r"was begun otherwise \(medqa.shuffle_options: \[3\] then"):
            shuffled(many, out, knows, *more)
    assert not shuffled(many, out, knows, "--shuffle_options=3").bodies
    rows = lines(out / "rollouts.jsonl")
    for change in ({"order": "DCBA" if rows[1]["metadata"]["order"] == "ABCD" else "ABCD"}, {"item": "medqa-0", "shuffle": 4}):
        write_jsonl(out / "rollouts.jsonl", [rows[0], rows[1] | {"metadata": rows[1]["metadata"] | change}, *rows[2:]])
        with pytest.raises(UserError, match=r"rollouts.jsonl:2: what it says of medqa/mede2~3/medqa-\d+ in source and metadata is not so"):
            shuffled(many, out, knows, "--shuffle_options=3")


@pytest.mark.slow
def test_every_task_with_options_shows_them_so_and_open_items_as_they_are(data, tmp_path):
    tasks = ["medxpertqa_mm", "medxpertqa_text", "mmmu_health", "mmmu_pro_standard10", "medbullets_op5", "mmxu", "diagnosisarena"]
    out = tmp_path / "out"
    with GeminiServer(say=always_a) as server:
        main(asked(tasks, data, out, server, "--prompt=mede2,official", "--shuffle_options=5"))
    rows = {row["id"].removesuffix("#0"): row for name in ("rollouts", "second_turns") for row in lines(out / f"{name}.jsonl")}
    for name in tasks:
        task = find_task(name)
        for item in open_items(task, data[name]).items:
            order = order_of(5, item) if item.options else None
            for prompt in ("mede2", *task.prompts):
                row = rows[f"{name}/{prompt}{'~5' if item.options else ''}/{item.id}"]
                assert row["metadata"].get("order") == order and len(row["images"]) == len(task.asked(item, prompt).images)
                said = "".join(part if isinstance(part, str) else part.get("text", "⟦⟧") for part in row["prompt"][-1]["content"])
                is_second = "assistant" in {turn["role"] for turn in row["prompt"]}
                if order and not is_second and "<image" not in str(item.options):
                    for letter, whose in zip(item.options, order, strict=True):
                        forms = (f"({letter}) {item.options[whose]}", f"\n{letter}. {item.options[whose]}")
                        assert any(form in said for form in forms), (name, prompt, said)
            verdicts = [row for row in lines(out / name / "mede2" / "verdicts.jsonl") if row["id"] == item.id]
            if order and not set(item.options) & {text.upper() for text in item.options.values()}:
                assert [row["read"] for row in verdicts] == [order[0]]
            elif order:  # options are letters themselves: A may be the first one, or the one that is called so
                assert [row["read"] for row in verdicts] == [order[0] if item.options[order[0]] == "a" else None]


def test_what_has_no_options_is_asked_once_and_counts_in_each_order(tmp_path):
    """Two choices and an open item, in three orders, twice each; the open one is always right, the choices never."""
    rows = [mmmu(n, images={1: png(n)}, options=("left", "right"), answer="B") for n in (1, 2)]
    write_parquet(tmp_path / "mmmu" / "Pharmacy" / "validation-0.parquet", [*rows, mmmu(3, options=(), answer="2", images={1: png(3)})])
    out, data = tmp_path / "out", {"mmmu_health": tmp_path / "mmmu"}

    def says(body, texts, images):
        return "<answer> neither </answer>" if "Answer Choices" in texts[-1] else "<answer> 2 </answer>"

    run = ["--n=2", "--temperature=1", "--shuffle_options=1,2,3"]
    with GeminiServer(say=says) as server:
        main(asked(["mmmu_health"], data, out, server, *run))
        assert len(server.bodies) == (2 * 3 + 1) * 2
        main(asked(["mmmu_health"], data, out, server, *run))
        assert len(server.bodies) == (2 * 3 + 1) * 2, "nothing is asked again"
    found = result(out, "mmmu_health", "mede2")
    assert (found["overall"]["samples"], found["overall"]["correct"], found["overall"]["accuracy"]) == (14, 2, pytest.approx(1 / 3))
    by_seed = found["shuffles"]["by_seed"]
    assert {seed: (one["items"], one["samples"], one["correct"]) for seed, one in by_seed.items()} == dict.fromkeys("123", (3, 6, 2))
    assert found["shuffles"]["answers"] == {"items": 2, "changed": 0, "share": 0.0}
    kept = lines(out / "rollouts.jsonl")
    for gone in (0, len(kept) - 1):  # of a choice, and of the open item
        write_jsonl(tmp_path / "r.jsonl", [row for number, row in enumerate(kept) if number != gone])
        with pytest.raises(UserError, match="item with fewer than 6 samples"):
            score(["--task=mmmu_health", f"--data={tmp_path / 'mmmu'}", f"--responses={tmp_path / 'r.jsonl'}"])
    for more, expected in (
        (["--k=3"], "k=3 is more than n=2, the samples of 1 item of mmmu_health without options, in no order; ask"),
        (["--ids=validation_Pharmacy_3"], "mmmu_health has no options in the items that are asked; leave that task out"),
    ):
        with GeminiServer() as server, pytest.raises(UserError, match=expected):
            main(asked(["mmmu_health"], data, tmp_path / "other", server, *run, *more))


@pytest.mark.parametrize(
    ("tasks", "more", "expected"),
    [
        (
            ["medqa"],
            ["--shuffle_options=1", "--prompt=mede2,mede2_open"],
            "nothing to shuffle where --prompt=mede2_open leaves the options out",
        ),
        (["mmmu_pro_vision"], ["--shuffle_options=1"], "--shuffle_options: mmmu_pro_vision has its options in its pictures; leave that"),
        (["medqa"], ["--shuffle_options=1,2,1"], "--shuffle_options: 1 is given twice"),
        (["medqa"], ["--shuffle_options=-1"], "--shuffle_options"),
        (["medqa"], ["--shuffle_options=1,2", "--k=3"], "k=3 is more than 2 samples in 2 orders, n=1; ask"),
    ],
)
def test_what_cannot_be_shuffled_is_said(data, tmp_path, tasks, more, expected):
    with GeminiServer() as server, pytest.raises(UserError, match=expected):
        main(asked(tasks, data, tmp_path / "out", server, *more))
    assert not server.bodies


def test_an_open_task_has_no_options_to_shuffle(tmp_path):
    folder = tmp_path / "own"
    write_jsonl(folder / "own.jsonl", [{"q": "What?", "a": "a mass"}])
    (tmp_path / "own.yaml").write_text("name: own\nfiles: ['*.jsonl']\ncolumns: {question: q, answer: a}\nkind: short\n")
    with GeminiServer() as server, pytest.raises(UserError, match="own has no options; leave that task out"):
        main(asked([str(tmp_path / "own.yaml")], {str(tmp_path / "own.yaml"): folder}, tmp_path / "out", server, "--shuffle_options=1"))
    assert not server.bodies
