"""What people are to review, as tasks that Label Studio imports, with the labelling config and the images."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from mede2_jax import __version__
from mede2_jax.config import UserError
from mede2_jax.data.images import read_image_bytes
from mede2_jax.data.judged import difference
from mede2_jax.data.readers import read_own
from mede2_jax.data.reading import located
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Judgment
from mede2_jax.engines.picture import Picture
from mede2_jax.engines.wire.pictures import travelling
from mede2_jax.foreign import shown
from mede2_jax.outputs.file import write_whole
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.outputs.publish import check_replaceable, partial_path, publish, settle, undone_on_failure
from mede2_jax.review.config import ExportConfig
from mede2_jax.review.labels import labelling_config, task
from mede2_jax.review.subjects import Subjects

COMMAND = "python -m mede2_jax.review export"
TASKS, LABELS, IMAGES = "tasks.json", "labels.xml", "images"
SERVED = "/data/local-files/?d=" + IMAGES + "/{name}"
"""Where Label Studio shows a file from, whose LOCAL_FILES_DOCUMENT_ROOT is the folder of the tasks."""
LARGEST = 200 << 20
"""Bytes of tasks that Label Studio takes at once; 250 MB is where it refuses."""
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif"}


def export(config: ExportConfig, console: Console) -> None:
    """Writes the folder.

    Args:
        config: What, and where to.
        console: Where to say what came out.

    Raises:
        UserError: Something the user gave cannot be used; what was there is as it was.
    """
    assert config.out is not None
    place = config.out / TASKS
    check_replaceable(place, COMMAND, "tasks")
    subjects = Subjects(config, lambda line: console.print(line, soft_wrap=True, markup=False))
    judged = {} if config.judgments is None else _judged(config.judgments, subjects)
    chosen, left = _chosen(subjects, judged, config)
    with _Images(config, subjects.root) as images:
        text = json.dumps([_task(subjects, id, judged.get(id), images, config) for id in chosen], indent=1)
        if len(text) > LARGEST:
            cure = "give --images=served, or a smaller --limit"
            raise UserError(f"the tasks have {len(text) >> 20} MB, and Label Studio takes 250 at once; {cure}")
        _publish(text, subjects, config, _manifest(config, subjects, chosen, left, images.names))
    console.print(_table(subjects, chosen, left, len(images.names)))
    for what, path in (("tasks", place), ("labels", config.out / LABELS)):
        console.print(f"{what + ':':8} {path}", soft_wrap=True, markup=False)
    console.print(f"Label Studio with both: bash launch/label_studio.sh {config.out}", soft_wrap=True, markup=False)


def _task(subjects: Subjects, id: str, judged: str | None, images: _Images, config: ExportConfig) -> dict[str, Any]:
    """A task; `judged` are the digests of what a judge has judged."""
    subject = subjects.read(id)
    with located(subjects.where(id)):
        if judged is not None and (other := difference(judged, subject.of)):
            what = "response" if other == "response" else "set of images"
            raise UserError(f"is another {what} than {config.judgments} judges; judge it anew")
        return task(subject, subjects.kind, [images.address(name) for name in subject.images])


def _publish(text: str, subjects: Subjects, config: ExportConfig, manifest: dict[str, Any]) -> None:
    """Puts labels, tasks and their manifest in their places."""
    assert config.out is not None
    place = config.out / TASKS
    config.out.mkdir(parents=True, exist_ok=True)
    write_whole(config.out / LABELS, labelling_config(subjects.kind))
    settle(place, COMMAND)
    with undone_on_failure([place], COMMAND):
        write_whole(partial_path(place), text)
        publish([partial_path(place)], [place], [], [manifest])


def _chosen(subjects: Subjects, judged: Mapping[str, str], config: ExportConfig) -> tuple[list[str], dict[str, int]]:
    """The ids, in the order of the tasks; and how many are left out, by reason."""
    if unknown := next((id for id in config.ids if id not in subjects), None):
        raise UserError(f"--ids: there is no {shown(unknown)!r} in {subjects.path}")
    found, left = list(subjects), dict[str, int]()

    def keep(kept: list[str], reason: str) -> None:
        nonlocal found
        if len(kept) < len(found):
            left[reason] = len(found) - len(kept)
        found = kept

    if config.judgments is not None:
        keep([id for id in found if id in judged], "not judged")
    if config.ids:
        keep([id for id in found if id in set(config.ids)], "not among --ids")
    found.sort()  # the same are drawn whatever the order of the file
    random.Random(config.seed).shuffle(found)
    if config.limit is not None:
        keep(found[: config.limit], "beyond --limit")
    if not found:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left.items()) or "it is empty"
        raise UserError(f"nothing of {subjects.path} is left to review: {reasons}")
    return found, left


def _judged(path: Path, subjects: Subjects) -> dict[str, str]:
    """The responses that are judged, each with the digests of what was."""
    file, found = RecordFile(path), dict[str, str]()
    for number in range(len(file)):
        judgment = read_own(file[number], Judgment, where := file.where(number))
        if judgment.rollout not in subjects:
            raise UserError(
                f"{where}: judges {shown(judgment.rollout)!r}, which is not in {subjects.path}; give the files that belong together"
            )
        found[judgment.rollout] = judgment.of
    return found


class _Images:
    """The image files of tasks, each once and named by what it holds; after an error inside, those that were not there are gone again."""

    def __init__(self, config: ExportConfig, root: Path) -> None:
        assert config.out is not None
        self.config, self.root, self.folder = config, root, config.out / IMAGES
        self.names: dict[str, None] = {}
        self._new: list[Path] = []
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for path in self._new:
                path.unlink(missing_ok=True)
            for folder in (self.folder, self.folder.parent):
                with contextlib.suppress(OSError):  # not empty, or not there
                    folder.rmdir()

    def address(self, name: str) -> str:
        """Where a browser finds an image.

        Raises:
            UserError: It cannot be read.
        """
        if name not in self._addresses:
            kind, data = travelling(Picture.read(read_image_bytes(self.root, name), name, self.config.max_image_pixels))
            self._addresses[name] = self._kept(kind, data)
        return self._addresses[name]

    def _kept(self, kind: str, data: bytes) -> str:
        if self.config.images == "embedded":
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"
        file = f"{hashlib.sha256(data).hexdigest()[:24]}{_SUFFIXES.get(kind, '.png')}"
        self.names[file] = None
        if not (path := self.folder / file).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._new.append(path)
            write_whole(path, data)
        return SERVED.format(name=file)


def _manifest(
    config: ExportConfig, subjects: Subjects, chosen: Sequence[str], left: dict[str, int], images: Collection[str]
) -> dict[str, Any]:
    inputs = {"rollouts": config.rollouts, "demonstrations": config.demonstrations, "judgments": config.judgments}
    return {
        "command": COMMAND,
        "config": config.model_dump(mode="json"),
        **{name: {"path": str(path.absolute()), "digest": file_digest(path)} for name, path in inputs.items() if path is not None},
        "images": {"root": str(subjects.root.absolute()), "files": len(images)},
        "versions": {"mede2_jax": __version__},
        "counts": {"in": len(subjects), "tasks": len(chosen)},
        "dropped": left,
    }


def _table(subjects: Subjects, chosen: Sequence[str], left: dict[str, int], images: int) -> Table:
    table = Table(title="to be reviewed", show_header=False)
    table.add_row(f"{subjects.kind}s", f"{len(subjects):,}")
    for reason, count in left.items():
        table.add_row("  left out", f"{count:,}: {reason}")
    table.add_row("  tasks", f"{len(chosen):,}")
    if images:
        table.add_row("image files", f"{images:,}")
    return table
