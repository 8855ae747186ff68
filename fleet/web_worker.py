"""gunicorn's threaded worker, but a client that sends slowly holds none of the console's threads.

As it comes, a thread belongs to a connection from its first byte on: a dozen clients that send a
byte and fall silent keep everybody else out. Here a silent connection has no thread; many light
reader threads take the request in, its body on disk beyond a MiB; and only a whole
request gets one of the few threads that have a database connection. A reader is cut off when the
head takes longer than ``head_s``, the body longer than ``body_s``, or nothing comes for ``idle_s``.
An unchanged poll that came whole needs neither: the thread that waits for all connections answers.
"""

from __future__ import annotations

import selectors
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import IO, Any, Final, Protocol

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from agent_client.contract.wire import MAX_BODY_BYTES
from fleet import web_polls

READERS: Final = 64
"""Threads that wait for slow clients; each costs a stack and no database connection."""
IN_MEMORY_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024


class Readable(Protocol):
    """A body as gunicorn reads it from its socket."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; b"" at the end."""


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn carries no types
    """The worker class that ``up`` gives to gunicorn."""

    head_s = 10.0
    idle_s = 20
    """What the agent itself allows one operation of its socket."""
    body_s = 180.0
    """8 MiB at 50 KB a second."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- gunicorn's own
        super().__init__(*args, **options)
        self._read_by_s: dict[TConn, float] = {}
        self._workers: ThreadPoolExecutor | None = None
        self._stop_by_s = 0.0
        self._drained_at_s: float | None = None
        self._headers_of_304: Callable[[Mapping[str, object]], list[tuple[str, str]] | None]

    def run(self) -> None:
        """Serve until told to stop; the poll memory lives as long."""
        from fleet.api.polled import LOOKER, headers_of_304  # Django is set up by now, not before
        from fleet.watch import tracing
        from fleet.watch.life import Life

        self._headers_of_304 = headers_of_304
        LOOKER.start()
        life = Life("web")
        life.start()
        try:
            super().run()
        finally:
            life.stop()
            LOOKER.stop()
            tracing.stop()

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ANN401 -- gunicorn's own
        """Told to stop: not ready from now on, and after FLEET_DRAIN_S nothing more is accepted.

        Load balancers look every few seconds; until they have seen it, new requests are answered.
        """
        from django.conf import settings

        from fleet.watch import ready

        ready.note_stopping()
        if self._drained_at_s is None and settings.FLEET_DRAIN_S:
            self._drained_at_s = time.monotonic() + settings.FLEET_DRAIN_S
        elif self._drained_at_s is None or time.monotonic() >= self._drained_at_s:
            super().handle_exit(sig, frame)

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """The readers; the threads that gunicorn was told to have do the work."""
        self._workers = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="console")
        return ThreadPoolExecutor(READERS, thread_name_prefix="reader")

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection a reader, once it has said something."""
        if conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
            return
        conn.sock.settimeout(0)
        conn.set_timeout()
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """A kept connection says something."""
        is_kept = self._answer_poll(conn, may_stay=True)
        if is_kept:
            conn.set_timeout()
            conn.is_renewed = True
        elif is_kept is None:
            super().on_client_socket_readable(conn, client)
        else:
            self.keepalived_conns.remove(conn)
            self._end(conn)

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """A new connection says its first word."""
        has_room = len(self.keepalived_conns) < self.max_keepalived
        is_kept = self._answer_poll(conn, may_stay=has_room)
        if is_kept is None:
            super().on_pending_socket_readable(conn, client)
            return
        self.pending_conns.remove(conn)
        if is_kept:
            conn.data_ready = True  # whoever reads it next need not wait
            conn.set_timeout()
            self.keepalived_conns.append(conn)
            on_readable = partial(self.on_client_socket_readable, conn)
            self.poller.modify(client, selectors.EVENT_READ, on_readable)
        else:
            self._end(conn)

    def _end(self, conn: TConn) -> None:
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _answer_poll(self, conn: TConn, *, may_stay: bool) -> bool | None:
        """Answer an unchanged poll that lies whole in the socket; whether the connection is kept.

        None: it is not one, and nothing was read.
        """
        plain = conn.sock
        if not self._reads_polls or conn.is_http2:
            return None
        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            return None
        try:
            data = plain.recv(web_polls.MAX_BYTES, socket.MSG_PEEK)
            address = conn.client[0] if isinstance(conn.client, tuple) else ""
            environ = web_polls.poll_in(data, address)
            headers = self._looked_up(environ) if environ else None
            if environ is None or headers is None:
                return None
            keeps = may_stay and self.alive and bool(self.cfg.keepalive)
            is_kept = keeps and web_polls.stays(environ)
            answer = web_polls.answer_of(headers, time.time(), is_kept=is_kept)
            plain.recv(len(data))
            # Its buffer takes 300 bytes at once, or the other side has not read for long.
            return plain.send(answer) == len(answer) and is_kept
        except OSError:  # gone: the full way finds that out again, and closes it
            return None

    @cached_property
    def _reads_polls(self) -> bool:
        """Whether gunicorn was told nothing that needs every request to go its own way."""
        cfg = self.cfg
        needs_all = cfg.is_ssl or cfg.accesslog or cfg.max_requests
        return not needs_all and cfg.proxy_protocol == "off"

    def _looked_up(self, environ: Mapping[str, object]) -> list[tuple[str, str]] | None:
        """The 304 of a poll, if memory has it. The thread of all connections outlives a fault."""
        try:
            return self._headers_of_304(environ)
        except Exception:  # the full way meets the same in a thread of its own, and says it there
            self.log.exception("Error looking up a poll")
            return None

    def murder_keepalived(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 -- gunicorn's own
        """Close who has been silent; who was answered in place goes to the end of the row first."""
        kept = self.keepalived_conns
        for _ in range(len(kept)):
            if not getattr(kept[0], "is_renewed", False):
                break
            kept[0].is_renewed = False
            kept.rotate(-1)
        super().murder_keepalived(force)

    def handle(self, conn: TConn) -> Any:  # noqa: ANN401 -- gunicorn's own
        """Read and answer one request; in a reader."""
        self._read_by_s[conn] = time.monotonic() + self.head_s
        try:
            return super().handle(conn)
        finally:
            self._read_by_s.pop(conn, None)

    def handle_request(self, req: Any, conn: TConn) -> Any:  # noqa: ANN401 -- gunicorn's own
        """Take in the body, then have the request answered by one of the few."""
        assert self._workers is not None  # noqa: S101 -- made before the first connection
        self._read_by_s[conn] = time.monotonic() + self.body_s
        _limit_idleness(conn.sock, self.idle_s)
        body = req.body
        try:
            with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
                if body is not None:
                    _consent(req, conn.sock)
                    req.body = _taken_in(body, file)
                return self._workers.submit(super().handle_request, req, conn).result()
        finally:
            req.body = body  # gunicorn looks at it before it keeps the connection
            _limit_idleness(conn.sock, 0)

    def murder_pending(self) -> None:
        """Cut off who sends too slowly; gunicorn comes by once a second."""
        now_s = time.monotonic()
        if self._drained_at_s is not None and now_s >= self._drained_at_s:
            self.alive = False
        if not self.alive:  # what says nothing must not hold up the end
            self._stop_by_s = self._stop_by_s or now_s + STOP_KEEPALIVE_LINGER
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, self._stop_by_s)
        super().murder_pending()
        for conn, until_s in list(self._read_by_s.items()):
            if until_s < now_s:
                self._read_by_s.pop(conn, None)
                _end_reading(conn.sock)


