"""The command, against a server on loopback that answers as vLLM does; its prompts are made by transformers' own classes."""

import collections
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chat_server import ChatServer, model_tokenise, response_text
from PIL import Image
from waiting import finished, until

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Rollout
from mede2_jax.rollout.__main__ import main
from mede2_jax.rollout.job import _adapted_digest, question_seed
from mede2_jax.rollout.output import missing_runs

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests" / "chat_server.py"


@pytest.fixture(scope="module")
def tokenise(tiny_model):
    return model_tokenise(tiny_model)


@pytest.fixture(scope="module")
def base(tiny_model, sample):
    """What every run here has."""
    return [f"--model={tiny_model}", f"--questions={sample / 'questions.jsonl'}", "--max_tokens=64"]


@pytest.fixture(scope="module")
def unbroken(base, tokenise, tmp_path_factory):
    """A run that nothing went wrong with."""
    out = tmp_path_factory.mktemp("unbroken") / "rollouts.jsonl"
    with ChatServer(tokenise=tokenise) as server:
        main([*base, f"--out={out}", f"--base_url={server.url}"])
    return out


def lines(out):
    return sorted(out.read_text("utf-8").splitlines())


def manifest(out):
    return json.loads(out.with_name(out.name + ".manifest.json").read_text("utf-8"))


