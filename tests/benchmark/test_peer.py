"""--peer=trl: the real TRL beside a benchmark, what the two figures are divided into, and what it says when TRL cannot do the same."""

import dataclasses
import json
import stat

import pytest

from mede2_jax.benchmark.__main__ import main
from mede2_jax.benchmark.comparison import compare
from mede2_jax.benchmark.config import BenchmarkConfig
from mede2_jax.benchmark.measure import Figures
from mede2_jax.benchmark.peer import PeerFigures
from mede2_jax.config import UserError
from mede2_jax.sizing.flops import Contents, Flops

SMALL = ("--steps=2", "--warmup=1", "--rows_per_step=8", "--data.row_tokens=256", "--compute_dtype=float32", "--remat=none")
RECORDS = (
    "--synthetic.examples=20",
    "--synthetic.prompt_tokens=8",
    "--synthetic.response_tokens=5,20",
    "--synthetic.image_pixels=56,84",
    "--synthetic.text_share=0.5",
)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_trl_runs_beside_it(stage, tiny_model, tmp_path, capfd, trl_env, monkeypatch):
    monkeypatch.chdir(tmp_path)  # TRL leaves nothing where the command stands
    file = tmp_path / "figures.json"
    peer = ("--peer=trl", f"--trl.python={trl_env / 'bin' / 'python'}", "--trl.batch=2", "--trl.steps=3")
    peer += ("--trl.attention=eager",) if stage == "sft" else ("--trl.defaults=false",)
    main([f"--model={tiny_model}", f"--stage={stage}", *SMALL, *RECORDS, *peer, f"--json={file}"])
    shown = capfd.readouterr().out
    assert "TRL: step 4 of 4" in shown and "ratio" in shown and "peak memory" in shown
    found = json.loads(file.read_text())
    theirs, ratio = found["peer"], found["comparison"]
    assert theirs["head"] == "labelled" and theirs["attention"] == ("eager" if stage == "sft" else "sdpa") and not theirs["liger"]
    if stage == "sft":  # and as it comes
        assert found["peer_defaults"]["head"] == "default" and found["peer_defaults"]["attention"] == "eager"
        assert found["peer_defaults"]["real_tokens"] == theirs["real_tokens"], "the same batches"
        assert found["peer_defaults"]["step_losses"] == pytest.approx(theirs["step_losses"], rel=1e-4), "and the same losses"
        assert found["comparison_defaults"]["peer_per_second"] == found["peer_defaults"]["tokens_per_second"]
        assert ", as it comes" in shown and shown.count("TRL: step 4 of 4") == 2
    else:
        assert "peer_defaults" not in found and "as it comes" not in shown
    assert theirs["batch"] == 2 and len(theirs["step_seconds"]) == len(theirs["step_losses"]) == 3 and theirs["device"] == "cpu"
    assert theirs["examples_per_second"] == pytest.approx(2 * 3 / sum(theirs["step_seconds"]))
    # Two records with and without an image do not have one length.
    assert 0.3 < theirs["real_tokens"] < 1
    # No record is over 28 + 8 + 9 + 20 tokens; a pair has two responses.
    per_example = theirs["tokens_per_second"] / theirs["examples_per_second"]
    assert 13 < per_example < 75 * (2 if stage == "dpo" else 1)
    assert theirs["peak_memory_bytes"] > 2**28
    assert ratio["unit"] == {"sft": "real tokens", "dpo": "pairs"}[stage]
    assert ratio["speed"] == pytest.approx(ratio["here_per_second"] / ratio["peer_per_second"])
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def figures(**changes):
    held = Contents(tokens=2000, keys_seen=1, scored=900, image_tokens=10, patches=40, window_keys=1, image_keys=1, examples=4)
    base = Figures(
        devices=2,
        device_kind="x",
        rows=1,
        row_tokens=2048,
        row_patches=64,
        held=held,
        flops=Flops({}, {}),
        peak_tflops=None,
        compile_seconds=1.0,
        step_seconds=0.5,
        slowest_step_seconds=0.6,
        pipeline_step_seconds=0.55,
        input_seconds=0.1,
        images_per_second_per_core=None,
        reference_seconds=0.3,
        peak_memory_bytes=10,
        compilations=1,
    )
    return dataclasses.replace(base, **changes)