def _limit_idleness(plain: socket.socket, limit_s: int) -> None:
    limit = struct.pack("ll", limit_s, 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        plain.setsockopt(socket.SOL_SOCKET, option, limit)


def _end_reading(plain: socket.socket) -> None:
    """Whoever reads from it finds the end; what is being answered is still sent."""
    try:
        plain.shutdown(socket.SHUT_RD)
    except OSError:  # gone already
        return


def _consent(req: Any, plain: socket.socket) -> None:  # noqa: ANN401 -- gunicorn's own
    """Tell who waits for it to go on.

    Here and not where the work is done: whoever asked and then sent nothing would hold a thread.
    """
    if req._expected_100_continue:  # noqa: SLF001 -- gunicorn has no other word for it
        req._expected_100_continue = False  # noqa: SLF001 -- as above: it is told once
        plain.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


class _TakenIn:
    """A body in a file; what went wrong while it was read comes at the place where it did."""

    def __init__(self, file: IO[bytes], rest: Readable, error: Exception | None) -> None:
        self._file, self._rest, self._error = file, rest, error

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes. Errors: what the reader met."""
        data = self._file.read(-1 if size is None else size)
        if data or size == 0:
            return data
        if self._error is not None:
            raise self._error
        return self._rest.read(-1 if size is None else size)

    def readline(self, size: int | None = -1) -> bytes:
        """The next line of what was taken in."""
        return self._file.readline(-1 if size is None else size)


def _taken_in(body: Readable, file: IO[bytes]) -> _TakenIn:
    """The body, read as far as any request's may go; what is beyond stays in its socket."""
    error: Exception | None = None
    try:
        while file.tell() <= MAX_BODY_BYTES and (piece := body.read(_CHUNK_BYTES)):
            file.write(piece)
    except Exception as found:  # noqa: BLE001 -- handed on to whoever reads the body
        error = found
    file.seek(0)
    return _TakenIn(file, body, error)