def start(arguments):
    command = [sys.executable, "-m", "mede2_jax.rollout", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"COLUMNS": "200"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_question_has_its_samples_and_all_a_judge_needs(unbroken, sample, tiny_model):
    questions = {record["id"]: record for record in map(json.loads, (sample / "questions.jsonl").read_text("utf-8").splitlines())}
    file = RecordFile(unbroken)
    rollouts = [read_own(file[number], Rollout, file.where(number)) for number in range(len(file))]
    assert collections.Counter(rollout.parents for rollout in rollouts) == dict.fromkeys([(id,) for id in questions], 8)
    assert len({rollout.id for rollout in rollouts}) == len(rollouts) == 48 * 8
    digest = json.loads((tiny_model / "model.json").read_text())["digest"]
    for rollout in rollouts:
        question = questions[rollout.parents[0]]
        dumped = rollout.model_dump(mode="json", exclude_none=True)
        assert {name: dumped[name] for name in question if name != "id"} == {name: question[name] for name in question if name != "id"}
        assert (rollout.model, rollout.seed) == (digest, question_seed(0, question["id"]) + rollout.sample)
        assert rollout.logprobs is None and rollout.token_ids is None
        assert rollout.finish_reason == ("length" if rollout.response_tokens == 64 else "stop")
    assert len({rollout.response for rollout in rollouts}) > 300


def test_the_manifest_says_what_went_in_and_came_out(unbroken, sample, tiny_model):
    written = manifest(unbroken)
    rollouts = [json.loads(line) for line in unbroken.read_text("utf-8").splitlines()]
    counts = written["counts"]
    assert written["finished"] and written["dropped"] == {} and written["failed"] == []
    assert (counts["questions"], counts["wanted"], counts["samples"], counts["known"]) == (48, 384, 384, 384)
    assert counts["truncated"] == sum(rollout["finish_reason"] == "length" for rollout in rollouts)
    assert counts["empty"] == sum(not rollout["response"] for rollout in rollouts) > 0
    assert counts["unparsed"] == sum("<answer>" not in rollout["response"] for rollout in rollouts)
    right = [f"<answer> {rollout['answer']} </answer>" in rollout["response"] for rollout in rollouts]
    assert counts["correct"] == sum(right) > 0
    assert counts["response_tokens"] == sum(rollout["response_tokens"] for rollout in rollouts)
    assert written["images"]["root"] == str(sample) and written["config"]["max_tokens"] == 64
    assert written["model"]["digest"] == json.loads((tiny_model / "model.json").read_text())["digest"]


def test_logprobs_are_kept_when_asked_for(base, tokenise, tmp_path):
    out = tmp_path / "r.jsonl"
    with ChatServer(tokenise=tokenise) as server:
        main([*base, f"--out={out}", f"--base_url={server.url}", "--limit=2", "--n=3", "--logprobs"])
    for line in lines(out):
        rollout = json.loads(line)
        assert len(rollout["logprobs"]) == len(rollout["token_ids"]) == rollout["response_tokens"]


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_samples(base, tokenise, unbroken, tmp_path):
    out, rng, kills = tmp_path / "rollouts.jsonl", random.Random(0), 0
    with ChatServer(tokenise=tokenise, seconds=0.25) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}", "--concurrency=32"]
        for number in range(5):
            server.requests.clear()
            before, process = out.stat().st_size if out.exists() else 0, start(arguments)
            until(lambda: server.requests, process)
            if number == 2:  # something is kept, however slow the machine
                until(lambda before=before: out.exists() and out.stat().st_size > before, process)
            else:
                time.sleep(rng.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            process.communicate()
        server.seconds = 0.0
        assert kills == 5 and 0 < len(lines(out)) < 384
        main(arguments)
    assert lines(out) == lines(unbroken)
    assert manifest(out)["counts"] == manifest(unbroken)["counts"]


def server_process(port, model, seconds):
    process = subprocess.Popen([sys.executable, str(SERVER), str(port), str(model), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("http")
    return process


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(base, tiny_model, unbroken, tmp_path):
    out, port = tmp_path / "rollouts.jsonl", free_port()
    server = server_process(port, tiny_model, 0.3)
    run = start([*base, f"--out={out}", f"--base_url=http://127.0.0.1:{port}", "--concurrency=32"])
    until(lambda: out.exists() and out.stat().st_size > 0, run)
    server.kill()
    server.communicate()
    time.sleep(7)
    server = server_process(port, tiny_model, 0.0)
    try:
        output, error = finished(run)
    finally:
        server.kill()
        server.communicate()
    assert (run.returncode, error) == (0, "")
    assert "trying again" in output and "answers again" in output
    assert lines(out) == lines(unbroken)


def test_a_server_that_is_gone_for_good_loses_nothing(base, tokenise, unbroken, tmp_path, capsys):
    out, server = tmp_path / "rollouts.jsonl", ChatServer(tokenise=tokenise, seconds=0.1)
    arguments = [*base, f"--out={out}", "--concurrency=32", "--patience=2"]
    with server:
        threading.Thread(
            target=lambda: (time.sleep(0.2), until(lambda: out.exists() and out.stat().st_size), server.__exit__()), daemon=True
        ).start()
        with pytest.raises(SystemExit) as stop:
            run_command(main, [*arguments, f"--base_url={server.url}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "no server has answered for 2 s" in error
    kept = lines(out)
    assert 0 < len(kept) < 384 and not manifest(out)["finished"] and manifest(out)["counts"]["samples"] == len(kept)
    with ChatServer(tokenise=tokenise) as other:
        main([*arguments, f"--base_url={other.url}"])
        assert sum(body["n"] for body in other.requests) == 384 - len(kept), "only what was missing"
    assert lines(out) == lines(unbroken) and set(kept) <= set(lines(out))
    assert manifest(out)["finished"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_is_one_line_and_keeps_what_came(base, tokenise, unbroken, tmp_path, number, status, word):
    out = tmp_path / "rollouts.jsonl"
    with ChatServer(tokenise=tokenise, seconds=0.3) as server:
        process = start([*base, f"--out={out}", f"--base_url={server.url}", "--concurrency=16"])
        until(lambda: out.exists() and out.stat().st_size > 0, process)
        process.send_signal(number)
        _, error = finished(process)
    kept = lines(out)
    assert process.returncode == status and len(kept) >= 8
    assert error == f"error: {word}; {len(kept)} samples are in {out}, the same command goes on\n"
    assert set(kept) <= set(lines(unbroken)) and manifest(out)["counts"]["samples"] == len(kept)


def test_a_torn_line_is_cut_off_and_taken_anew(base, tokenise, unbroken, tmp_path, capsys):
    out = tmp_path / "rollouts.jsonl"
    whole = unbroken.read_bytes()
    (tmp_path / "rollouts.jsonl.manifest.json").write_text(json.dumps(manifest(unbroken)))
    with ChatServer(tokenise=tokenise) as server:
        for cut in (len(whole) - 1, len(whole) - 900, whole.index(b"\n") + 30, 40):
            out.write_bytes(whole[:cut])
            server.requests.clear()
            main([*base, f"--out={out}", f"--base_url={server.url}"])
            there = whole[:cut].count(b"\n")
            assert sum(body["n"] for body in server.requests) == 384 - there
            assert lines(out) == lines(unbroken)
            assert "the last line was not written to its end" in capsys.readouterr().out


def test_missing_samples_are_asked_for_in_runs_with_their_own_seeds(base, tokenise, unbroken, tmp_path):
    out = tmp_path / "rollouts.jsonl"
    gone = {"sample-case-vt-1#0", "sample-case-vt-1#3", "sample-case-vt-1#4", "sample-case-ich-2#7"}
    (tmp_path / "rollouts.jsonl.manifest.json").write_text(json.dumps(manifest(unbroken)))
    out.write_text("".join(line + "\n" for line in unbroken.read_text("utf-8").splitlines() if json.loads(line)["id"] not in gone))
    with ChatServer(tokenise=tokenise) as server:
        main([*base, f"--out={out}", f"--base_url={server.url}"])
    vt, ich = question_seed(0, "sample-case-vt-1"), question_seed(0, "sample-case-ich-2")
    assert sorted((body["seed"], body["n"]) for body in server.requests) == sorted([(vt, 1), (vt + 3, 2), (ich + 7, 1)])
    assert lines(out) == lines(unbroken)


@pytest.mark.parametrize(
    ("done", "runs"),
    [(set(), [(0, 8)]), ({0}, [(1, 8)]), ({7}, [(0, 7)]), ({2, 3, 5}, [(0, 2), (4, 5), (6, 8)]), (set(range(8)), [])],
)
def test_missing_runs(done, runs):
    assert missing_runs(done, 8) == [range(*run) for run in runs]


def test_n_and_limit_may_grow(base, tokenise, unbroken, tmp_path, capsys):
    out = tmp_path / "rollouts.jsonl"
    with ChatServer(tokenise=tokenise) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}"]
        main([*arguments, "--n=2", "--limit=5"])
        assert len(lines(out)) == 10
        main([*arguments, "--n=5", "--limit=9", "--concurrency=3"])
        assert len(lines(out)) == 45
        with pytest.raises(UserError, match=r"rollouts.jsonl:\d+: sample 4 of question .* but --n=4, which may not shrink"):
            main([*arguments, "--n=4"])
        main(arguments)
        assert lines(out) == lines(unbroken)
        count = len(server.requests)
        main(arguments)
        assert len(server.requests) == count and "has all 384 samples; nothing to do" in capsys.readouterr().out


def test_shards_partition_the_questions(base, tokenise, unbroken, tmp_path):
    outs = [tmp_path / f"rollouts-{index}.jsonl" for index in range(5)]
    with ChatServer(tokenise=tokenise) as one, ChatServer(tokenise=tokenise) as two:
        for index, out in enumerate(outs):
            main([*base, f"--out={out}", f"--base_url={one.url},{two.url}", f"--shard={index}/5"])
        assert one.requests and two.requests
    assert sorted(line for out in outs for line in lines(out)) == lines(unbroken)
    sizes = [len({json.loads(line)["parents"][0] for line in lines(out)}) for out in outs]
    assert sorted(sizes) == [9, 9, 10, 10, 10]


def rewritten(out, to, **changed):
    """A copy of a run whose manifest says something else."""
    to.write_bytes(out.read_bytes())
    before = manifest(out)
    for name, value in changed.items():
        section, _, key = name.partition("__")
        before[section][key] = value
    to.with_name(to.name + ".manifest.json").write_text(json.dumps(before))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--temperature=0.5"], "temperature: 1.0 then, 0.5 now"),
        (["--max_tokens=65", "--top_p=0.9"], "max_tokens: 64 then, 65 now; top_p: 1.0 then, 0.9 now"),
        (["--stop=END"], "stop: none then, ['END'] now"),
        (["--seed=1"], "seed: 0 then, 1 now"),
        (["--logprobs"], "logprobs: False then, True now"),
        (["--data.system_prompt=Be exact."], "data.system_prompt: default then, Be exact. now"),
        (["--shard=0/2"], "shard: none then, 0/2 now); each shard needs a file of its own"),
        (["--vllm.dtype=float32"], "vllm.dtype: auto then, float32 now"),
        (["--vllm.extra=--quantization,fp8"], "vllm.extra: none then, ['--quantization', 'fp8'] now"),
        (["--engine=flax", "--flax.dtype=float32"], "engine: vllm then, flax now"),
    ],
)
def test_a_changed_config_shows_the_difference(base, unbroken, tmp_path, flags, expected):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out)
    before = out.read_bytes()
    with pytest.raises(UserError) as error:
        main([*base, f"--out={out}", *([] if "--engine=flax" in flags else ["--base_url=http://127.0.0.1:9"]), *flags])
    assert f"{out} was begun otherwise (" in str(error.value) and expected in str(error.value)
    assert out.read_bytes() == before


def test_what_the_flax_sampler_computes_in_is_not_free(base, unbroken, tmp_path, capsys):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out)
    path = tmp_path / "r.jsonl.manifest.json"
    path.write_text(json.dumps(manifest(out) | {"engine": "flax"}))
    with pytest.raises(UserError, match=r"was begun otherwise \(flax.dtype: auto then, float32 now\)"):
        main([*base, f"--out={out}", "--engine=flax", "--flax.dtype=float32"])
    main([*base, f"--out={out}", "--engine=flax", "--flax.steps=4", "--flax.slots=2", "--vllm.dtype=float32"])
    assert "has all 384 samples; nothing to do" in capsys.readouterr().out


def test_an_adapter_is_known_by_what_it_holds(base, unbroken, tmp_path, capsys):
    """And not by its path, which may be given from another folder."""
    for name, weights in (("a", b"1"), ("b", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "adapter_model.safetensors").write_bytes(weights)
    out = tmp_path / "r.jsonl"
    digest = _adapted_digest(manifest(unbroken)["model"]["digest"], tmp_path / "a")
    rewritten(unbroken, out, model__digest=digest, config__vllm={**manifest(unbroken)["config"]["vllm"], "adapter": str(tmp_path / "a")})
    main([*base, f"--out={out}", f"--vllm.adapter={tmp_path / 'b'}"])
    assert "has all 384 samples; nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"was begun otherwise \(model .* then, .* now\)"):
        main([*base, f"--out={out}", f"--vllm.adapter={tmp_path / 'other'}"])


def test_options_that_change_no_sample_may_change(base, unbroken, tmp_path, capsys):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out)
    free = ["--vllm.gpu_memory_utilization=0.5", "--vllm.port=9", "--vllm.stop_grace=1", "--flax.dtype=float32", "--concurrency=3"]
    main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9", *free])
    assert "has all 384 samples; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model", "questions", "processor"])
