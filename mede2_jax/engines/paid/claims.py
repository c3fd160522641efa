"""Who is asking for what, in the cache's file: of several processes with one file, one asks and the others wait for its answer.

A claim is good until its owner gives it back, is dead, or has not renewed it for `LEASE_SECONDS`; then another may take it.
"""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

LEASE_SECONDS = 60.0
"""A claim that was not renewed for so long is nobody's: its owner hangs, or is on another machine and may be gone."""
RENEW_SECONDS = 15.0

CLAIMS_TABLE = "CREATE TABLE IF NOT EXISTS claims (digest TEXT PRIMARY KEY, who TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID"
_TAKE = """
INSERT INTO claims VALUES (:digest, :who, :until)
ON CONFLICT (digest) DO UPDATE SET who = excluded.who, until = excluded.until
WHERE claims.who IN (excluded.who, :gone) OR claims.until < :now
"""


class Claims:
    """The claims of one opened cache. Its methods may be called from any thread.

    Args:
        path: The cache's file, which is there.
        busy: Seconds that another process may hold the file.
        errors: Turns SQLite's errors into the cache's.
    """

    def __init__(self, path: Path, busy: float, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self.who = owner()
        self._errors, self._lock = errors, threading.Lock()
        with errors():
            self._file = sqlite3.connect(path, busy, isolation_level=None, check_same_thread=False)
            # A claim need not outlive a power cut, unlike an answer, so this connection does not wait for the disk each time.
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(CLAIMS_TABLE)  # of a file that was made before there were claims

    def take(self, digest: str) -> bool:
        """Whether a request is now this owner's to ask; False: another is at it."""
        with self._lock, self._errors():
            row = self._file.execute("SELECT who, until FROM claims WHERE digest = ?", (digest,)).fetchone()
            now, gone = time.time(), ""
            if row is not None and row[0] != self.who and row[1] >= now:
                if is_alive(row[0]):
                    return False
                gone = row[0]
            values = {"digest": digest, "who": self.who, "until": now + LEASE_SECONDS, "now": now, "gone": gone}
            return self._file.execute(_TAKE, values).rowcount > 0

    def give_back(self, digest: str) -> None:
        """The request is answered, or given up."""
        with self._lock, self._errors():
            self._file.execute("DELETE FROM claims WHERE digest = ? AND who = ?", (digest, self.who))

    def renew(self) -> None:
        """All claims of this owner are good for another `LEASE_SECONDS`."""
        with self._lock, self._errors():
            self._file.execute("UPDATE claims SET until = ? WHERE who = ?", (time.time() + LEASE_SECONDS, self.who))

    def close(self) -> None:
        """Gives all back."""
        with self._lock:
            try:
                self._file.execute("DELETE FROM claims WHERE who = ?", (self.who,))
            except sqlite3.Error:
                pass  # whoever comes next sees that this process is gone
            finally:
                self._file.close()


def owner() -> str:
    """A name for an owner in this process, by which others can tell whether it lives."""
    return f"{_place()} {os.getpid()} {_started(os.getpid())} {secrets.token_hex(8)}"


def is_alive(who: str) -> bool:
    """Whether an owner's process lives, as far as this one can tell: of another machine or container it cannot, and says yes."""
    place, _, process = who.partition(" ")
    number, _, rest = process.partition(" ")
    return place != _place() or not number.isdecimal() or _started(int(number)) == rest.partition(" ")[0]


def _place() -> str:
    """Where a process's number means something: this machine, and in it this container."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return "".join(f"{socket.gethostname()}/{namespace}".split())


def _started(process: int) -> str:
    """When a process began, since numbers are used again; `-`: it is gone, `+`: it is there (a system that does not tell)."""
    try:
        # After the name in brackets, which may hold anything: the state, and as the 20th field the start.
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return "-" if fields[0] in (b"Z", b"X") else fields[19].decode()
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return "-"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "-"
    except OSError:
        pass  # another user's
    return "+"
