"""All tasks by name, and their items read from a folder: complete, each once, known by the digest of their files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mede2_jax.config import MOST_FAULTS, UserError
from mede2_jax.fields import hint, nearest
from mede2_jax.foreign import shown
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.tasks import diagnosisarena, medbullets, medqa, medxpertqa, mmmu, mmmu_pro, mmxu
from mede2_jax.tasks.item import Item, Task
from mede2_jax.tasks.own import own_task
from mede2_jax.tasks.tables import SUFFIXES, column_names, rows

TASKS: dict[str, Task] = {
    task.name: task for module in (medxpertqa, mmmu, mmmu_pro, medqa, medbullets, mmxu, diagnosisarena) for task in module.TASKS
}
"""In the order of `--help`."""
HOW_TO_GET = "data/README.md says where it comes from"
SHIPPED = Path(__file__).parents[2] / "configs" / "tasks"
"""Benchmarks that are YAML files, each found by its name; a package without its repository has none."""


def shipped_names() -> list[str]:
    """The names of the YAML files beside the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def describe_tasks() -> str:
    """Which there are, for `--help`."""
    shipped = ", ".join(shipped_names()) or "none here"
    return f"Tasks: {', '.join(TASKS)}; from configs/tasks: {shipped}; or a YAML file of yours (data/README.md)."


def find_task(name: str) -> Task:
    """The task of that name, or of that YAML file.

    Raises:
        UserError: There is none, and the nearest name is suggested; or the file is not as it should be.
    """
    if name in TASKS:
        return TASKS[name]
    if name.endswith((".yaml", ".yml")):
        task = own_task(Path(name))
        if task.name in TASKS:
            raise UserError(f"{name}: 'name: {task.name}' is that of another benchmark; give this one its own")
        return task
    if name in (shipped := shipped_names()):
        return own_task(SHIPPED / f"{name}.yaml")
    names = [*TASKS, *shipped]
    meant = " or ".join(map(repr, _meant(name, names)))
    near = f" (did you mean {meant}?)" if meant else ""
    raise UserError(f"unknown task {shown(name)!r}{near}; the tasks are {', '.join(names)}, or a YAML file of yours")


def _meant(name: str, names: Sequence[str]) -> list[str]:
    """The names that an unknown one may stand for: as others write them, of a slip, those that begin so, or with as many of its words."""
    plain = re.sub(r"[\W_]+", "_", name.casefold()).strip("_")
    if not plain or (near := nearest(plain, names)):
        return [near] if plain else []
    if begun := [one for one in names if one.startswith(plain)]:
        return begun
    words = plain.split("_")
    for count in range(len(words) - 1, 0, -1):
        start, others = "_".join(words[:count]), words[count:]
        if start in names:
            return [start]
        if begun := [one for one in names if one.startswith(f"{start}_")]:
            return [one for one in begun if all(word in one for word in others)] or begun
    return []


@dataclasses.dataclass(frozen=True)
class Items:
    """The items of a task, from files whose digest says which revision they are of."""

    task: Task
    files: tuple[Path, ...]
    digest: str
    """SHA-256 of all files, in the order of their names."""
    items: tuple[Item, ...]

    @property
    def by_id(self) -> dict[str, Item]:
        """Each item by its id."""
        return {item.id: item for item in self.items}

    @property
    def deviations(self) -> list[str]:
        """Where the files hold other numbers of items than the owner's: another revision, or a part. Empty: as they should be."""
        found = Counter("" for _ in self.items)
        for item in self.items:
            found.update(f"{name}={value}" for name, value in item.groups.items())
        known = {name for item in self.items for name in item.groups}
        return [
            f"{part or 'items'}: {found[part]:,} instead of {expected:,}"
            for part, expected in self.task.counts.items()
            if found[part] != expected and (not part or part.partition("=")[0] in known)
        ]


def open_items(task: Task, data: Path, *, images: bool = True) -> Items:
    """Reads a task's files.

    Args:
        task: Whose.
        data: A file, or the folder that the owner's files lie in.
        images: Whether the items are to have their images; scores need none, and parquet files are mostly these.

    Raises:
        UserError: No file is found, one is of another benchmark, a row is not as it should be, or an id is given twice.
    """
    files = task_files(task, data)
    if task.all_columns:
        check_columns(task, files, images=images)
    items = list(read_items(task, files, images=images))
    if not items:
        raise UserError(f"{data}: none of its items is one of {task.name}; {HOW_TO_GET}")
    check_unique(((item.id, "") for item in items), str(data))
    task.check_set(items, str(data))
    return Items(task, files, digest_of(files), tuple(items))