def test_changed_inputs_are_refused(base, unbroken, tmp_path, name):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out, **{f"{name}__digest": "sha256:0123456789abcdef"})
    with pytest.raises(UserError, match=rf"was begun otherwise \({name} .*: 0123456789ab… then, .*… now\)"):
        main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9"])


def test_a_changed_image_is_refused_whatever_the_limit_was(base, unbroken, tmp_path):
    out = tmp_path / "r.jsonl"
    digests = manifest(unbroken)["images"]["digests"]
    assert len(digests) == 48
    changed = next(iter(digests))
    rewritten(unbroken, out, images__digests={**digests, changed: "0" * 16})
    with pytest.raises(UserError, match=rf"images of 1 question, first '{changed}': other files now"):
        main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9", "--limit=5"])


def test_a_smaller_limit_forgets_no_image(base, tokenise, unbroken, tmp_path):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out)
    main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9", "--limit=2"])
    assert manifest(out)["images"]["digests"] == manifest(unbroken)["images"]["digests"]
    counts = manifest(out)["counts"]
    assert (counts["questions"], counts["wanted"], counts["samples"], manifest(out)["dropped"]) == (2, 384, 384, {}), "it adds up"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"failed": [{"reason": "x", "question": "q"}]}, "failed: samples: "),
        ({"failed": [{"reason": "x", "question": "q", "samples": ["a"]}]}, "failed: samples.0: .*got 'a'"),
        ({"seconds": []}, "seconds: "),
        ({"images": {}}, "images.digests: "),
        ({"images": []}, "images: "),
        ({"model": {"digest": 3}}, "model.digest: .*got 3"),
        ({"questions": None}, "questions: "),
    ],
)
def test_a_damaged_manifest_is_one_line(base, unbroken, tmp_path, capsys, change, expected):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out)
    (tmp_path / "r.jsonl.manifest.json").write_text(json.dumps(manifest(out) | change))
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*base, f"--out={out}", "--base_url=http://127.0.0.1:9"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "damaged" in error
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert out.read_bytes() == unbroken.read_bytes()


