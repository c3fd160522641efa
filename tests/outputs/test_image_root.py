"""Which folder images are taken from: a manifest that travels with a file opens none that is far from it."""

import json
import pwd
import shutil
from pathlib import Path

import pytest

from mede2_jax.config import UserError
from mede2_jax.outputs.file import write_whole
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import manifest_path, read_manifest, write_manifest

OURS = "python -m mede2_jax.rollout"


def said(file, root, /, command=OURS, **more):
    """A manifest that anyone may have written."""
    write_whole(manifest_path(file), json.dumps({"command": command, "images": {"root": root}, **more}))


@pytest.fixture
def file(tmp_path):
    """A data file in a folder of a folder."""
    path = tmp_path / "set" / "made" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    return path


def test_the_folder_given_comes_first_and_the_files_own_last(file):
    assert image_root(file, None) == file.parent and image_root(file, Path("x")) == Path("x")
    said(file, "/")
    assert image_root(file, Path("x")) == Path("x")


def test_a_folder_near_the_file_is_taken_from_its_manifest(file):
    for folder in (file.parent / "images", file.parent.parent, file.parent.parent / "images", file.parent):
        folder.mkdir(exist_ok=True)
        said(file, str(folder))
        lines = []
        assert image_root(file, None, notify=lines.append) == folder
        assert lines == ([] if folder == file.parent else [f"images of {file}: paths start from {folder}, as its manifest says"])


def test_what_names_no_folder_leaves_the_files_own(file):
    for images in ({"root": "/gone"}, {}, [], {"root": 3}, {"root": "x" * 100_000}, {"root": "a\0b"}, {"root": None}):
        write_whole(manifest_path(file), json.dumps({"command": OURS, "images": images}))
        assert image_root(file, None) == file.parent, "file and images may have been moved together"


def test_a_manifest_that_came_with_a_file_opens_no_other_folder(file, tmp_path, monkeypatch):
    private = tmp_path / "private"
    private.mkdir()
    (file.parent / "link").symlink_to(private)
    for root in ("/", str(private), str(tmp_path), str(file.parent / ".." / ".." / "private"), str(file.parent / "link")):
        said(file, root, file={"inode": file.stat().st_ino + 1})
        with pytest.raises(UserError, match=r"a\.jsonl\.manifest\.json says that image paths start from '.*far from.*; give --x=FOLDER"):
            image_root(file, None, "--x")
    said(file, str(file.parent.parent), command="curl")
    with pytest.raises(UserError, match="was not written by a command of this package"):
        image_root(file, None)
    monkeypatch.chdir(tmp_path)
    said(file, "private")
    with pytest.raises(UserError, match="which is another folder wherever a command runs"):
        image_root(file, None)


def test_around_a_file_in_a_home_lies_nothing(tmp_path, monkeypatch):
    home = tmp_path / "homes" / "me"
    monkeypatch.setenv("HOME", str(home))
    for folder, near in [(home / "downloads" / "set", True), (home / "downloads", False), (home, False), (tmp_path / "homes", False)]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.jsonl").write_text("{}\n")
        said(folder / "a.jsonl", str(folder.parent))
        if near:
            assert image_root(folder / "a.jsonl", None) == folder.parent
        else:
            with pytest.raises(UserError, match="give --image_root=FOLDER"):
                image_root(folder / "a.jsonl", None)


def test_who_has_no_home_reads_images_all_the_same(file, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(RuntimeError):
        Path.home()
    said(file, str(file.parent.parent))
    assert image_root(file, None) == file.parent.parent


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_a_home_that_is_a_link_is_a_home(below, tmp_path, monkeypatch):
    real, link = tmp_path / "disk" / "me", tmp_path / "me"
    real.mkdir(parents=True)
    link.symlink_to(real)
    monkeypatch.setenv("HOME", str(link))
    file = link / "downloads" / "a.jsonl"
    file.parent.mkdir()
    file.write_text("{}\n")
    (real / below).mkdir(parents=True, exist_ok=True)
    said(file, str(real / below))
    with pytest.raises(UserError, match="far from the file"):
        image_root(file, None)


def test_a_file_that_was_made_here_may_have_its_images_anywhere_and_a_copy_of_it_may_not(file, tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    write_manifest(file, {"command": OURS, "images": {"root": str(far)}})
    assert image_root(file, None) == far
    moved = tmp_path / "elsewhere" / "here"
    moved.parent.mkdir()
    shutil.move(file.parent, moved)
    assert image_root(moved / "a.jsonl", None) == far, "still the same file"
    copied = tmp_path / "other" / "copy"
    shutil.copytree(moved, copied)
    with pytest.raises(UserError, match="the file is a copy, or its manifest another's"):
        image_root(copied / "a.jsonl", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{", r"cannot read .*a.jsonl.manifest.json"),
        (b"[]", "is no manifest"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "not UTF-8"),
        (b'{"seconds": ' + b"9" * 5000 + b"}", "more than 4,300 digits"),
        (b'{"command": 3}', "command: .*got 3"),
        (b'{"file": []}', "file: "),
    ],
)
def test_a_damaged_manifest_is_one_line(file, text, expected):
    manifest_path(file).write_bytes(text)
    with pytest.raises(UserError, match=expected) as error:
        image_root(file, None)
    assert "put back the one that was written with a.jsonl, or delete it" in str(error.value) and str(error.value).isprintable()
    if b"command" not in text and b"file" not in text:
        with pytest.raises(UserError, match=expected):
            read_manifest(file)
