"""What every pass over a file of records needs: the place before a fault, and a bar."""

from __future__ import annotations

from types import TracebackType

import rich.console
import rich.progress

from mede2_jax.config import UserError


class located:
    """Puts the place of a record before a user error raised inside."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{self.where}: {error}") from None


def reading_progress(shown: bool) -> rich.progress.Progress:
    """A bar on a terminal, for the pass over a data file."""
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    console = rich.console.Console(stderr=True)
    return rich.progress.Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