def read_items(task: Task, files: Iterable[Path], *, images: bool = True) -> Iterator[Item]:
    """The items of a task in its files, one after the other: with their images a table may be larger than the memory.

    Raises:
        UserError: As `open_items`.
    """
    yield from (item for item in _read(task, tuple(files), images) if task.holds(item))


def digest_of(files: Sequence[Path]) -> str:
    """Of what several files hold."""
    return f"sha256:{hashlib.sha256(' '.join(map(file_digest, files)).encode()).hexdigest()}"


def check_unique(pairs: Iterable[tuple[str, str]], where: str) -> None:
    """Refuses an id that is given twice; each comes with what else makes it one, as ` (sample 3)`.

    Raises:
        UserError: Names the first ones.
    """
    counts = Counter(pairs)
    if double := [shown(name) + more for (name, more), count in counts.items() if count > 1]:
        others = f" and {len(double) - MOST_FAULTS} more" if len(double) > MOST_FAULTS else ""
        raise UserError(f"{where}: ids given twice: {', '.join(double[:MOST_FAULTS])}{others}; each must be there once")


def check_columns(task: Task, files: Sequence[Path], *, images: bool) -> None:
    """Refuses files of which none has a column that the task cannot do without.

    Args:
        task: Of a YAML file: it needs each column that it names. Of others rows themselves say what is missing, but for images.
        files: Its files.
        images: Whether its images are wanted.

    Raises:
        UserError: Names the columns that are missing, and those that are there.
    """
    wanted = (*(task.columns if task.all_columns else ()), *(task.image_columns if images else ()))
    if not wanted:
        return
    there = list(dict.fromkeys(name for file in files for name in column_names(file)))
    missing = [name for name in wanted if name not in there]
    if not task.all_columns:
        missing = missing[:1] if missing == list(wanted) else []  # of several for images, the first alone may be there
    if there and missing:
        some = ", ".join(f"{shown(name)!r}{hint(nearest(name, there))}" for name in missing[:MOST_FAULTS])
        where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        raise UserError(f"{where}: no column {some}, which {task.name} names; the columns are {shown(', '.join(there), 200)}")


def task_files(task: Task, data: Path) -> tuple[Path, ...]:
    """The files of a task: one that the user names, or those of a folder that have the owner's names.

    Raises:
        UserError: There is none, or it is not clear which is meant.
    """
    if data.is_file():
        return (data,)
    if not data.is_dir():
        raise UserError(f"no data of {task.name} at {str(data)!r}: there is no such file or folder; {HOW_TO_GET}")
    for patterns in task.files:
        together = (patterns,) if isinstance(patterns, str) else patterns
        found = sorted({path for pattern in together for path in data.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file()})
        if len(found) > 1 and not task.all_files and not _are_parts(found):
            raise UserError(f"several files in {data} may be {task.name}: {', '.join(path.name for path in found)}; give --data=FILE")
        if found:
            return tuple(found)
    wanted = ", ".join(patterns if isinstance(patterns, str) else patterns[0] for patterns in task.files)
    raise UserError(f"no file of {task.name} in {str(data)!r} (looked for {wanted}); give --data=FILE, or fetch it: {HOW_TO_GET}")


def _are_parts(files: Sequence[Path]) -> bool:
    """Whether the files are the numbered parts of one table, or of several folders one each."""
    parts = [re.fullmatch(r".*-(\d{5})-of-(\d{5})", path.stem) for path in files]
    return all(parts) or len({path.parent for path in files}) == len(files)


def _read(task: Task, files: Sequence[Path], images: bool) -> Iterable[Item]:
    """The items of all files; rows without an id get their number, which goes on from file to file."""
    total, columns = 0, (*task.columns, *(task.image_columns if images else ()))
    unread = set() if images else set(task.image_columns) - set(task.columns)  # of JSON and CSV, whose rows have them all the same
    for file in files:
        number = 0
        for number, (where, row) in enumerate(rows(file, columns), start=1):
            if not task.wants(row):
                continue
            try:
                item = task.read({name: value for name, value in row.items() if name not in unread} if unread else row, where)
            except UserError as error:
                if number == 1:  # most likely all rows are like that
                    raise UserError(f"{error}; is {file.name} a file of {task.name}?") from None
                raise
            yield item if item.id else dataclasses.replace(item, id=f"{task.name}-{total + number - 1}")
        if not number:
            raise UserError(f"{file}: no rows in the file")
        total += number
