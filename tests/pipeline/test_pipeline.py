"""The commands one after the other, as a user runs them: stage I, responses of the model it wrote, judgments, pairs, stage II."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cheap_programs import one_device

from mede2_jax.reasoning.rubric import MMRP

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS, N = 3, 8


def pipeline(out, *arguments, **variables):
    # As a user's shell: with one device.
    environment = one_device(PYTHON_ENV=sys.prefix, **variables)
    small = [f"--limit={QUESTIONS}", "--max_tokens=16", "--sft_steps=2", "--dpo_steps=2"]
    names = {argument.split("=")[0] for argument in arguments}
    command = ["bash", "launch/pipeline.sh", f"--out={out}", *(flag for flag in small if flag.split("=")[0] not in names), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def manifest(path):
    return json.loads(path.with_name(path.name + ".manifest.json").read_text("utf-8"))


def assert_sampled(out):
    """Every question × 8 once, of the model that the run wrote; returns the engine."""
    digest = json.loads((out / "sft" / "model" / "model.json").read_text())["digest"]
    rollouts = read(out / "rollouts.jsonl")
    counts = Counter((rollout["parents"][0], rollout["sample"]) for rollout in rollouts)
    assert len(counts) == QUESTIONS * N and set(counts.values()) == {1}
    assert {sample for _, sample in counts} == set(range(N))
    assert {rollout["model"] for rollout in rollouts} == {digest}
    assert len({rollout["response"] for rollout in rollouts}) > QUESTIONS  # they are samples
    assert any(rollout["images"] for rollout in rollouts)
    written = manifest(out / "rollouts.jsonl")
    assert all(Path(written[name]["path"]).is_absolute() for name in ("model", "questions")), "found from any folder"
    assert written["finished"] and written["counts"]["samples"] == written["counts"]["wanted"] == QUESTIONS * N
    # The judge counts what sampling counted: cut ones, and of the others those with a right answer.
    judged = manifest(out / "judgments.jsonl")
    assert judged["counts"]["rollouts"] == QUESTIONS * N == judged["counts"]["judged"] + sum(judged["dropped"].values())
    assert judged["dropped"].get("truncated", 0) == written["counts"]["truncated"]
    return written["engine"]


def assert_stage_two(out):
    """Pairs of judged responses, and a model that DPO made of stage I's with them."""
    judgments = next(out.glob("judgments-of-*.jsonl"))
    judged, paired = manifest(judgments), manifest(out / "pairs.jsonl")
    assert judged["counts"]["rollouts"] == judged["counts"]["judged"] + sum(judged["dropped"].values()) == 384
    assert paired["counts"]["pairs"]["in"] == paired["counts"]["pairs"]["train"] + sum(paired["dropped"]["pairs"].values())
    by_id = {judgment["id"]: judgment for judgment in read(judgments)}
    pairs = read(out / "pairs.jsonl")
    assert len(pairs) == paired["counts"]["pairs"]["train"] == 96
    for pair in pairs:
        chosen, rejected = (by_id[pair["metadata"][side]["judgments"][0]] for side in ("chosen", "rejected"))
        assert all(chosen[name]["met"] for name in MMRP)
        assert [name for name in MMRP if not rejected[name]["met"]] == pair["metadata"]["rejected_fails"] != []
    models = [json.loads((out / stage / "model" / "model.json").read_text()) for stage in ("sft", "dpo")]
    assert models[0]["digest"] in models[1]["parents"] and models[0]["digest"] != models[1]["digest"]
    first = next(line for line in read(out / "dpo" / "metrics.jsonl") if "loss" in line)
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is stage I's model"


@pytest.mark.slow
def test_from_demonstrations_to_dpo_with_vllm(tmp_path, vllm_env):
    if vllm_env != ROOT / ".venv-vllm":
        pytest.skip("the script uses .venv-vllm")
    status, output = pipeline(tmp_path, "--engine=vllm")
    assert status == 0, output
    assert assert_sampled(tmp_path) == "vllm"
    assert_stage_two(tmp_path)