@pytest.mark.parametrize(
    "url", ["http://me:S3CRET@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key=S3CRET", "http://me:S3CRET@127.0.0.1:99a/v1"]
)
def test_a_secret_in_a_url_is_written_nowhere(base, unbroken, tmp_path, capsys, url):
    out = tmp_path / "r.jsonl"
    rewritten(unbroken, out)
    with pytest.raises(SystemExit):
        run_command(main, [*base, f"--out={out}", f"--base_url={url}"])
    assert "base_url" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert "S3CRET" not in error + "".join(path.read_text() for path in tmp_path.iterdir())


def test_a_file_that_nobody_knows_is_not_touched(base, tmp_path):
    out = tmp_path / "r.jsonl"
    out.write_text('{"precious": 1}\n')
    with pytest.raises(UserError, match=r"without r\.jsonl\.manifest\.json"):
        main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9"])
    (tmp_path / "r.jsonl.manifest.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9"])
    assert out.read_text() == '{"precious": 1}\n'


def test_a_damaged_file_names_the_line_and_is_not_touched(base, unbroken, tmp_path):
    out = tmp_path / "r.jsonl"
    content = unbroken.read_text("utf-8").splitlines(keepends=True)
    for spoilt, expected in [
        ([content[0], "{broken\n", *content[1:]], ":2: not valid JSON"),
        ([*content, content[3]], ":385: sample .* is there twice"),
        ([content[0].replace('"seed":', '"seed":1')], ":1: seed 1.* is not that of sample"),
        ([content[0].replace('"parents":["', '"parents":["x')], ":1: a sample of question 'x"),
        ([content[0].replace('"sample":', '"smaple":1,"sample":')], ":1: unknown field 'smaple'; did you mean 'sample'"),
        ([content[0], re.sub('"answer":"[^"]*"', '"answer":"Z"', content[1])], ":2: field 'answer': 'Z' is neither a letter nor a text"),
        ([content[0], "[" * 100_000 + "\n"], ":2: JSON nested too deeply"),
        ([content[0].replace('"seed":', '"seed":' + "9" * 5000)], ":1: a number of more than 4,300 digits"),
    ]:
        rewritten(unbroken, out)
        out.write_text("".join(spoilt))
        with pytest.raises(UserError, match=f"r.jsonl{expected}"):
            main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9"])
        assert out.read_text() == "".join(spoilt)


