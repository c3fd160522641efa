"""What a run says of its data before it starts."""

import json
import shutil

import jax
import pytest
from PIL import Image
from rich.console import Console
from training import make_config, one_device_inputs

from mede2_jax.config import UserError
from mede2_jax.outputs.manifest import write_manifest
from mede2_jax.parallel.mesh import describe_excess, make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.train import inputs as inputs_module
from mede2_jax.train.inputs import check_same, manifest, show_inputs
from mede2_jax.train.run import _show_results


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


def test_a_process_that_sees_other_data_says_what_differs(sample, tiny_model, monkeypatch):
    """And not the whole of both manifests, with the id of each record that was left out."""
    ours = one_device_inputs(make_config(sample / "preferences.jsonl", sample), tiny_model)
    theirs = json.loads(json.dumps(manifest(ours)))
    monkeypatch.setattr(inputs_module, "agreed", lambda _: theirs)
    check_same(ours)
    examples = theirs["data"]["train"]["examples"]
    theirs["data"]["train"] |= {"examples": 7, "skipped": {"longer than row_tokens=2048": [f"case-{n}" for n in range(5000)]}}
    with pytest.raises(UserError) as raised:
        check_same(ours)
    message = str(raised.value)
    assert f"sees other data than process 0 (data.train.examples: 7 there, {examples} here; data.train.skipped" in message
    assert len(message) < 1000 and "digest" not in message
    theirs["data"] = manifest(ours)["data"]
    theirs["config"]["optimizer"]["learning_rate"] = 0.5
    with pytest.raises(UserError, match=r"was started with another config than process 0 \(config.optimizer.learning_rate: 0.5 there, "):
        check_same(ours)


def merged(before, change):
    """`before` with the values of `change`, object by object."""
    if not (isinstance(before, dict) and isinstance(change, dict)):
        return change
    return before | {name: merged(before.get(name), value) for name, value in change.items()}


@pytest.mark.parametrize(
    ("section", "there", "says"),
    [
        ("data", {"train": {"skipped": {f"reason {n}": ["id"] * 9 for n in range(3000)}}}, "sees other data than process 0 ("),
        ("data", {"eval": {"skipped": {"chosen equals rejected": ["x" * 500] * 4000}}}, "sees other data than process 0 (data.eval"),
        ("data", {"train": {"path": "/elsewhere/" + "a" * 100_000}}, "sees other data than process 0 (data.train.path: "),
        ("data", {"train": {"images": {f"{n}.png": "sha256:" + "0" * 64 for n in range(5000)}}}, "sees other data than process 0 ("),
        ("digests", ["sha256:" + "f" * 64] * 2000, "sees another model than process 0 ("),
        ("config", {"lora": {"targets": [f"layer_{n}" for n in range(20_000)]}}, "was started with another config than process 0 ("),
    ],
    ids=["reasons", "ids", "path", "images", "digests", "options"],
)
def test_what_differs_is_one_short_line_however_much_it_is(section, there, says, sample, tiny_model, monkeypatch):
    ours = one_device_inputs(make_config(sample / "preferences.jsonl", sample), tiny_model)
    theirs = json.loads(json.dumps(manifest(ours)))
    theirs[section] = merged(theirs[section], there)
    monkeypatch.setattr(inputs_module, "agreed", lambda _: theirs)
    with pytest.raises(UserError) as raised:
        check_same(ours)
    message = str(raised.value)
    assert says in message and message.endswith("; give all the same options and files")
    assert len(message) < 4000 and "\n" not in message


def test_images_of_several_frames_are_told_of(sample, tiny_model, tmp_path):
    frames = [Image.new("RGB", (64, 48), color) for color in ("navy", "olive")]
    for name, more in (("stack.tif", frames[1:]), ("heart.gif", frames[1:]), ("one.gif", [])):
        frames[0].save(tmp_path / name, save_all=True, append_images=more)
    record = {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]}
    records = [record | {"chosen": "Navy.", "rejected": "Olive.", "images": [name]} for name in ("stack.tif", "one.gif", "heart.gif")]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    console = Console(width=1000)
    with console.capture() as shown:
        show_inputs(one_device_inputs(make_config(path, tmp_path), tiny_model), console)
    told = "2 image files with several frames (a stack or an animation), of which the first is used: 'heart.gif', 'stack.tif'\n"
    assert told in shown.get()


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


@pytest.mark.parametrize("folder", ["[red]", "[old] [", "x[/]", "[/nothing]", "a[bold]b[/bold]"])
def test_a_path_is_no_markup(folder, sample, tiny_model, tmp_path):
    path = tmp_path / folder / "pairs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text((sample / "preferences.jsonl").read_text().splitlines(keepends=True)[0])
    (path.parent / "curves.png").touch()
    console = Console(width=1000)
    with console.capture() as shown:
        show_inputs(one_device_inputs(make_config(path, sample), tiny_model), console)
        _show_results(path.parent, console)
    assert f"1 example of {path} (mede2)" in shown.get() and f"{path.parent / 'curves.png'}\n" in shown.get()


def test_a_mesh_that_leaves_parameters_whole_is_told_so(sample, tiny_model):
    policy = one_device_inputs(make_config(sample / "preferences.jsonl", sample), tiny_model).spec
    even, odd = (make_mesh(MeshConfig(fsdp=size), jax.devices()[:size]) for size in (4, 3))
    assert policy.excess(even) < 1.2 and describe_excess(policy.excess(even), even.shape) is None
    assert policy.excess(odd) > 2.5
    assert "fsdp=3 × tensor=1 does not divide the widths" in describe_excess(policy.excess(odd), odd.shape)