@pytest.mark.slow
def test_from_demonstrations_to_dpo_in_flax_and_once_more(tmp_path):
    status, output = pipeline(tmp_path, "--engine=flax", "--family=internvl3")
    assert status == 0, output
    assert assert_sampled(tmp_path) == "flax"
    assert_stage_two(tmp_path)
    assert "pair sample-case-" in output and "rejected fails" in output, "where a pair is from"
    before = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    status, output = pipeline(tmp_path, "--engine=flax", "--family=internvl3")
    assert status == 0 and "nothing to do" in output, output
    assert {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before


LEARNT = ("sample-case-pneumothorax-1", "sample-case-complete-block-2")
TRAINED = "--parts.language=full --optimizer.learning_rate=3e-3 --optimizer.schedule=constant --epochs=75 --rows_per_step=2"


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, sample):
    """A run whose stage I has learnt responses to two questions by heart, good ones and flawed ones: then its samples are mostly right."""
    folder = tmp_path_factory.mktemp("learnt")
    wanted = [rollout for rollout in read(sample / "rollouts.jsonl") if rollout["parents"][0] in LEARNT]
    wanted = [rollout for rollout in wanted if rollout["metadata"]["made"] in ("good", "hallucinates", "no_reflection")]
    demonstrations = []
    for rollout in wanted:
        messages = [*rollout["prompt"], {"role": "assistant", "content": rollout["response"]}]
        demonstrations.append({"id": rollout["id"], "messages": messages, "images": rollout["images"]})
    questions = [question for question in read(sample / "questions.jsonl") if question["id"] in LEARNT]
    for name, records in (("demonstrations", demonstrations), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder


def own_loop(folder, out, engine, sample):
    """The script on the model's own responses from end to end."""
    files = [f"--demonstrations={folder / 'demonstrations.jsonl'}", f"--questions={folder / 'questions.jsonl'}", f"--image_root={sample}"]
    flags = ["--rollouts=own", "--sft_steps=none", f"--sft_options={TRAINED} --data.eval_fraction=0", "--limit=none", f"--engine={engine}"]
    status, output = pipeline(out, *files, *flags, "--max_tokens=600", "--temperature=0.7")
    assert status == 0, output
    digest = json.loads((out / "sft" / "model" / "model.json").read_text())["digest"]
    rollouts = {rollout["id"]: rollout for rollout in read(out / "rollouts.jsonl")}
    assert len(rollouts) == 2 * N and {rollout["model"] for rollout in rollouts.values()} == {digest}
    sampled, judged, paired = (manifest(out / f"{name}.jsonl") for name in ("rollouts", "judgments", "pairs"))
    assert sampled["engine"] == engine and sampled["counts"]["correct"] >= N
    assert judged["counts"]["judged"] + sum(judged["dropped"].values()) == 2 * N and judged["counts"]["judged"] >= N
    pairs = read(out / "pairs.jsonl")
    assert len(pairs) == paired["counts"]["pairs"]["train"] >= 1
    for pair in pairs:
        assert all(pair[side] == rollouts[pair["metadata"][side]["rollout"]]["response"] for side in ("chosen", "rejected"))
        assert pair["metadata"]["chosen"]["model"] == digest
    shown = "".join(output.rpartition("mede2_jax.trace")[2].replace("│", "").split())
    assert digest in shown and f"engine={engine}" in shown, "the trace names what was sampled, and how"
    models = [json.loads((out / stage / "model" / "model.json").read_text()) for stage in ("sft", "dpo")]
    assert models[0]["digest"] in models[1]["parents"] and models[0]["digest"] != models[1]["digest"]
    first = next(line for line in read(out / "dpo" / "metrics.jsonl") if "loss" in line)
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.slow
def test_the_whole_loop_on_the_models_own_responses(learnt, sample):
    own_loop(learnt, learnt / "flax", "flax", sample)


@pytest.mark.slow
def test_the_whole_loop_with_vllm(learnt, sample, vllm_env):
    if vllm_env != ROOT / ".venv-vllm":
        pytest.skip("the script uses .venv-vllm")
    out = learnt / "vllm"
    if (learnt / "flax" / "sft" / "model").is_dir():  # the same stage I; where this test runs alone, it trains its own
        shutil.copytree(learnt / "flax" / "sft", out / "sft")
    own_loop(learnt, out, "vllm", sample)


def test_an_unknown_argument_is_one_line(tmp_path):
    status, output = pipeline(tmp_path, "--nonsense=1")
    assert status == 1 and output.count("\n") == 1 and "--nonsense=1" in output