def test_failures_are_counted_listed_and_tried_again(base, tokenise, unbroken, tmp_path, capsys):
    out = tmp_path / "rollouts.jsonl"
    refused = {question_seed(0, "sample-case-vt-1"), question_seed(0, "sample-case-ich-2")}

    def faults(number, body):
        text = json.dumps({"error": {"message": f"the prompt has {number} tokens"}}).encode()
        return (400, {}, text) if body["seed"] in refused else None

    with ChatServer(tokenise=tokenise, faults=faults) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}"]
        main(arguments)
        shown, written = capsys.readouterr().out, manifest(out)
        assert len(lines(out)) == 384 - 16 and written["counts"]["samples"] == 384 - 16 and written["counts"]["wanted"] == 384
        assert written["dropped"] == {"# the prompt has # tokens": 16}
        assert {(item["question"], *item["samples"]) for item in written["failed"]} == {
            ("sample-case-vt-1", *range(8)),
            ("sample-case-ich-2", *range(8)),
        }
        assert "16: # the prompt has # tokens" in shown and "16 samples failed" in shown
        server.faults = None
        main(arguments)
    assert lines(out) == lines(unbroken) and manifest(out)["dropped"] == {}


def test_nothing_but_failures_is_an_error(base, tokenise, tmp_path):
    out = tmp_path / "rollouts.jsonl"
    with (
        ChatServer(tokenise=tokenise, faults=lambda number, body: (422, {}, b'{"message": "no images here"}')) as server,
        pytest.raises(UserError, match="no question could be answered; the first: 422 no images here"),
    ):
        main([*base, f"--out={out}", f"--base_url={server.url}", "--limit=3"])
    assert not out.exists()


def test_two_runs_cannot_write_one_file(base, tokenise, tmp_path):
    out = tmp_path / "rollouts.jsonl"
    with ChatServer(tokenise=tokenise, seconds=1.0) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}", "--limit=4", "--n=2"]
        first = threading.Thread(target=main, args=(arguments,))
        first.start()
        while not server.requests:
            time.sleep(0.01)
        with pytest.raises(UserError, match=r"another process is writing .*rollouts.jsonl; .*each shard needs one of its own"):
            main(arguments)
        first.join()
    assert len(lines(out)) == 8


