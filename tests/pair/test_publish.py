"""Pairs that take the place of older ones: killed at any step, the same command goes on, and no pairs lie under another's manifest."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from killed_steps import run_until

from mede2_jax.config import UserError
from mede2_jax.judge.__main__ import main as judge
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.pair.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(sample, tmp_path_factory):
    """The sample's rollouts with judgments."""
    out = tmp_path_factory.mktemp("judged") / "judgments.jsonl"
    judge([f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=offline", f"--out={out}"])
    return [f"--rollouts={sample / 'rollouts.jsonl'}", f"--judgments={out}"]


OLD, NEW = ["--max_pairs=1", "--eval_fraction=0.4"], ["--max_pairs=3", "--eval_fraction=0.2"]
WITHOUT = ["--max_pairs=2"]


def made(folder, files, *rule):
    """The files that a rule makes, where nothing goes wrong."""
    folder.mkdir()
    main([*files, f"--out={folder / 'pairs.jsonl'}", *rule])
    return contents(folder)


def contents(folder):
    """All files, manifests without what is another's in every run."""
    found = {}
    for path in folder.iterdir():
        found[path.name] = path.read_bytes()
        if path.name.endswith(".manifest.json"):
            said = json.loads(found[path.name])
            said["config"].pop("out")
            found[path.name] = said | {"file": {"digest": said["file"]["digest"]}}
    return found


def killed(at, folder, files, *rule, number=signal.SIGKILL):
    flags = [*files, f"--out={folder / 'pairs.jsonl'}", *rule]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return run_until("pair", at, number, flags, env=environment, text=True)


def assert_no_pairs_under_anothers_manifest(folder):
    for name in ("pairs.jsonl", "pairs.eval.jsonl"):
        path, manifest = folder / name, folder / f"{name}.manifest.json"
        if path.exists() and manifest.exists():
            said = json.loads(manifest.read_text())
            split = "eval" if "eval" in name else "train"
            assert said["file"]["digest"] == file_digest(path) and said["split"] == split
            assert said["counts"]["pairs"][split] == len(path.read_bytes().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "steps"), [(NEW, 6), (WITHOUT, 4), (None, 4)], ids=["both again", "none held out", "the first"])
def test_killed_at_any_step_the_same_command_goes_on(files, tmp_path, rule, steps):
    """`steps` renames at least; after the last there is nothing to kill."""
    old, new = made(tmp_path / "old", files, *OLD), made(tmp_path / "new", files, *(rule or NEW))
    kills = 0
    for at in range(1, 30):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        if rule is not None:
            for path in (tmp_path / "old").iterdir():
                shutil.copy(path, folder)
        done = killed(at, folder, files, *(rule or NEW))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        assert_no_pairs_under_anothers_manifest(folder)
        left = {path.name: path.read_bytes() for path in folder.iterdir()}
        for name, content in left.items():
            if name in ("pairs.jsonl", "pairs.eval.jsonl"):
                assert content in (old.get(name), new.get(name)), "the old pairs or the new ones, whole"
        # Killed once more at the same step, and at last not: nothing is stuck.
        killed(at, folder, files, *(rule or NEW))
        assert_no_pairs_under_anothers_manifest(folder)
        main([*files, f"--out={folder / 'pairs.jsonl'}", *(rule or NEW)])
        assert contents(folder) == new
    assert done.returncode == 0 and kills >= steps and contents(folder) == new


@pytest.mark.slow
def test_interrupted_at_any_step_it_leaves_files_with_their_manifests(files, tmp_path):
    old, new = made(tmp_path / "old", files, *OLD), made(tmp_path / "new", files, *NEW)
    for at in range(1, 30):
        folder = tmp_path / f"at-{at}"
        shutil.copytree(tmp_path / "old", folder)
        if killed(at, folder, files, *NEW, number=signal.SIGINT).returncode == 0:
            break
        found = contents(folder)
        assert found.keys() == old.keys() and all(found[name] in (old[name], new[name]) for name in found)
        assert_no_pairs_under_anothers_manifest(folder)
        main([*files, f"--out={folder / 'pairs.jsonl'}", *NEW])
        assert contents(folder) == new
    assert at > 6


def test_the_manifest_has_the_digest_of_its_file(files, tmp_path):
    out = tmp_path / "pairs.jsonl"
    main([*files, f"--out={out}"])
    said = json.loads((tmp_path / "pairs.jsonl.manifest.json").read_text())
    assert said["file"] == {"digest": file_digest(out), "inode": out.stat().st_ino}


@pytest.mark.parametrize("left", [".pairs.jsonl.manifest.json.partial", ".pairs.jsonl.manifest.json.before"])
def test_what_a_run_has_left_tells_of_its_own_pairs_only(files, tmp_path, left):
    """A file that someone else has put there since is not replaced."""
    out = tmp_path / "pairs.jsonl"
    main([*files, f"--out={out}"])
    (tmp_path / "pairs.jsonl.manifest.json").rename(tmp_path / left)
    out.write_text("precious\n")
    with pytest.raises(UserError, match="was not made by"):
        main([*files, f"--out={out}"])
    assert out.read_text() == "precious\n" and (tmp_path / left).exists()
    (tmp_path / left).write_text('{"command": "python -m mede2_ja')
    with pytest.raises(UserError, match="was not made by"):
        main([*files, f"--out={out}"])


def test_pairs_that_an_earlier_version_made_may_be_replaced(files, tmp_path):
    """Manifests had no digest then."""
    out, manifest = tmp_path / "pairs.jsonl", tmp_path / "pairs.jsonl.manifest.json"
    main([*files, f"--out={out}", "--max_pairs=1"])
    said = json.loads(manifest.read_text())
    del said["file"]
    for place in (manifest, tmp_path / ".pairs.jsonl.manifest.json.before"):
        manifest.unlink(missing_ok=True)
        place.write_text(json.dumps(said))
        main([*files, f"--out={out}"])
        assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "pairs.jsonl.manifest.json"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"failed": [3]}, "failed.0: "), ({"finished": "no"}, "finished: .*got 'no'"), ({"failed": "all"}, "failed: .*got 'all'")],
)
def test_a_damaged_manifest_of_judgments_is_one_line(files, tmp_path, change, expected):
    judgments = tmp_path / "j.jsonl"
    path = Path(files[1].partition("=")[2])
    shutil.copy(path, judgments)
    said = json.loads(path.with_name("judgments.jsonl.manifest.json").read_text())
    (tmp_path / "j.jsonl.manifest.json").write_text(json.dumps(said | change))
    with pytest.raises(UserError, match=rf"j.jsonl.manifest.json: {expected}"):
        main([files[0], f"--judgments={judgments}", f"--out={tmp_path / 'p.jsonl'}"])
    judgments.unlink()
    (tmp_path / "j.jsonl.manifest.json").write_text(json.dumps(said | {"dropped": {"x": "y"}}))
    with pytest.raises(UserError, match=r"dropped.x: .*got 'y'"):
        main([files[0], f"--judgments={judgments}", f"--out={tmp_path / 'p.jsonl'}"])
