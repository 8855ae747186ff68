"""A proxy between agent and console that spoils connections: cut, dropped, doubled, slow, refused.

One asyncio loop in a thread of its own. It knows just enough HTTP to find where a request ends; a
client that closes after each answer, as ours does, gets one fault a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024
HEAD_END = b"\r\n\r\n"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time left: close() sends a reset instead of an orderly end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What becomes of one connection; with nothing set it passes untouched.

    ``request_cut``, ``response_cut``: so many bytes pass, or all but so many when it is negative,
    then both sides are cut off.
    ``loses_answer``: the console does the work, the agent never hears of it. ``resets``: at once.
    ``status``: answered by the proxy, the console never sees the request. ``doubles``: the request
    arrives twice at the same time, the first answer counts.
    """

    request_cut: int | None = None
    response_cut: int | None = None
    loses_answer: bool = False
    resets: bool = False
    doubles: bool = False
    status: int = 0
    retry_after: str = ""
    body: bytes = b"<html>bad gateway</html>"
    latency_ms: int = 0
    bytes_per_write: int = CHUNK_BYTES
    """Smaller: the request dribbles in, this many bytes a write, a millisecond apart."""


PASS = Fault()


class FaultProxy:
    """The proxy; a context manager. ``faults`` are used up one a connection, then all pass."""

    def __init__(self, upstream_url: str) -> None:
        parts = urlsplit(upstream_url)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.faults: deque[Fault] = deque()
        self.seen: list[bytes] = []
        """The requests that reached the proxy, as far as they were read."""
        self.answers: list[bytes] = []
        """What the console answered, whether or not the agent got it."""
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        """Where the agent finds it."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def spoil(self, *faults: Fault) -> None:
        """Put faults in line for the next connections."""
        self.faults.extend(faults)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.faults.popleft() if self.faults else PASS
        try:
            await self._spoiled(fault, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            _reset(writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _spoiled(
        self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fault.resets:
            _reset(writer)
            return
        if fault.latency_ms:
            await asyncio.sleep(fault.latency_ms / 1000)
        request = await _read_request(reader, fault.request_cut)
        self.seen.append(request)
        if fault.status:
            writer.write(_answer_of(fault))
            await writer.drain()
            return
        if fault.doubles:
            answers = await asyncio.gather(*(self._ask(request, fault) for _ in range(2)))
            answer = answers[0]
        else:
            answer = await self._ask(request, fault)
        if fault.loses_answer or fault.request_cut is not None:
            _reset(writer)
            return
        writer.write(answer if fault.response_cut is None else answer[: fault.response_cut])
        await writer.drain()
        if fault.response_cut is not None:
            _reset(writer)

    async def _ask(self, request: bytes, fault: Fault) -> bytes:
        """Hand the request to the console; its whole answer, b"" when the request was cut."""
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            for start in range(0, len(request), fault.bytes_per_write):
                writer.write(request[start : start + fault.bytes_per_write])
                await writer.drain()
                if fault.bytes_per_write < CHUNK_BYTES:
                    await asyncio.sleep(0.001)
            if fault.request_cut is not None:
                _reset(writer)
                return b""
            answer = await reader.read(-1)
        finally:
            writer.close()
        self.answers.append(answer)
        return answer


def _reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection off, so that the other side sees a reset."""
    plain = writer.get_extra_info("socket")
    if plain is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader, cut: int | None) -> bytes:
    """One request with its body, or what is left of it by ``cut``."""
    if cut is not None and cut >= 0:
        return await _read_at_most(reader, cut)
    head = await reader.readuntil(HEAD_END)
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return (head + (await reader.readexactly(length) if length else b""))[:cut]


async def _read_at_most(reader: asyncio.StreamReader, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := await reader.read(count - len(data))):
        data += piece
    return data


def _answer_of(fault: Fault) -> bytes:
    head = [f"HTTP/1.1 {fault.status} Spoiled", "Content-Type: text/html", "Connection: close"]
    if fault.retry_after:
        head.append(f"Retry-After: {fault.retry_after}")
    head.append(f"Content-Length: {len(fault.body)}")
    return "\r\n".join(head).encode() + HEAD_END + fault.body
