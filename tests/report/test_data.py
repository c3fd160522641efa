"""The funnel of data by real manifests, and judges beside people."""

import json

import pytest

from mede2_jax.bank.__main__ import main as bank
from mede2_jax.config import UserError
from mede2_jax.curate.__main__ import main as curate
from mede2_jax.distill.__main__ import main as distill
from mede2_jax.judge.__main__ import main as judge
from mede2_jax.pair.__main__ import main as pair
from mede2_jax.reasoning.rubric import MMRP
from mede2_jax.report.__main__ import main
from mede2_jax.report.drawing import plain_text
from mede2_jax.report.funnel import funnel_figure, read_funnel
from mede2_jax.report.people import agreement_table, people_figure, read_both


@pytest.fixture(scope="module")
def chain(sample, tmp_path_factory):
    """Judgments and pairs of the sample data, by the commands themselves."""
    folder = tmp_path_factory.mktemp("chain")
    judge([f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=offline", f"--out={folder / 'judgments.jsonl'}"])
    pair([f"--judgments={folder / 'judgments.jsonl'}", f"--rollouts={sample / 'rollouts.jsonl'}", f"--out={folder / 'pairs.jsonl'}"])
    return folder


def test_a_funnel_says_what_was_left_out(chain, sample):
    stages = read_funnel([sample / "rollouts.jsonl", chain / "judgments.jsonl", chain / "pairs.jsonl.manifest.json"])
    assert [(stage.name, stage.records) for stage in stages] == [("rollouts.jsonl", 384), ("judgments.jsonl", 336), ("pairs.jsonl", 192)]
    assert stages[0].dropped == {} and stages[1].dropped == {"truncated": 24, "wrong answer": 24}
    assert [stage.lost for stage in stages] == [0, 48, 288], "of 480 pairs; 48 responses that were not judged are no pairs"
    assert stages[2].dropped["pairs: beyond max_pairs"] == 268 and stages[2].counts["pairs: in"] == 480
    with plain_text():
        figure = funnel_figure(stages)
    rows = [[cell.text for cell in row] for row in figure.table.rows]
    assert ["left out: wrong answer", "24"] in rows and "judgments.jsonl: 336 records, 48 left out" in figure.text


def test_what_was_left_out_step_by_step_adds_up(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bank([])
    curate(["--questions=runs/bank.jsonl", "--out=runs/curated.jsonl", "--eval_fraction=0.2"])
    distill([])
    stages = read_funnel([tmp_path / "runs" / f"{name}.jsonl" for name in ("bank", "curated", "curated.eval", "demonstrations")])
    assert (
        stages[0].records == 93 and stages[1].records + stages[1].lost == 93 and stages[1].dropped["split: held out"] == stages[2].records
    )
    assert (stages[3].records, stages[3].lost) == (48, 336) and stages[2].lost == 0, "what is held out is the rest of nothing"


def test_a_manifest_without_its_file(chain, tmp_path):
    alone = tmp_path / "judgments.jsonl.manifest.json"
    alone.write_text((chain / "judgments.jsonl.manifest.json").read_text())
    (stage,) = read_funnel([alone])
    assert (stage.name, stage.records) == ("judgments.jsonl", 336)


def people_of(chain, path, change):
    """People who say what the judge says, but for what `change` makes of it."""
    lines = [json.loads(line) for line in (chain / "judgments.jsonl").read_text().splitlines()]
    rows = [change(n, {"rollout": one["parents"][0], **{name: one[name]["met"] for name in MMRP}}) for n, one in enumerate(lines)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_judge_and_people(chain, tmp_path):
    """Of 336 responses the judge finds image analysis in 288; people see it the other way in the first 84 of them."""

    def change(n, row):
        return (
            row | ({"image_analysis": not row["image_analysis"]} if n < 84 else {}) | {"reflection": "yes" if row["reflection"] else "No"}
        )

    people = people_of(chain, tmp_path / "people.jsonl", change)
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in agreement_table(read_both(chain / "judgments.jsonl", people)).rows}
    assert rows["reflection"][:3] == ["336 of 336", "100.00 (98.87–100.00)", "1.00"]
    assert rows["image analysis"][0] == "252 of 336" and rows["image analysis"][1].startswith("75.00 (70.")
    both, only_people, only_judge, neither = map(int, rows["image analysis"][3:])
    assert (only_people + only_judge, both + neither, both + only_judge) == (84, 252, 288)
    share = (both + only_people) / 336
    chance = share * 288 / 336 + (1 - share) * 48 / 336
    assert float(rows["image analysis"][2].partition(" ")[0]) == pytest.approx((0.75 - chance) / (1 - chance), abs=0.005)
    with plain_text():
        figure = people_figure(chain / "judgments.jsonl", people)
    assert "on 336 responses" in figure.text and "The paper has 68.9% within σ = 1.02" in figure.text


def test_several_people_vote_and_ties_are_left_out(chain, tmp_path):
    lines = [json.loads(line) for line in (chain / "judgments.jsonl").read_text().splitlines()][:2]
    first, second = (one["parents"][0] for one in lines)
    yes, no = ({name: said for name in MMRP} for said in ("yes", "no"))
    rows = [{"rollout": first, **yes}, {"rollout": first, **no}, *({"rollout": second, **one} for one in (yes, yes, no))]
    people = tmp_path / "people.jsonl"
    people.write_text("".join(json.dumps(row) + "\n" for row in rows) + json.dumps({"rollout": "another", **yes}) + "\n")
    both = read_both(chain / "judgments.jsonl", people)
    assert (list(both.people), both.undecided, both.only_people, both.only_judge) == ([dict.fromkeys(MMRP, True)], 1, 1, 334)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"rollout": "nobody", **dict.fromkeys(MMRP, "yes")}, "have no response in common"),
        ({"rollout": "x", **dict.fromkeys(MMRP, "maybe")}, "people.jsonl:1: column 'logical_consistency' must be yes or no, found maybe"),
        ({**dict.fromkeys(MMRP, "yes")}, "people.jsonl:1: column 'rollout' must be the id of a rollout, found null"),
    ],
)
def test_what_cannot_be_compared(chain, tmp_path, row, expected):
    people = tmp_path / "people.jsonl"
    people.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=expected):
        read_both(chain / "judgments.jsonl", people)


def test_a_report_of_data_alone(chain, sample, tmp_path):
    people = people_of(chain, tmp_path / "people.jsonl", lambda n, row: row)
    files = f"{sample / 'rollouts.jsonl'},{chain / 'judgments.jsonl'},{chain / 'pairs.jsonl'}"
    out = tmp_path / "out"
    main([f"--funnel={files}", f"--judgments={chain / 'judgments.jsonl'}", f"--people={people}", f"--out={out}"])
    page = (out / "index.html").read_text("utf-8")
    assert "Judge against people (Figure 3)" in page and "wrong answer" in page and (out / "tables" / "agreement.csv").exists()