def peer(device, stage):
    return PeerFigures(
        name="TRL 1",
        device=device,
        torch="2",
        transformers="5",
        stage=stage,
        batch=2,
        gradient_checkpointing=False,
        head="labelled",
        attention="sdpa",
        liger=False,
        step_seconds=(1.0,),
        step_losses=(2.0,),
        examples_per_second=2.0,
        tokens_per_second=500.0,
        real_tokens=0.9,
        peak_memory_bytes=40,
    )


def test_the_reference_pass_is_charged_to_the_epochs():
    config = BenchmarkConfig(stage="dpo", epochs=3)
    found = compare(config, figures(), peer("cpu", "dpo"))
    assert found.here_per_second == pytest.approx(4 / (0.55 + 0.3 / 3)) and found.unit == "pairs"
    assert found.speed == pytest.approx(4 / 0.65 / 2) and found.speed_trained_once == pytest.approx(4 / 0.85 / 2)
    assert found.memory == 0.25
    # Of several accelerators one is compared; the devices of a CPU are one machine.
    assert compare(config, figures(), peer("H100", "dpo")).speed == pytest.approx(4 / 0.65 / 2 / 2)


def test_supervised_fine_tuning_is_compared_by_real_tokens():
    found = compare(BenchmarkConfig(stage="sft"), figures(reference_seconds=None, peak_memory_bytes=None), peer("cpu", "sft"))
    assert found.unit == "real tokens" and found.speed == found.speed_trained_once == pytest.approx(2000 / 0.55 / 500)
    assert found.memory is None


@pytest.fixture
def program(tmp_path):
    """Stands where TRL's Python would, and ends as told."""

    def make(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts.language=full"], "compares LoRA on the language model, all else frozen"),
        (["--parts.vision=lora"], "compares LoRA on the language model, all else frozen"),
        (["--lora.rank=4"], "lora.alpha = 2 × lora.rank"),
        (["--lora.dropout=0.1"], "no dropout"),
        (["--data.system_prompt=none"], "the chat template's own system prompt"),
        (["--trl.attention=Flash Attention"], "trl.attention"),
        (["--trl.python=nowhere"], "no TRL at trl.python=nowhere: `bash launch/trl_env.sh` makes .venv-trl"),
    ],
)
def test_what_trl_cannot_do_is_said_first(options, message, tiny_model, program):
    python = [] if any("trl.python" in option for option in options) else [f"--trl.python={program('exit 1')}"]
    with pytest.raises(UserError) as error:
        main([f"--model={tiny_model}", "--stage=sft", *SMALL, *RECORDS, "--peer=trl", *python, *options])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo first >&2; echo 'ValueError: no room' >&2; exit 3", "TRL ended with status 3: ValueError: no room"),
        ("exit 3", "TRL ended with status 3: without a word"),
        ("exit 0", "TRL left no figures that can be read"),
    ],
)
def test_its_failure_is_one_line(text, message, tiny_model, program):
    with pytest.raises(UserError) as error:
        main([f"--model={tiny_model}", "--stage=sft", *SMALL, *RECORDS, "--peer=trl", f"--trl.python={program(text)}"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_records_of_another_trainer_are_refused(tiny_model, program, tmp_path):
    records = tmp_path / "records.json"
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    records.write_text(json.dumps([{"conversations": turns}]))
    with pytest.raises(UserError, match=r"reads JSONL of this project's format, and .* looks like a list"):
        main([f"--model={tiny_model}", "--stage=sft", *SMALL, f"--data.path={records}", "--peer=trl", f"--trl.python={program('exit 1')}"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "d2", "messages": [', r"records.jsonl:2: not valid JSON"),
        ('{"id": "d2"}', r"records.jsonl:2: .*messages"),
        ('{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}', r"records.jsonl:2"),
    ],
)
def test_a_broken_line_is_named_before_trl_starts(line, message, tiny_model, program, tmp_path):
    records = tmp_path / "records.jsonl"
    good = {"id": "d1", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    records.write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(UserError, match=message) as error:
        main([f"--model={tiny_model}", "--stage=sft", *SMALL, f"--data.path={records}", "--peer=trl", f"--trl.python={program('exit 1')}"])
    assert "\n" not in str(error.value)
