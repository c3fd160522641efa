"""The benchmark command on a CPU: what it measures, what it makes up, and what it says when something is wrong."""

import json
import re
import shutil
import time

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from mede2_jax.benchmark.__main__ import main
from mede2_jax.benchmark.measure import compile_seconds
from mede2_jax.config import UserError
from mede2_jax.data.records import Demonstration, PreferencePair
from mede2_jax.families import model_config
from mede2_jax.sizing.synthetic import SyntheticConfig, write_records

SMALL = ("--steps=2", "--warmup=1", "--rows_per_step=8", "--data.row_tokens=256", "--compute_dtype=float32", "--remat=none")
RECORDS = ("--synthetic.examples=20", "--synthetic.prompt_tokens=8", "--synthetic.response_tokens=5,20", "--synthetic.image_pixels=56,84")


def test_compiling_is_timed_by_name_and_counts_nothing_when_nothing_compiles():
    def one(x):
        return other(x) + 1

    @jax.jit
    def other(x):
        return x * 2

    called, began = jax.jit(one), time.perf_counter()
    with compile_seconds("one") as spent, compile_seconds("another") as none:
        called(jnp.ones(3))
    assert 0 < sum(spent) < time.perf_counter() - began and not none
    with compile_seconds("one") as again:
        called(jnp.ones(3))
    assert not again


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_measures_and_writes_its_figures(stage, tiny_model, tmp_path, capsys):
    file, records = tmp_path / "figures.json", tmp_path / "records"
    main(
        [f"--model={tiny_model}", f"--stage={stage}", *SMALL, *RECORDS, f"--synthetic.keep={records}", f"--json={file}", "--peak_tflops=1"]
    )
    shown = capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["compilations"] == 1 and figures["devices"] == 8 and figures["rows"] == 8
    assert 0 < figures["step_seconds"] <= figures["slowest_step_seconds"] and figures["compile_seconds"] > 0
    assert figures["input_seconds"] > 0 and 0 <= figures["waiting"] < 1
    held, seconds = figures["held"], figures["step_seconds"]
    assert figures["tokens_per_second_per_device"] == pytest.approx(held["tokens"] / seconds / 8)
    assert figures["tflops_per_device"] == pytest.approx(sum(figures["flops"]["model"].values()) / seconds / 8 / 1e12)
    assert figures["mfu"] == pytest.approx(figures["tflops_per_device"])
    assert held["patches"] == 4 * held["image_tokens"] > 0
    assert (figures["reference_seconds"] is None) == (stage == "sft")
    unit = {"sft": "examples/s/device", "dpo": "pairs/s/device"}[stage]
    assert re.search(rf"{unit}\s+│", shown) and "MFU" in shown and "1 compilation of the step" in shown
    assert len((records / "records.jsonl").read_text().splitlines()) == 20


@pytest.mark.slow
def test_a_folder_without_weights_will_do(tiny_model, tmp_path, capsys):
    folder = tmp_path / "config"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("params", "model.json"))
    main([f"--model={folder}", "--stage=sft", *SMALL, *RECORDS, "--synthetic.images=0", "--profile", str(tmp_path / "trace")])
    assert "the weights are random" in capsys.readouterr().out
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_made_up_records_are_records_of_the_lengths_asked_for(stage, tiny_model, tmp_path):
    family, _ = model_config(tiny_model)
    processor = family.load_processor(tiny_model)
    tokenizer = processor.chat.tokenizer
    config = SyntheticConfig(examples=12, prompt_tokens=9, response_tokens=(5, 40), images=2, image_pixels=(60, 90))
    path = write_records(tmp_path, stage, config, tokenizer)
    kind = Demonstration if stage == "sft" else PreferencePair
    records = [kind.model_validate_json(line) for line in path.read_text().splitlines()]
    assert len(records) == 12 and len({record.id for record in records}) == 12
    responses = [
        text for record in records for text in ([record.messages[-1].text] if stage == "sft" else [record.chosen, record.rejected])
    ]
    lengths = [len(tokenizer(" " + text)["input_ids"]) for text in responses]
    assert 5 <= min(lengths) < max(lengths) <= 40
    for record in records:
        for name in record.images:
            with Image.open(tmp_path / name) as image:
                assert all(60 <= side <= 90 for side in image.size)
    again = tmp_path / "again"
    again.mkdir()
    assert write_records(again, stage, config, tokenizer).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=/dev/null"], "no model: set --model"),
        (["--model=nowhere"], "no config.json in 'nowhere'"),
        (["--model=nowhere", "--step=3"], "unknown option '--step' (did you mean '--steps'?)"),
        (["--model=nowhere", "--synthetic.response_tokens=5"], "synthetic.response_tokens"),
        (["--model=nowhere", "--synthetic.response_tokens=50,5"], "shortest 50 is longer than longest 5"),
    ],
)
def test_wrong_input_is_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_records_are_not_written_over(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"synthetic.keep=.* is there already"):
        main([f"--model={tiny_model}", "--stage=sft", *SMALL, *RECORDS, f"--synthetic.keep={tmp_path}"])
