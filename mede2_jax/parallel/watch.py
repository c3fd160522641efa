"""Processes that watch one another: when one fails or is killed, all end, each with one line that says which and why.

Collectives wait for ever for a process that is gone. Every process therefore holds a connection to the first one, which a
killed process's system closes at once. A line of JSON on it says that a process failed, and why.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self

from mede2_jax.config import UserError
from mede2_jax.foreign import parse_json, shown

LOST_STATUS = 1
FAREWELL_SECONDS = 5.0
"""How long the first process stays for the others to hear why all end."""
CONNECT_SECONDS = 60.0
HELLO_SECONDS = 10.0
_LONGEST_LINE = 1 << 16
_LONGEST_REASON = 4000
"""In characters: escaped, each takes up to 12 bytes of a line."""
_KEY = "mede2 watch"


class Watch:
    """Watches while it is entered, until `close`, which all processes must have reached before one goes on to exit.

    Args:
        process: This process.
        count: All of them.
        host: Where the first one runs.
        publish: Makes a text known to the others by a name.
        look_up: Waits for it.
    """

    def __init__(self, process: int, count: int, host: str, *, publish: Callable[[str, str], None], look_up: Callable[[str], str]) -> None:
        self._process, self._count, self._host = process, count, host
        self._publish, self._look_up = publish, look_up
        self._sockets: dict[int, socket.socket] = {}
        self._listeners: list[threading.Thread] = []
        self._closing = False
        self._ending = threading.Lock()
        self._joining = threading.Lock()
        self._failure: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        if self._process == 0:
            token = secrets.token_hex(16)  # of this job alone: others may reach the port
            server = _server(self._count)
            threading.Thread(target=self._accept, args=(server, token), daemon=True).start()
            self._publish(_KEY, f"{server.getsockname()[1]} {token}")
        else:
            port, token = self._look_up(_KEY).split()
            try:
                connection = socket.create_connection((self._host, int(port)), timeout=CONNECT_SECONDS)
            except OSError as error:
                raise UserError(f"cannot reach process 0 at {self._host}:{port}: {error}; let the machines reach one another") from None
            lines = connection.makefile("rb")
            _send(connection, {"token": token, "process": self._process})
            # Not before it is known there: a process that ends tells those alone whom it knows.
            welcome = _receive(lines)
            if welcome is None:
                raise UserError(f"process 0 at {self._host}:{port} ended, or did not answer in {CONNECT_SECONDS:.0f} s")
            if "failed" in welcome:
                self._end(str(welcome["failed"]), int(welcome["status"]))
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._start_listening(0, connection, lines)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        for connection in self._sockets.values():
            connection.close()

    def close(self) -> None:
        """Tells the others that this end is a good one."""
        for connection in self._sockets.values():
            _send(connection, {"done": True})

    def end_all(self, reason: str, status: int) -> NoReturn:
        """Ends this process and, with the same status, all others; every one says why."""
        self._end(f"process {self._process} of {self._count}: {shown(reason, _LONGEST_REASON)}", status)

    def _end(self, line: str, status: int) -> NoReturn:
        self._ending.acquire()  # never released: one thread says one line
        with self._joining:
            self._failure = {"failed": line, "status": status}
            for connection in self._sockets.values():
                _send(connection, self._failure)
        print(f"error: {line}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if self._process == 0:
            # The service through which JAX's processes hear of one another ends with this one.
            deadline = time.monotonic() + FAREWELL_SECONDS
            for thread in self._listeners:
                if thread is not threading.current_thread():
                    thread.join(max(0.0, deadline - time.monotonic()))
        os._exit(status)

    def _accept(self, server: socket.socket, token: str) -> None:
        while len(self._sockets) < self._count - 1:
            connection, _ = server.accept()
            connection.settimeout(HELLO_SECONDS)
            lines = connection.makefile("rb")
            hello = _receive(lines)
            if hello is None or not secrets.compare_digest(str(hello.get("token")), token):
                connection.close()
                continue
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that lost its power says nothing
            with self._joining:
                if self._failure is None:
                    self._start_listening(int(hello["process"]), connection, lines)
                _send(connection, self._failure or {"welcome": True})
        server.close()

    def _start_listening(self, process: int, connection: socket.socket, lines: Any) -> None:
        self._sockets[process] = connection
        self._listeners.append(threading.Thread(target=self._listen, args=(process, lines), daemon=True))
        self._listeners[-1].start()

    def _listen(self, process: int, lines: Any) -> None:
        """Waits for what the other end has to say; its end without a word is a word too."""
        said = _receive(lines)
        if self._closing or self._ending.locked() or (said is not None and said.get("done")):
            return
        if said is not None:
            self._end(str(said["failed"]), int(said["status"]))
        self._end(f"process {process} of {self._count} was killed or lost; start the job again with --resume", LOST_STATUS)


def _server(count: int) -> socket.socket:
    try:
        return socket.create_server(("::", 0), family=socket.AF_INET6, backlog=count, dualstack_ipv6=True)
    except (OSError, ValueError):  # a machine without IPv6
        return socket.create_server(("", 0), backlog=count)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it is gone
        connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(lines: Any) -> dict[str, Any] | None:
    try:
        said = parse_json(lines.readline(_LONGEST_LINE))
        return said if isinstance(said, dict) else None
    except (OSError, ValueError):
        return None
