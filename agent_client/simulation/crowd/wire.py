"""The wire of a crowd: HTTP/1.1 on a bounded pool of connections that are kept alive.

The client of an install opens a connection a push; ten thousand on one machine would spend its
ports on that. The pool stands for the reverse proxy that a fleet of that size has in front.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent_client.http import USER_AGENT, parse_console_url, retry_after_s

TIMEOUT_S: Final = 60.0
"""A whole answer, its wait in the console's queue included."""
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024


class Unreachable(Exception):
    """No whole answer came: whether the console acted is unknown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A console's answer; header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, object]:
        """The object of the body; {} when it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def code(self) -> str:
        """The problem's code, or http_<status>."""
        return str(self.json().get("code") or f"http_{self.status}")

    @property
    def retry_after_s(self) -> float | None:
        """What Retry-After asks for; None when it says nothing."""
        return retry_after_s(self.headers.get("retry-after", ""))


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_used: bool = False

    def abort(self) -> None:
        self.writer.transport.abort()


class Pool:
    """Requests of all installs to one console, at most ``size`` at a time.

    ``go_down`` cuts every connection, those that wait for an answer too, and refuses new ones
    until ``come_back``: the console did not fail, it cannot be reached.
    Errors: AddressError for an address that cannot be used.
    """

    def __init__(self, url: str, size: int, *, allow_plain_http: bool = False) -> None:
        base = parse_console_url(url, allow_plain_http=allow_plain_http)
        self._host = base.hostname or ""
        self._tls = ssl.create_default_context() if base.scheme == "https" else None
        self._port = base.port or (443 if self._tls else 80)
        self._prefix = base.path.rstrip("/")
        self._common = f"Host: {base.netloc}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\n"
        self._slots = asyncio.Semaphore(size)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._is_down = False

    def go_down(self) -> None:
        """Begin an outage."""
        self._is_down = True
        for connection in list(self._open):
            connection.abort()

    def come_back(self) -> None:
        """End it."""
        self._is_down = False

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    def slot(self) -> asyncio.Semaphore:
        """What a request waits for when every connection is busy."""
        return self._slots

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        """One request, on a connection that is there or a new one; the caller holds a slot.

        Every request of ours may be repeated: when a kept connection turns out to have been
        closed meanwhile, it is sent once more on a new one. Errors: Unreachable.
        """
        lines = [f"{method} {self._prefix}{path} HTTP/1.1\r\n", self._common]
        if token:
            lines.append(f"Authorization: Bearer {token}\r\n")
        lines.extend(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}\r\n")
        sent = "".join((*lines, "\r\n")).encode("latin-1") + body
        while True:
            connection = await self._connection()
            was_used = connection.is_used
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await self._exchange(connection, sent)
            except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
                self._drop(connection)
                is_stale = was_used and isinstance(error, ConnectionError | EOFError)
                if self._is_down:
                    raise Unreachable("outage") from error
                if not is_stale:
                    raise Unreachable(type(error).__name__) from error
            except asyncio.CancelledError:
                self._drop(connection)
                raise

    async def _connection(self) -> _Connection:
        if self._is_down:
            raise Unreachable("outage")
        while self._idle:
            connection = self._idle.pop()
            if not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            self._drop(connection)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls, limit=MAX_HEAD_BYTES
                )
        except OSError as error:  # TimeoutError is one
            raise Unreachable(type(error).__name__) from error
        connection = _Connection(reader, writer)
        self._open.add(connection)
        return connection

    def _drop(self, connection: _Connection) -> None:
        connection.abort()
        self._open.discard(connection)

    async def _exchange(self, connection: _Connection, sent: bytes) -> Reply:
        connection.writer.write(sent)
        await connection.writer.drain()
        head = await connection.reader.readuntil(b"\r\n\r\n")
        status, headers = _parsed(head)
        body = b""
        if status not in {204, 304} and status >= 200:
            body = await _body_of(connection.reader, headers)
        if headers.get("connection", "").lower() == "close":
            self._drop(connection)
        else:
            connection.is_used = True
            self._idle.append(connection)
        return Reply(status, headers, body)


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers. Errors: ValueError when it is no HTTP."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _space, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("not HTTP")
    pairs = (line.partition(":") for line in lines if line)
    return int(rest[:3]), {name.lower(): value.strip() for name, _colon, value in pairs}


async def _body_of(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _chunks_of(reader)
    size = int(headers.get("content-length", "0"))
    if size > MAX_ANSWER_BYTES:
        raise ValueError("too large")
    return await reader.readexactly(size)


async def _chunks_of(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total_bytes = 0
    while size := int((await reader.readline()).partition(b";")[0], 16):
        total_bytes += size
        if total_bytes > MAX_ANSWER_BYTES:
            raise ValueError("too large")
        parts.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return b"".join(parts)
