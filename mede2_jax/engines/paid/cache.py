"""What APIs have answered, in one SQLite file: no answer is paid for twice.

A row is a request's digest and its outcome; nothing of the request itself is kept, and no key. Several processes may use one file: each
claims what it asks for (`claims`), so that the others wait for its answer.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message
from mede2_jax.engines.chat import ChatRequest
from mede2_jax.engines.paid.claims import CLAIMS_TABLE, Claims
from mede2_jax.engines.paid.outcome import Outcome
from mede2_jax.foreign import JSONFault, one_line, parse_json
from mede2_jax.json_file import check

APPLICATION = 0x4D656445
"""SQLite's application_id of such a file (`MedE`)."""
VERSION = 1
"""Of the table, and of what a digest is made from."""
BUSY_SECONDS = 60.0
"""How long another process may hold the file."""

_TABLE = """
CREATE TABLE IF NOT EXISTS outcomes (
    digest TEXT PRIMARY KEY, made TEXT NOT NULL, api TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL, cost REAL
)"""


class Cache:
    """The file, open while inside `with`; its methods may be called from any thread.

    Args:
        path: It is made if it is not there; None: in memory, for this run.

    Raises:
        UserError: On entering and from every method: it is no such file, or damaged, or the disk is full.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._claims: Claims | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            # Autocommit: each statement is a transaction.
            self._file = sqlite3.connect(self.path or ":memory:", BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            with self._errors():
                self._prepare_in_turn()
            if self.path is not None:
                self._claims = Claims(self.path, BUSY_SECONDS, self._errors)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._claims is not None:
            self._claims.close()
        with self._lock, contextlib.suppress(sqlite3.Error):  # what was stored is on the disk
            self._file.close()

    def get(self, digest: str) -> Outcome | None:
        """What was stored for a request; None: nothing."""
        with self._lock, self._errors():
            row = self._file.execute("SELECT outcome FROM outcomes WHERE digest = ?", (digest,)).fetchone()
        try:
            return None if row is None else check(parse_json(row[0]), Outcome, "")
        except (JSONFault, UserError, TypeError):  # of a damaged file, SQLite gives bytes or a number as well
            raise UserError(f"{self._name} is damaged: the row {digest[:16]}… is unreadable; move it away") from None

    def put(self, digest: str, outcome: Outcome, *, api: str, model: str, cost: float | None) -> Outcome:
        """Stores an outcome, and returns what is stored: another process may have been faster."""
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._lock, self._errors():
            row = (digest, made, api, model, outcome.model_dump_json(exclude_defaults=True), cost)
            self._file.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
        return self.get(digest) or outcome

    def claim(self, digest: str) -> bool:
        """Whether this process may ask for an answer that is not stored; False: another is at it. See then again what is stored."""
        return self._claims is None or self._claims.take(digest)

    def give_back(self, digest: str) -> None:
        """What was claimed is stored, or given up."""
        if self._claims is not None:
            self._claims.give_back(digest)

    def renew_claims(self) -> None:
        """To be called every `RENEW_SECONDS` while something is claimed."""
        if self._claims is not None:
            self._claims.renew()

    @property
    def _name(self) -> str:
        return f"the cache {str(self.path)!r}"

    def _prepare_in_turn(self) -> None:
        """SQLite does not wait, but fails at once, where two processes turn a new file's journal at a time."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._prepare()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                time.sleep(0.02)

    def _prepare(self) -> None:
        self._file.execute("BEGIN")  # one look at all three: another process may be making the file
        application, version = (self._file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        tables = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        self._file.execute("COMMIT")
        if (application, version) != (APPLICATION, VERSION) and (application, version, tables) != (0, 0, 0):
            known = f"of version {version}, not {VERSION}" if application == APPLICATION else "another program's"
            raise UserError(f"{self._name} is {known}; give another file with --cache=FILE.sqlite")
        # A reply costs money and seconds; to wait for the disk costs milliseconds.
        self._file.execute("PRAGMA synchronous = FULL")
        if application == APPLICATION:
            return
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("BEGIN IMMEDIATE")
        self._file.execute(_TABLE)
        self._file.execute(CLAIMS_TABLE)
        self._file.execute(f"PRAGMA application_id = {APPLICATION}")
        self._file.execute(f"PRAGMA user_version = {VERSION}")
        self._file.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError:  # of the schema's text, or of an error's
            raise UserError(f"{self._name} is damaged; move it away, or give another one with --cache=FILE.sqlite") from None
        except (sqlite3.Error, OverflowError) as error:
            raise UserError(f"{self._name} cannot be used: {one_line(str(error))}; {_advice(error)}") from None


def request_digest(request: ChatRequest, options: Mapping[str, Any]) -> str:
    """The sha256 of all that an answer depends on: conversation, pixels, schema, seed, and `options` (API, model, sampling, …).

    The request's id and its n do not count: it is asked for one sample, that of its seed.
    """
    images = iter(request.images)
    content = {
        "version": VERSION,
        "messages": [{"role": message.role, "content": _parts(message, images)} for message in request.messages],
        "schema": request.schema,
        "seed": request.seed,
        "options": dict(options),
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _parts(message: Message, images: Iterator[Image.Image]) -> list[dict[str, str]]:
    if isinstance(message.content, str):
        return [{"text": message.content}]
    return [{"image": _pixels(next(images))} if isinstance(part, ImagePart) else {"text": part.text} for part in message.content]


def _pixels(image: Image.Image) -> str:
    """Digest of an image as it is sent, whatever file it came from."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()


def _advice(error: Exception) -> str:
    text = str(error)
    if "full" in text:
        return "make room on its disk, and start the same command again"
    if "not a database" in text or "malformed" in text:
        return "it is damaged or no such file: move it away, or give another one with --cache=FILE.sqlite"
    if "locked" in text or "locking" in text:
        return "another process holds it, or its file system knows no locks: use a local disk"
    return "give another place with --cache=FILE.sqlite"