def write_questions(folder, sample, *changes):
    """The sample's first questions with these changes, each beside its images."""
    records = [json.loads(line) for line in (sample / "questions.jsonl").read_text("utf-8").splitlines()[: len(changes)]]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record | change) + "\n" for record, change in zip(records, changes, strict=True)))
    return [f"--questions={path}", f"--data.image_root={sample}"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{}, {"anwser": "B"}], r"questions.jsonl:2: unknown field 'anwser'; did you mean 'answer'\?"),
        ([{}, {"images": ["images/none.png"] * 2}], "questions.jsonl:2: image 'images/none.png' not found"),
        ([{"id": "x"}, {}, {"id": "x"}], "questions.jsonl:3: field 'id': 'x' is also that of .*questions.jsonl:1; ids must differ"),
        ([{"answer": "E"}], "questions.jsonl:1: field 'answer': 'E' is neither a letter nor a text of field 'options'"),
        ([{"chosen": "a"}], "questions.jsonl:1: this is a preference pair"),
        ([{"prompt": [{"role": "user", "content": "<|image_pad|>"}], "images": []}], "questions.jsonl:1: .*reserved token"),
        ([{"images": ["../../../README.md"]}], "questions.jsonl:1: .*outside the image root"),
    ],
)
def test_faults_in_questions_are_found_before_anything_is_asked(base, sample, tmp_path, changes, expected):
    out = tmp_path / "rollouts.jsonl"
    with ChatServer() as server, pytest.raises(UserError, match=expected):
        main([*base, *write_questions(tmp_path, sample, *changes), f"--out={out}", f"--base_url={server.url}"])
    assert not server.requests and [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_truncated_image_is_found_before_anything_is_asked(base, sample, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("pneumothorax-1a.png",):
        (tmp_path / "images" / name).write_bytes((sample / "images" / name).read_bytes()[:900])
    flags = [write_questions(tmp_path, sample, {})[0], f"--out={tmp_path / 'r.jsonl'}", "--base_url=http://127.0.0.1:9"]
    with pytest.raises(UserError, match=r"questions.jsonl:1: image 'images/pneumothorax-1a.png' is truncated or damaged"):
        main([*base, *flags])


def test_images_of_several_frames_are_told_of(base, tokenise, sample, tmp_path, capsys):
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    frames = [Image.new("RGB", (64, 48), color) for color in ("navy", "olive")]
    frames[0].save(tmp_path / "heart.gif", save_all=True, append_images=frames[1:])
    (path,) = write_questions(tmp_path, sample, {"images": ["heart.gif"], "prompt": [question]})[:1]
    with ChatServer(tokenise=tokenise) as server:
        main([*base, path, f"--out={tmp_path / 'r.jsonl'}", f"--base_url={server.url}"])
    told = "1 image file with several frames (a stack or an animation), of which the first is used: 'heart.gif'"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--out={tmp}"], "--out=.* is a folder; give a file, such as .*rollouts.jsonl"),
        (["--model={tmp}"], "is not a model directory"),
        (["--questions={tmp}/none.jsonl"], "cannot read data file"),
        (["--n=0"], "--n: .*got '0'"),
        (["--temperature=0"], "temperature=0 makes all 8 responses to a question the same; use n=1"),
        (["--shard=4/4"], "--shard: must be i/n with i from 0 to n - 1"),
        (["--shard=60/61"], "--shard=60/61 has no question: there are 48"),
        (["--engine=flax"], "engine=flax samples in this process and has no use for base_url"),
        (["--vllm.adapter={tmp}"], "vllm.adapter is for a vLLM server that this run starts"),
        (["--base_url=http://127.0.0.1:80a/v1"], "is no URL of a server"),
        (["--base_url=localhost:8000"], "is no URL of a server; write http://HOST:PORT/v1"),
        (["--base_url=http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9/v1"),
        (["--data.max_pixels=3136"], r"vLLM takes its image options from the model directory, .*\(max_pixels\)"),
        (["--data.max_tiles=3"], "Qwen2.5-VL has no data.max_tiles"),
        (["--max_new_tokens=3"], "did you mean '--max_tokens'"),
        (["--family=internvl3"], "family=internvl3 is of the tiny model"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(base, tmp_path, capsys, flags, expected):
    given = [f"--out={tmp_path / 'r.jsonl'}", "--base_url=http://127.0.0.1:9"]
    given = [flag for flag in [*base, *given] if flag.split("=")[0] not in {other.split("=")[0] for other in flags}]
    with pytest.raises(SystemExit) as stop:
        run_command(main, given + [flag.format(tmp=tmp_path) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert not list(tmp_path.iterdir())


def test_a_model_directory_of_a_newer_format_is_refused(base, tiny_model, tmp_path):
    (tmp_path / "model").mkdir()
    for path in tiny_model.iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    info = json.loads((tiny_model / "model.json").read_text()) | {"format_version": 2}
    (tmp_path / "model" / "model.json").unlink()
    (tmp_path / "model" / "model.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="format_version"):
        main([*base[1:], f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'r.jsonl'}", "--base_url=http://127.0.0.1:9"])


def test_another_prompt_than_trainings_ends_the_run(base, tokenise, tmp_path):
    prompt, *rest = tokenise
    wrong = (lambda messages, options: prompt(messages[1:], options), *rest)  # a server that drops the system turn
    with ChatServer(tokenise=wrong) as server, pytest.raises(UserError, match="sees another prompt than training would"):
        main([*base, f"--out={tmp_path / 'r.jsonl'}", f"--base_url={server.url}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("system_prompt", ["none", "Be exact."])
def test_system_prompt_is_that_of_training(base, tokenise, tmp_path, sample, system_prompt):
    """The server renders with transformers what it is sent; the run compares that with the trainer's own tokens."""
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"prompt": [{"role": "user", "content": "What is it?"}]}) + "\n")
    out = tmp_path / "r.jsonl"
    flags = [f"--questions={questions}", f"--out={out}", f"--data.system_prompt={system_prompt}"]
    with ChatServer(tokenise=tokenise) as server:
        arguments = [base[0], *flags, f"--base_url={server.url}"]
        if system_prompt == "none":  # the tiny Qwen2.5-VL's template always adds one
            with pytest.raises(UserError, match="adds a system turn of its own"):
                main(arguments)
            return
        main(arguments)
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Be exact."}
    assert json.loads(lines(out)[0])["prompt"] == [{"role": "user", "content": "What is it?"}]
    assert manifest(out)["counts"]["known"] == 0


def test_a_full_disk_is_one_line_and_the_run_goes_on_elsewhere(base, tokenise, small_disk, capsys):
    out = small_disk / "rollouts.jsonl"
    (small_disk / "ballast").write_bytes(b"x" * 700_000)
    with ChatServer(tokenise=tokenise) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}"]
        with pytest.raises(SystemExit) as stop:
            run_command(main, arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: No space left on device") and error.count("\n") == 1
        (small_disk / "ballast").unlink()
        with contextlib.suppress(SystemExit):  # it may be full once more
            run_command(main, [*arguments, "--limit=30"])
    samples = [json.loads(line)["id"] for line in lines(out)]
    assert len(samples) == len(set(samples)) == 240


def test_the_embedded_default_needs_no_arguments(tokenise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with ChatServer(tokenise=tokenise) as server:
        main([f"--base_url={server.url}", "--limit=3"])
    assert len(lines(tmp_path / "runs" / "rollouts.jsonl")) == 24
    assert (tmp_path / "runs" / "tiny-qwen2_5_vl" / "model.json").exists()
    shown = capsys.readouterr().out
    assert (
        "3 questions × 8 = 24 samples; engine vllm, model runs/tiny-qwen2_5_vl" in shown.replace("\n", " ")
        and "correct, where known" in shown
    )


@pytest.mark.parametrize(
    ("flags", "missing"), [(["--questions={questions}"], "--model and --out"), (["--model={model}"], "--questions and --out")]
)
def test_the_tiny_model_answers_no_question_of_the_users(tiny_model, sample, tmp_path, monkeypatch, capsys, flags, missing):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_command(main, [flag.format(questions=sample / "questions.jsonl", model=tiny_model) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: missing {missing}: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_test_server_is_deterministic():
    assert response_text([1, 2], 7) == response_text([1, 2], 7) != response_text([1, 2], 8)
