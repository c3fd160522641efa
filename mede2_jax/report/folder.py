"""The report's folder. A list in it says which of its files are a report's: these are replaced or removed, and nothing else is touched."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.foreign import shown

LIST, INDEX = "report-files.txt", "index.html"
_HEAD = "# Files of a report, by python -m mede2_jax.report; written anew, or removed, when it is made again.\n"


class Folder:
    """Where a report is written.

    Args:
        path: The folder.

    Raises:
        UserError: It is no folder, or has an index.html that no report wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise UserError(f"--out={path} is a file; give a folder")
        self._before = self._listed()
        self._now: dict[str, None] = {}
        if (path / INDEX).exists() and INDEX not in self._before:
            raise UserError(f"--out={path} holds an {INDEX} that is no report's; give another folder")
        path.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: str | bytes, *, again: bool = True) -> None:
        """Writes a file.

        Args:
            name: Its path in the folder.
            content: Text, or bytes.
            again: Whether one that a report wrote before is replaced; not where its name says what it holds.

        Raises:
            UserError: There is a file of that name which is no report's.
            OSError: The disk is full.
        """
        path = self.path / name
        if name in self._now and not again:
            return
        if path.exists() and name not in self._before and name not in self._now:
            raise UserError(f"{path} is there, and no report wrote it; give another --out")
        if name not in self._before and name not in self._now:
            self._note(name)  # before the file: what a killed report leaves is known to be its own
        self._now[name] = None
        if path.exists() and not again:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def finish(self) -> None:
        """Removes what a report before has left, and writes the list anew."""
        for name in self._before.keys() - self._now.keys():
            path = self.path / name
            with contextlib.suppress(OSError):
                path.unlink()
            for folder in path.relative_to(self.path).parents:
                with contextlib.suppress(OSError):  # not empty
                    if folder != Path("."):
                        (self.path / folder).rmdir()
        (self.path / LIST).write_text(_HEAD + "".join(f"{name}\n" for name in sorted(self._now)), encoding="utf-8")

    def _listed(self) -> dict[str, None]:
        """The files of the report before. The list may come from anywhere: it opens nothing outside the folder."""
        path = self.path / LIST
        if not path.exists():
            return {}
        text = path.read_text(encoding="utf-8", errors="replace")
        if not text.startswith("# Files of a report"):
            raise UserError(f"{path} is not the list of a report's files ({shown(text)}); give another --out")
        names = [line for line in text.splitlines() if line and not line.startswith("#")]
        for name in names:
            inside = (self.path / name).parent.resolve().is_relative_to(self.path.resolve())
            if Path(name).is_absolute() or ".." in Path(name).parts or not inside:
                raise UserError(f"{path} names {shown(name)!r}, which is outside {self.path}; give another --out")
        return dict.fromkeys(names)

    def _note(self, name: str) -> None:
        path = self.path / LIST
        is_new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.write((_HEAD if is_new else "") + f"{name}\n")
