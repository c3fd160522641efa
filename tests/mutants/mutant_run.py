"""Tries every mutant (tests/mutants/*.yaml) on a copy of the project: its test must pass without the change and fail with it.

    bash launch/mutants.sh                      # all rooms
    bash launch/mutants.sh train models         # two rooms
    bash launch/mutants.sh --only=beta --list   # what there is

Exit status 0: all were noticed. 1: one survived, or could not be tried. 2: the entries cannot be read.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mutant_form import Entry, read_entries
from rich.console import Console
from rich.table import Table

from mede2_jax.command import run_command
from mede2_jax.config import UserError

COPIED = (
    "mede2_jax",
    "tests",
    "data",
    "configs",
    "launch",
    "docs",
    "pyproject.toml",
    "README.md",
    "constraints.txt",
    "constraints-vllm.txt",
)
KILLED, SURVIVED, BROKEN = "killed", "SURVIVED", "BROKEN"
TESTS_FAILED = 1
"""pytest's exit status when tests ran and some failed; 2 to 5 are errors of collecting, using or of pytest itself."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How it went with one mutant."""

    entry: Entry
    status: str
    seconds: float
    why: str = ""


class Workshop:
    """A copy of the project, in which one mutant at a time is tried."""

    def __init__(self, root: Path, folder: Path, compiled: Path):
        self.tree, self._scratch = folder / "tree", folder / "scratch"
        self._scratch.mkdir(parents=True)
        self.tree.mkdir()
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / name).exists():
                shutil.copy2(root / name, self.tree / name)
        fixed = {
            "PYTHONPATH": str(self.tree),
            # A change of the same length in the same second would go unnoticed beside stored bytecode.
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self._scratch),
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        # What needs another environment is no test for a mutant: it would be skipped where that was not made.
        others = {f"MEDE2_TEST_{kind}": "" for kind in ("VLLM", "TRL", "PLAN_TPU", "PLAN_GPU")}
        self._environment = {**os.environ, "JAX_PLATFORMS": "cpu", **others, **fixed}
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Ends what runs here; later calls end at once."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def check_imports(self) -> None:
        """Raises UserError unless this copy is what a test imports."""
        status, output = self._run([sys.executable, "-c", "import mede2_jax; print(mede2_jax.__file__)"], 120)
        if status != 0 or not Path(output.strip()).is_relative_to(self.tree):
            raise UserError(f"the copy in {self.tree} is not what tests would import: {output.strip()!r}")

    def pytest(self, arguments: list[str], limit: float) -> tuple[int | None, str]:
        """(exit status, output); None when it did not end within `limit` seconds."""
        return self._run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=0", *arguments], limit)

    @contextlib.contextmanager
    def changed(self, entry: Entry) -> Iterator[None]:
        """The change is made meanwhile."""
        path = self.tree / entry.mutant.file
        before = path.read_text(encoding="utf-8")
        try:
            path.write_text(before.replace(entry.mutant.find, entry.mutant.replace), encoding="utf-8")
            yield
        finally:
            path.write_text(before, encoding="utf-8")

    def _run(self, command: list[str], limit: float) -> tuple[int | None, str]:
        if self._stopped:
            return None, ""
        with tempfile.TemporaryFile("w+", dir=self._scratch) as output:
            self._process = process = subprocess.Popen(
                command, cwd=self.tree, env=self._environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
            try:
                status: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it started
                process.wait()
                status = None
            output.seek(0)
            return status, output.read()


def tried(workshop: Workshop, entries: list[Entry], limit: float | None) -> Iterator[Result]:
    """All entries of one test, after that test without any change."""
    able = []
    for entry in entries:
        if (fault := entry.mutant.fault(workshop.tree)) is not None:
            yield Result(entry, BROKEN, 0.0, fault)
        else:
            able.append(entry)
    if not able:
        return
    begun = time.monotonic()
    status, output = workshop.pytest(able[0].mutant.pytest_arguments, limit or 1800)
    usual = time.monotonic() - begun
    if status != 0 or " passed" not in output:
        for entry in able:
            yield Result(entry, BROKEN, usual, f"its test does not pass without the change either ({_ended(status)}): {_last(output)}")
        return
    for entry in able:
        begun = time.monotonic()
        with workshop.changed(entry):
            status, output = workshop.pytest(entry.mutant.pytest_arguments, limit or 120 + 5 * usual)
        seconds = time.monotonic() - begun
        if status == TESTS_FAILED or (status is None and entry.mutant.hangs):
            yield Result(entry, KILLED, seconds)
        elif status == 0:
            yield Result(entry, SURVIVED, seconds)
        else:
            yield Result(entry, BROKEN, seconds, f"{_ended(status)}: {_last(output)}")


def _ended(status: int | None) -> str:
    return "no end within the time limit" if status is None else f"pytest ended with {status}"


def _last(output: str) -> str:
    """The line of pytest's output that says most: the first error, or the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("E  ")), lines[-1] if lines else "no output")[:200]


def run_all(root: Path, entries: list[Entry], workers: int, limit: float | None, console: Console) -> list[Result]:
    """Every entry's result, in the order in which they came."""
    groups: dict[str, list[Entry]] = collections.defaultdict(list)
    for entry in entries:
        groups[entry.mutant.test].append(entry)
    waiting: queue.SimpleQueue[list[Entry]] = queue.SimpleQueue()
    for group in sorted(groups.values(), key=len, reverse=True):  # the largest first, so that no worker begins it last
        waiting.put(group)
    results: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()

    def work(workshop: Workshop) -> None:
        try:
            while True:
                for result in tried(workshop, waiting.get_nowait(), limit):
                    results.put(result)
        except queue.Empty:
            results.put(None)
        except BaseException as error:
            results.put(error)

    workers = min(workers, len(groups))
    with tempfile.TemporaryDirectory(prefix="mede2-mutants-") as folder:
        workshops = [Workshop(root, Path(folder) / str(i), _compiled(Path(folder), i, workers)) for i in range(workers)]
        workshops[0].check_imports()
        threads = [threading.Thread(target=work, args=(workshop,)) for workshop in workshops]
        try:
            for thread in threads:
                thread.start()
            return list(_collected(results, workers, len(entries), console))
        finally:
            for workshop in workshops:
                workshop.stop()
            for thread in threads:
                thread.join()


def _compiled(folder: Path, worker: int, workers: int) -> Path:
    """Compiled programs: kept where the environment says; JAX writes there as if it were alone, so each worker has its own."""
    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    path = Path(shared or folder / "compiled")
    path = path / f"mutants{worker}" if workers > 1 or not shared else path
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def _collected(results: queue.SimpleQueue[Result | BaseException | None], workers: int, total: int, console: Console) -> Iterator[Result]:
    done = 0
    while workers:
        result = results.get()
        if isinstance(result, BaseException):
            raise result
        if result is None:
            workers -= 1
            continue
        done += 1
        color = {KILLED: "green", SURVIVED: "bold red", BROKEN: "bold yellow"}[result.status]
        head = f"[{done}/{total}] {result.entry.room}: {result.entry.mutant.name}"
        console.print(f"{head:100} ", markup=False, highlight=False, soft_wrap=True, end="")
        console.print(f"[{color}]{result.status}[/] {result.seconds:.1f} s", highlight=False)
        if result.why:
            console.print(f"    {result.why}", markup=False, highlight=False, soft_wrap=True)
        yield result


def closing_table(results: Iterable[Result]) -> Table:
    """By room: how many mutants, and what became of them."""
    table = Table(title="mutants")
    table.add_column("room")
    for column in ("mutants", "killed", "survived", "broken", "seconds"):
        table.add_column(column, justify="right")
    rooms: dict[str, list[Result]] = collections.defaultdict(list)
    for result in results:
        rooms[result.entry.room].append(result)
    rows = sorted(rooms.items())
    everything = [result for _, part in rows for result in part]
    for room, part in [*rows, ("all", everything)]:
        counts = [sum(result.status == status for result in part) for status in (KILLED, SURVIVED, BROKEN)]
        if room == "all":
            table.add_section()
        table.add_row(room, str(len(part)), *map(str, counts), f"{sum(result.seconds for result in part):.0f}")
    return table


def chosen(entries: list[Entry], rooms: list[str], only: str) -> list[Entry]:
    """Those of these rooms (all, when none is named) whose name has `only` in it."""
    known = sorted({entry.room for entry in entries})
    if unknown := sorted(set(rooms) - set(known)):
        raise UserError(f"no room {unknown[0]!r}; choose from {', '.join(known)}")
    found = [entry for entry in entries if (not rooms or entry.room in rooms) and only.lower() in entry.mutant.name.lower()]
    if not found:
        raise UserError(f"no mutant there has {only!r} in its name")
    return found


def main(argv: list[str]) -> None:
    """Reads the entries, tries those that were asked for, and shows what became of them."""
    parser = argparse.ArgumentParser(prog="bash launch/mutants.sh", description="Every small wrong change must make its test fail.")
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="files of tests/mutants/, without .yaml; none: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose name has this text in it")
    parser.add_argument("--list", action="store_true", help="show the mutants, try none")
    parser.add_argument("-n", type=int, default=max(1, (os.cpu_count() or 2) // 2), metavar="N", help="how many at a time")
    parser.add_argument(
        "--limit", type=float, metavar="SECONDS", help="for one test run; by default 120 s and five times what it takes unchanged"
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="the project")
    given = parser.parse_args(argv)
    if given.n < 1:
        raise UserError(f"-n={given.n}: at least one at a time")
    entries = chosen(read_entries(given.root), given.rooms, given.only)
    console = Console()
    if given.list:
        for entry in entries:
            console.print(f"{entry.room}: {entry.mutant.name}  ({entry.mutant.file}; {entry.mutant.test})", markup=False, soft_wrap=True)
        return
    results = run_all(given.root, entries, given.n, given.limit, console)
    console.print(closing_table(results))
    for result in results:
        if result.status != KILLED:
            mutant = result.entry.mutant
            console.print(
                f"{result.status}: {result.entry.room}: {mutant.name} ({mutant.file}; {mutant.test})", markup=False, soft_wrap=True
            )
    if any(result.status != KILLED for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
