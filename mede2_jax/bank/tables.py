"""Questions of tables, by the readers of benchmarks or a YAML file of columns; and records of questions that are there already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mede2_jax.bank.candidate import Candidate, Source
from mede2_jax.bank.column_map import LICENCE, MappedTable, read_map
from mede2_jax.config import UserError
from mede2_jax.data.questions import CASE
from mede2_jax.data.readers import read_own
from mede2_jax.data.reading import located
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Question
from mede2_jax.fields import hint, nearest
from mede2_jax.foreign import shown
from mede2_jax.outputs.image_root import image_root
from mede2_jax.scoring.reading import several
from mede2_jax.tasks.asking import OURS, ItemImage
from mede2_jax.tasks.catalogue import TASKS, check_columns, find_task, read_items, shipped_names, task_files
from mede2_jax.tasks.image_files import image_roots
from mede2_jax.tasks.item import Item, Task
from mede2_jax.tasks.own import OwnTask

RECORDS, PMC = OTHERS = ("records", "pmc")
"""The sources that are no tables: questions in this project's own form, and PubMed Central's packages."""
YAML = (".yaml", ".yml")


def open_table(name: str, data: Path, images: tuple[Path, ...]) -> Source:
    """A table, by a YAML file or the name of a benchmark, whose own split may not be trained on.

    Args:
        name: Of the benchmark, or of the YAML file.
        data: A file; with a YAML file, which names its files, also a folder.
        images: Folders that images are looked for in; none: beside the table.

    Raises:
        UserError: There is no such table, it is a benchmark's folder, or no row can be read.
    """
    if not name.endswith(YAML) and name not in (known := [*TASKS, *shipped_names()]):
        near = hint(nearest(name, [*known, *OTHERS]))
        raise UserError(
            f"unknown source {shown(name)!r}{near}; a source is a YAML file of columns (mine.yaml), {', '.join(OTHERS)}, or a benchmark: "
            f"{', '.join(known)}"
        )
    task: Task = read_map(Path(name)) if name.endswith(YAML) else find_task(name)
    notices = []
    if not isinstance(task, MappedTable):
        if data.is_dir():
            raise UserError(
                f"{name} is a benchmark, and {str(data)!r} is a folder: the file that evaluate reads there is not for training; "
                "give --data=FILE, the split that you train on"
            )
        patterns = [pattern for several in task.files for pattern in ((several,) if isinstance(several, str) else several)]
        if any(data.match(pattern) for pattern in patterns if any(word in pattern for word in ("test", "validation"))):
            notices.append(f"{data} has the name of the split that {name} is scored by; a model trained on it must not be evaluated there")
    files = task_files(task, data)
    if task.all_columns:
        check_columns(task, files, images=True)
    roots, definition = images or tuple(image_roots(task, data)), task.definition if isinstance(task, OwnTask) else {}
    return Source(task.name, files, roots, lambda: _of_items(task, files), definition=definition, notices=notices)


def open_records(data: Path, images: tuple[Path, ...]) -> Source:
    """A file of questions in this project's own form.

    Raises:
        UserError: It cannot be read.
    """
    file = RecordFile(data)
    roots = images or (image_root(file.path, None, "--images"),)

    def read() -> Iterator[Candidate]:
        for number in range(len(file)):
            question = read_own(file[number], Question, file.where(number))
            yield Candidate(
                id=question.id,
                where=file.where(number),
                prompt=question.prompt,
                images=tuple(map(ItemImage, question.images)),
                answer=question.answer,
                options=question.options,
                licence=question.licence,
                metadata=question.metadata,
                parents=question.parents,
                source=question.source,
            )

    return Source(RECORDS, (file.path,), roots, read)


def _of_items(task: Task, files: tuple[Path, ...]) -> Iterator[Candidate]:
    for item in read_items(task, files):
        yield _candidate(task, item)


def _candidate(task: Task, item: Item) -> Candidate:
    """An item as prompt `mede2` asks it: the paper's system turn, images, the question with its choices."""
    where = f"{task.name}, item {shown(item.id)}"
    with located(where):
        task.check_images(item)
        asked, answers = task.asked(item, OURS), several(item.answer)
    said = {
        "item": item.id,
        CASE: item.cluster or None,
        "kind": item.fields.get("kind"),
        "answers": list(answers) if len(answers) > 1 else None,
        "groups": dict(item.groups) or None,
    }
    return Candidate(
        id=f"{task.name}/{item.id}",
        where=where,
        prompt=asked.messages,
        images=asked.images,
        answer=answers[0] if answers else None,
        options=dict(item.options) or None,
        licence=item.fields.get(LICENCE) or None,
        metadata={name: value for name, value in said.items() if value is not None},
    )
