"""The command on a file that is there: what may change between two runs, and what is refused."""

import json
import re
import threading
import time

import pytest
from chat_server import ChatServer
from rollouts_there import lines, manifest, rewritten

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.rollout.__main__ import main
from mede2_jax.rollout.job import _adapted_digest, question_seed
from mede2_jax.rollout.output import missing_runs


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_shards_partition_the_questions(base, tokenise, unbroken, tmp_path):
    outs = [tmp_path / f"rollouts-{index}.jsonl" for index in range(5)]
    with ChatServer(tokenise=tokenise) as one, ChatServer(tokenise=tokenise) as two:
        for index, out in enumerate(outs):
            main([*base, f"--out={out}", f"--base_url={one.url},{two.url}", f"--shard={index}/5"])
        assert one.requests and two.requests
    assert sorted(line for out in outs for line in lines(out)) == lines(unbroken)
    sizes = [len({json.loads(line)["parents"][0] for line in lines(out)}) for out in outs]
    assert sorted(sizes) == [9, 9, 10, 10, 10]


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
        (["--vllm.dtype=bfloat16", "--concurrency=3"], "vllm.dtype: auto then, bfloat16 now"),
        (["--vllm.extra=--kv-cache-dtype,fp8"], "vllm.extra: none then, ['--kv-cache-dtype', 'fp8'] now"),
        (["--vllm.extra=--enable-prefix-caching", "--vllm.port=9"], "vllm.extra: none then, ['--enable-prefix-caching'] now"),
        (["--vllm.extra=--rope-scaling,{}", "--vllm.dtype=float32"], "vllm.dtype: auto then, float32 now; vllm.extra: none then, "),
        (["--engine=flax", "--flax.dtype=float32"], "engine: vllm then, flax now"),
        (["--engine=flax", "--flax.dtype=bfloat16"], "engine: vllm then, flax now"),
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
    main([*base, "--engine=vllm", f"--out={out}", f"--vllm.adapter={tmp_path / 'b'}"])
    assert "has all 384 samples; nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"was begun otherwise \(model .* then, .* now\)"):
        main([*base, "--engine=vllm", f"--out={out}", f"--vllm.adapter={tmp_path / 'other'}"])


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


def test_a_file_that_nobody_knows_is_not_touched(base, tmp_path):
    out = tmp_path / "r.jsonl"
    out.write_text('{"precious": 1}\n')
    with pytest.raises(UserError, match=r"without r\.jsonl\.manifest\.json"):
        main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9"])
    (tmp_path / "r.jsonl.manifest.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        main([*base, f"--out={out}", "--base_url=http://127.0.0.1:9"])
    assert out.read_text() == '{"precious": 1}\n'


@pytest.mark.slow
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


@pytest.mark.slow
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
