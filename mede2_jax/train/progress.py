"""Long work that says how far it is: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 30.0


def narrated(counts: Iterable[int], title: str, begin: int, total: int, console: Console) -> Iterator[int]:
    """Passes on `counts` (how many of `total` batches are done, from `begin` on), and shows them."""
    if begin == total:
        return
    started = said = time.monotonic()
    console.print(f"{title}: {total - begin} of {total} batches to compute (the first one compiles)")
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, completed=begin)
        for done in counts:
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - said > LINE_SECONDS:
                said = time.monotonic()
                console.print(f"{title}: {done}/{total}  eta {(said - started) / (done - begin) * (total - done):.0f}s")
            yield done
