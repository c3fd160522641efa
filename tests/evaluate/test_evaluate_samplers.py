"""Evaluations that are killed, and with real samplers."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import ChatServer
from cheap_programs import one_device
from evaluating import flags, lines, result
from waiting import until

from mede2_jax.evaluate.__main__ import main
from mede2_jax.tasks.catalogue import find_task

ROOT = Path(__file__).resolve().parents[2]
TIE = 1e-4
"""Nats between two tokens that either sampler may take for the likeliest: both compute in float32, in other orders."""


@pytest.mark.slow
def test_killed_and_run_again_it_asks_only_what_is_missing(data, tiny_model, tokenise, tmp_path):
    out, tasks = tmp_path / "out", ["medqa", "mmxu", "medbullets_op5"]
    environment = one_device()
    with ChatServer(tokenise=tokenise, seconds=0.4) as server:
        run = flags(tasks, data, tiny_model, out, server, "--prompt=cot", "--n=2", "--temperature=1", "--concurrency=2")
        for file in ("rollouts.jsonl", "second_turns.jsonl"):
            command = [sys.executable, "-m", "mede2_jax.evaluate", *run]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(lambda file=file: (out / file).exists() and (out / file).stat().st_size, process)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        kept = [len(lines(out / file)) for file in ("rollouts.jsonl", "second_turns.jsonl")]
        assert kept[0] == 18 and 0 < kept[1] < 18
        server.seconds = 0.0
        server.requests.clear()
        main(run)
        assert sum(body["n"] for body in server.requests) == 18 - kept[1]
        main(run)
        assert sum(body["n"] for body in server.requests) == 18 - kept[1], "the second time nothing"
        main(flags(tasks, data, tiny_model, tmp_path / "whole", server, "--prompt=cot", "--n=2", "--temperature=1"))
    for name in ("rollouts.jsonl", "second_turns.jsonl"):
        assert sorted((out / name).read_text().splitlines()) == sorted((tmp_path / "whole" / name).read_text().splitlines())
    for task in tasks:
        assert (out / task / "cot" / "verdicts.jsonl").read_text() == (tmp_path / "whole" / task / "cot" / "verdicts.jsonl").read_text()


def sampled(everywhere, model, out, engine, *more):
    """An evaluation with a real sampler, of every benchmark, in one and two turns: its replies by file and id."""
    how = ["--prompt=mede2,official", "--limit=2", "--logprobs", f"--engine={engine}"]
    given = [one for one in flags(list(everywhere), everywhere, model, out, None) if not one.startswith("--max_tokens")]
    main([*given, "--max_tokens=16", *how, *more])
    return {(name, row["id"]): row for name in ("rollouts.jsonl", "second_turns.jsonl") for row in lines(out / name)}


@pytest.mark.slow
def test_with_the_sampler_in_this_process(everywhere, tiny_model, tmp_path):
    replies = sampled(everywhere, tiny_model, tmp_path / "out", "flax", "--flax.dtype=float32")
    tasks = [find_task(name) for name in everywhere]
    first = sum(1 + len(task.prompts) for task in tasks)
    second = sum(len({"cot", "boxed"} & set(task.prompts)) for task in tasks if not task.name.startswith("mmmu"))
    assert len(replies) == 2 * (first + second) and len(tasks) == 13
    assert result(tmp_path / "out", "mmxu", "cot")["sampled"]["engine"] == "flax"
    images = {row["parents"][0]: len(row["images"]) for row in replies.values()}
    assert (
        images["medxpertqa_mm/mede2/MM-0"] == images["ward_round/mede2/w0"] == 6
        and images["mmmu_health/official/validation_Pharmacy_1"] == 2
    )
    assert sampled(everywhere, tiny_model, tmp_path / "again", "flax", "--flax.dtype=float32") == replies


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny_model", "tiny_internvl"])
def test_real_vllm_gives_the_scores_of_the_sampler_in_this_process(everywhere, request, family, vllm_env, tmp_path):
    model = request.getfixturevalue(family)
    ours = sampled(everywhere, model, tmp_path / "flax", "flax", "--flax.dtype=float32")
    how = [f"--vllm.env={vllm_env}", "--vllm.dtype=float32", "--vllm.cpu_cache_gb=1"]
    theirs = sampled(everywhere, model, tmp_path / "vllm", "vllm", *how)
    assert ours.keys() == theirs.keys()
    ties = set()
    for name, one in ours.items():
        other = theirs[name]
        if one["prompt"] != other["prompt"]:
            assert ("rollouts.jsonl", name[1]) in ties, "only what was said to another reply"
            ties.add(name)
        elif one["token_ids"] != other["token_ids"]:
            place = next(at for at, (a, b) in enumerate(zip(one["token_ids"], other["token_ids"], strict=False)) if a != b)
            assert one["logprobs"][place] == pytest.approx(other["logprobs"][place], abs=TIE), (name, place)
            ties.add(name)
        assert one["prompt_tokens"] == other["prompt_tokens"] or name in ties
    assert len(ties) < len(ours) // 4
    unlike = {tuple(id.removesuffix("#0").split("/", 2)) for _, id in ties}
    for path in (tmp_path / "flax").rglob("verdicts.jsonl"):
        relative = path.relative_to(tmp_path / "flax")
        task, prompt, _ = relative.parts
        for one, other in zip(lines(path), lines(tmp_path / "vllm" / relative), strict=True):
            assert one == other or (task, prompt, one["id"]) in unlike
