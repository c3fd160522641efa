"""What a run says of its data before it starts."""

import json
import os
import shutil

import jax
import pytest
from rich.console import Console
from training import make_config, one_device_inputs

from mede2_jax.outputs.manifest import write_manifest
from mede2_jax.parallel.mesh import MeshConfig, describe_excess, make_mesh, take_gpu_memory
from mede2_jax.train.inputs import manifest, show_inputs


def test_what_is_left_out_is_shown_and_listed_with_its_reason(sample, tiny_model, tmp_path):
    records = [json.loads(line) for line in (sample / "preferences.jsonl").read_text().splitlines()[:2]]
    records[1]["rejected"] = records[1]["chosen"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    setup = one_device_inputs(make_config(path, sample), tiny_model)
    assert manifest(setup)["data"]["train"]["skipped"] == {"chosen equals rejected": [records[1]["id"]]}
    console = Console(width=1000)
    with console.capture() as shown:
        show_inputs(setup, console)
    assert "skipped 1 example: chosen equals rejected" in shown.get()
    assert f"train: 1 example of {path} (mede2) in 1 row of " in shown.get()


def test_images_that_come_from_a_folder_of_a_manifest_are_told_of(sample, tiny_model, tmp_path):
    path = tmp_path / "made" / "pairs.jsonl"
    path.parent.mkdir()
    path.write_text((sample / "preferences.jsonl").read_text().splitlines(keepends=True)[0])
    shutil.copytree(sample / "images", tmp_path / "images")
    write_manifest(path, {"command": "python -m mede2_jax.pair", "images": {"root": str(tmp_path)}})
    console = Console(width=1000)
    with console.capture() as shown:
        for root in (None, tmp_path):
            show_inputs(one_device_inputs(make_config(path, root), tiny_model), console)
    assert shown.get().count(f"images of {path}: paths start from {tmp_path}, as its manifest says") == 1, "what was given needs no line"


def test_a_mesh_that_leaves_parameters_whole_is_told_so(sample, tiny_model):
    policy = one_device_inputs(make_config(sample / "preferences.jsonl", sample), tiny_model).spec
    even, odd = (make_mesh(MeshConfig(fsdp=size), jax.devices()[:size]) for size in (4, 3))
    assert policy.excess(even) < 1.2 and describe_excess(policy.excess(even), even.shape) is None
    assert policy.excess(odd) > 2.5
    assert "fsdp=3 × tensor=1 does not divide the widths" in describe_excess(policy.excess(odd), odd.shape)


@pytest.mark.parametrize(("given", "taken"), [(None, "0.92"), ("0.5", "0.5")])
def test_training_takes_a_gpu_unless_told_otherwise(given, taken, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", given)
    take_gpu_memory()
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == taken
