"""A rank's lines on the driver's terminal. Horovod forwards a rank's output in blocks of 64 KiB, which is too late."""

from __future__ import annotations

import io
import secrets
import socket
import threading
from types import TracebackType
from typing import NamedTuple, TextIO

CONNECT_SECONDS = 5.0
LONGEST_LINE = 4_000  # characters


class Address(NamedTuple):
    """Where a rank finds the driver's terminal, and the word that lets it in."""

    host: str
    port: int
    token: str


class Terminal:
    """Prints, while its `with` block runs, the lines that a rank sends to `address`. One rank at a time."""

    def __init__(self, host: str) -> None:
        """`host` is the driver as the executors know it (`spark.driver.host`)."""
        self._server = socket.create_server(("", 0))
        self._done = threading.Event()
        self._server.settimeout(0.2)  # so that the thread sees the end of the block
        self._thread = threading.Thread(target=self._serve, name="terminal", daemon=True)
        self.address = Address(host, self._server.getsockname()[1], secrets.token_hex(16))

    def __enter__(self) -> Terminal:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join(timeout=CONNECT_SECONDS)
        self._server.close()

    def _serve(self) -> None:
        while not self._done.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            with connection, connection.makefile("r", encoding="utf-8", errors="replace") as lines:
                self._print(lines)

    def _print(self, lines: TextIO) -> None:
        if not secrets.compare_digest(lines.readline(100).strip().encode(), self.address.token.encode()):
            return
        while line := lines.readline(LONGEST_LINE):
            text = "".join(character for character in line if character.isprintable())
            print(text, flush=True)  # noqa: T201  this is the terminal


def connect(address: Address) -> TextIO | None:
    """A line-buffered stream to the driver's terminal, or None where a firewall stands between."""
    try:
        connection = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    except OSError:
        return None  # the caller falls back to the executor's own log
    connection.settimeout(CONNECT_SECONDS)
    stream = io.TextIOWrapper(connection.makefile("wb", buffering=0), encoding="utf-8", write_through=True)  # line by line
    stream.write(address.token + "\n")
    return stream
