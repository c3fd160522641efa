"""Whose a run directory is, and what a run that is resumed must have in common with the one that was started."""

import fcntl
import json

import pytest
import yaml

from mede2_jax.config import UserError
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.run_directory import check_run_directory, is_finished, open_run_directory

MANIFEST = {
    "model": "m0",
    "digests": ["sha256:1"],
    "data": {"train": {"path": "pairs.jsonl", "digest": "d1", "examples": 3}},
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return TrainConfig.model_validate({"model": "m0", "data": {"path": "pairs.jsonl"}, "output": "runs/a"})


def changed(config, **values):
    return TrainConfig.model_validate({**config.model_dump(), **values})


@pytest.fixture
def begun(config):
    with open_run_directory(config, MANIFEST):
        pass
    return changed(config, resume=True)


def refusal(config, manifest=MANIFEST):
    with pytest.raises(UserError) as raised:
        check_run_directory(config, config.model)
        with open_run_directory(config, manifest):
            pass
    return str(raised.value)


def test_a_new_run_has_its_config_and_manifest(config, begun):
    assert TrainConfig.model_validate(yaml.safe_load((config.output / "config.yaml").read_text())) == config
    assert json.loads((config.output / "manifest.json").read_text()) == MANIFEST


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_one_process_at_a_time(config, begun, option):
    again = changed(config, **{option: True})
    with open_run_directory(begun, MANIFEST):
        assert "another process is training in runs/a" in refusal(again)
        (config.output / "precious").write_text("")
        with pytest.raises(UserError, match="another process"), open_run_directory(again, MANIFEST):
            pass
        assert (config.output / "precious").exists()
    check_run_directory(again, config.model)
    with open_run_directory(again, MANIFEST):
        assert (config.output / "precious").exists() == (option == "resume")


def test_a_directory_replaced_between_look_and_lock_is_not_entered(config, begun, monkeypatch):
    """Another start with --overwrite got in between: the lock that this one takes is that of a deleted directory."""
    again, lock = changed(config, overwrite=True), fcntl.flock

    def late(handle, flags):
        monkeypatch.setattr(fcntl, "flock", lock)
        config.output.rename(config.output.with_name("deleted"))
        config.output.mkdir()
        (config.output / "precious").write_text("")
        lock(handle, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another process is training"), open_run_directory(again, MANIFEST):
        pass
    assert (config.output / "precious").exists()


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_begun_meanwhile_is_not_entered(config, finished):
    """Both were started on an empty place; opening the data took this one longer."""
    check_run_directory(config, config.model)
    with open_run_directory(changed(config, epochs=1), MANIFEST):
        pass
    if finished:
        (config.output / "model").mkdir()
    with pytest.raises(UserError, match="already exists"), open_run_directory(config, MANIFEST):
        pass
    expected = "finished meanwhile" if finished else "epochs: 1 then, 3 now"
    with pytest.raises(UserError, match=expected), open_run_directory(changed(config, resume=True), MANIFEST):
        pass


def test_a_link_is_not_overwritten(config, begun, tmp_path):
    (tmp_path / "link").symlink_to(config.output)
    assert f"use --output={config.output.resolve()}" in refusal(changed(config, output="link", overwrite=True))
    assert (config.output / "manifest.json").exists() and (tmp_path / "link").is_symlink()
    check_run_directory(changed(begun, output="link"), config.model)


def test_what_a_killed_overwrite_left_behind_goes(config):
    removed = config.output.with_name(".a.removed")
    (removed / "checkpoints").mkdir(parents=True)
    with open_run_directory(changed(config, overwrite=True), MANIFEST):
        assert not removed.exists()


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_damaged_manifest_is_one_line(config, begun, content):
    (config.output / "manifest.json").write_text(content)
    assert "manifest.json is damaged" in refusal(begun)


def test_a_file_system_without_locks_is_no_obstacle(config, monkeypatch):
    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    with open_run_directory(config, MANIFEST):
        assert (config.output / "manifest.json").exists()


def test_a_start_that_was_killed_at_once_leaves_no_obstacle(config):
    config.output.mkdir(parents=True)
    (config.output / ".lock").touch()
    check_run_directory(config, config.model)


def test_two_spellings_of_a_path_are_one(config, begun, tmp_path):
    check_run_directory(changed(begun, model=tmp_path / "m0"), tmp_path / "m0")
    assert "model: m0 then, m1 now" in refusal(changed(begun, model="m1"))
    assert "adapter: None then, a now" in refusal(changed(begun, adapter="a"))


FROM_HERE = {"model": "m0", "adapter": "adapters/a", "path": "pairs.jsonl", "eval_path": "../eval.jsonl", "image_root": "images"}


@pytest.mark.parametrize("option", FROM_HERE)
def test_a_run_goes_on_from_another_folder(tmp_path, monkeypatch, option):
    def config(there, **other):
        """As it is written in a folder from which that of the run's beginning is `there`."""
        paths = {name: f"{there}{path}" for name, path in (FROM_HERE | other).items()}
        data = {name: paths.pop(name) for name in ("path", "eval_path", "image_root")}
        return TrainConfig.model_validate(paths | {"data": data, "output": f"{there}runs/a", "resume": True})

    here = tmp_path / "work" / "sub"
    (here / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(here)
    with open_run_directory(config(""), MANIFEST | {"folder": str(here)}):
        pass
    for folder, there in (("deep", "../"), ("deep/er", "../../"), ("..", "sub/"), ("/", f"{here}/"), (".", "deep/../")):
        monkeypatch.chdir(here / folder)
        check_run_directory(config(there), config(there).model)
        assert not is_finished(config(there))
        changed = config(there, **{option: f"{FROM_HERE[option]}2"})
        with pytest.raises(UserError, match=rf"{option}: \S+ then, \S+ now"):
            check_run_directory(changed, changed.model)
    # all moved together: the old spelling, from the new place
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved" / "sub")
    check_run_directory(config(""), config("").model)
    assert "with another config" in refusal(config("", **{option: "other"}))


def test_changed_data_is_said_in_words(begun):
    shorter = {**MANIFEST, "data": {"train": {"path": "pairs.jsonl", "digest": "d2", "examples": 2}}}
    assert "pairs.jsonl (train), its images or the processor's files were changed (3 examples then, 2 now)" in refusal(begun, shorter)
    assert "m0 holds another model" in refusal(begun, {**MANIFEST, "digests": ["sha256:2"]})


def test_only_a_resumed_run_can_be_finished(config, begun):
    assert not is_finished(begun)
    (config.output / "model").mkdir()
    assert is_finished(begun) and not is_finished(config)
    assert "use --overwrite to start over" in refusal(config)
    with pytest.raises(UserError, match="epochs: 3 then, 4 now"):
        is_finished(changed(begun, epochs=4))
