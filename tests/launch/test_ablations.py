"""The paper's ablations as scripts: runs, scores and one report, of a tiny model and a few records."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cheap_programs import one_device

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--train_options=--max_steps=1 --data.row_tokens=1024 --rows_per_step=1", "--evaluate_options=--engine=flax --max_tokens=4"]


def ablations(*arguments):
    """(exit status, output)."""
    environment = one_device(PYTHON_ENV=sys.prefix)
    done = subprocess.run(
        ["bash", "launch/ablations.sh", *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


@pytest.fixture
def files(tmp_path, sample):
    """Demonstrations of both kinds, pairs, and a benchmark of two items."""
    text = read(sample / "demonstrations.jsonl")[:3]
    pairs = read(sample / "preferences.jsonl")[:2]
    cases = [
        {
            "id": f"mm-{pair['id']}",
            "images": pair["images"],
            "messages": [*pair["prompt"], {"role": "assistant", "content": pair["chosen"]}],
        }
        for pair in pairs
    ]
    items = [
        {
            "question": f"Case {n}?",
            "options": {one: f"drug {one}" for one in "ABCD"},
            "answer": "drug A",
            "answer_idx": "A",
            "meta_info": "step1",
        }
        for n in range(2)
    ]
    write(tmp_path / "text.jsonl", text)
    # Without an end of its last line, as editors leave it.
    (tmp_path / "text.jsonl").write_text((tmp_path / "text.jsonl").read_text("utf-8").rstrip("\n"), "utf-8")
    write(tmp_path / "cases.jsonl", cases)
    write(tmp_path / "pairs-1b.jsonl", pairs)
    write(tmp_path / "phrases_no_exclude_test.jsonl", items)
    return tmp_path


def names(out):
    """The models of a report, and how many items each was asked."""
    found = {path.parent.parent.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("scores/*/medqa/mede2/score.json"))}
    return {name: score["overall"]["samples"] for name, score in found.items()}


@pytest.mark.slow
def test_ways_to_elicit_reasoning(files, tiny_model, sample):
    out = files / "out"
    data = [f"--text={files / 'text.jsonl'}", f"--multimodal={files / 'cases.jsonl'}", f"--image_root={sample}"]
    where = [f"--model={tiny_model}", "--task=medqa", f"--data={files}", f"--out={out}"]
    status, output = ablations("elicitation", *data, *where, *QUICK)
    assert status == 0, output
    assert names(out) == {"base": 2, "mixed": 2, "multimodal": 2, "text": 2}
    assert f"python -m mede2_jax.report --scores=base={out}/scores/base,text={out}/scores/text," in output, "as it can be typed again"
    examples = {
        run: json.loads((out / run / "manifest.json").read_text())["data"]["train"]["examples"] for run in ("text", "multimodal", "mixed")
    }
    assert examples == {"text": 3, "multimodal": 2, "mixed": 5}
    assert (out / "report" / "index.html").is_file() and list((out / "report" / "figures").glob("figure5-*.svg"))


@pytest.mark.slow
def test_sizes_go_through_both_stages(files, tiny_model, sample):
    out = files / "out"
    data = [f"--text={files / 'text.jsonl'}", f"--pairs={files}/pairs-{{size}}.jsonl", f"--image_root={sample}"]
    status, output = ablations("sizes", f"--models=1B={tiny_model}", *data, "--task=medqa", f"--data={files}", f"--out={out}", *QUICK)
    assert status == 0, output
    assert names(out) == {"1B": 2, "1B +I": 2, "1B +II": 2}
    stages = [json.loads((out / f"1B-{stage}" / "model" / "model.json").read_text()) for stage in ("I", "II")]
    assert stages[0]["digest"] in stages[1]["parents"]
    assert "1B +II" in (out / "report" / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_several_samples(files, tiny_model):
    out = files / "out"
    status, output = ablations("samples", f"--models=base={tiny_model}", "--task=medqa", f"--data={files}", f"--out={out}", "--n=2", *QUICK)
    assert status == 0, output
    assert names(out) == {"base": 4} and list((out / "report" / "figures").glob("figure6-*.svg"))
    replies = (out / "scores" / "base" / "rollouts.jsonl").read_bytes()
    status, output = ablations("samples", f"--models=base={tiny_model}", "--task=medqa", f"--data={files}", f"--out={out}", "--n=2", *QUICK)
    assert status == 0 and "nothing to do" in output, output
    assert (out / "scores" / "base" / "rollouts.jsonl").read_bytes() == replies


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give elicitation, sizes or samples (got '')"),
        (["size"], "give elicitation, sizes or samples (got 'size')"),
        (["samples", "--model"], "unknown argument '--model'"),
        (["samples", "--models=a=b"], "samples needs --task"),
        (["elicitation", "--task=medqa", "--data=d", "--out={out}", "--model=m"], "elicitation needs --text"),
        (["samples", "--task=medqa", "--data=d", "--out={out}", "--models=models/a"], "--models wants NAME=DIR"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, expected):
    status, output = ablations(*(argument.format(out=tmp_path / "out") for argument in arguments))
    assert status == 2 and output.count("\n") == 1 and output.startswith("error: ") and expected in output, output
    assert not (tmp_path / "out").exists()
