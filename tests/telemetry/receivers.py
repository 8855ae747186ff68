"""Receivers of streams in the test's own process: HTTP and syslog, real sockets, strict parsers."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ipaddress
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Post:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    def logs(self) -> service.ExportLogsServiceRequest:
        """Its body as OTLP."""
        return service.ExportLogsServiceRequest.FromString(gzip.decompress(self.body))


@dataclass(frozen=True, slots=True)
class Say:
    """What to answer; ``cut``: nothing at all, after the request was read."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False


@dataclass
class Http:
    """An HTTP receiver; ``answer`` decides by the request, ``posts`` are all that came."""

    port: int = 0
    posts: list[Post] = field(default_factory=list)
    answer: Callable[[Post], Say] = lambda _post: Say()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                path = line.split()[1].decode()
                headers: dict[str, str] = {}
                while (line := await reader.readline()).strip():
                    name, _colon, value = line.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                if "chunked" in headers.get("transfer-encoding", ""):
                    raise AssertionError("chunked")
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                post = Post(path, headers, body)
                said = self.answer(post)
                self.posts.append(post)
                if said.cut:
                    return
                more = "".join(f"{name}: {value}\r\n" for name, value in said.headers)
                head = f"HTTP/1.1 {said.status} X\r\nContent-Length: {len(said.body)}\r\n{more}\r\n"
                writer.write(head.encode() + said.body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class Syslog:
    """A SYSLOG-MSG taken apart as RFC 5424 writes it."""

    facility: int
    severity: int
    timestamp: str
    host: str
    app: str
    msgid: str
    params: dict[str, str]
    text: str


_HEAD = re.compile(
    rb"<(0|[1-9]\d{0,2})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) "
    rb"([\x21-\x7e]{1,255}) ([\x21-\x7e]{1,48}) ([\x21-\x7e]{1,128}) ([\x21-\x7e]{1,32}) "
)
_PARAM = re.compile(rb' ([\x21\x23-\x3c\x3e-\x5c\x5e-\x7e]{1,32})="((?:[^"\\\]]|\\.)*)"', re.DOTALL)


def parse_syslog(data: bytes) -> Syslog:
    """The message. Errors: AssertionError for whatever the grammar has no place for."""
    assert not re.search(rb"[\x00-\x1f\x7f]", data), data
    head = _HEAD.match(data)
    assert head, data
    assert int(head[1]) <= 191
    rest = data[head.end() :]
    assert rest.startswith(b"[hermes@32473"), rest
    rest, params = rest[len(b"[hermes@32473") :], {}
    while found := _PARAM.match(rest):
        value = re.sub(rb"\\(.)", rb"\1", found[2])
        params[found[1].decode("ascii")] = value.decode("utf-8")
        rest = rest[found.end() :]
    assert rest.startswith(b"]"), rest
    rest = rest[1:]
    assert not rest or rest.startswith(b" "), rest
    text = rest[1:]
    if not text.isascii():
        assert text.startswith(b"\xef\xbb\xbf"), text
        text = text[3:]
    return Syslog(
        facility=int(head[1]) // 8,
        severity=int(head[1]) % 8,
        timestamp=head[2].decode(),
        host=head[3].decode(),
        app=head[4].decode(),
        msgid=head[6].decode(),
        params=params,
        text=text.decode("utf-8"),
    )


@dataclass
class SyslogServer:
    """Reads counted octets (or datagrams); ``dies_after`` messages it resets the connection."""

    port: int = 0
    messages: list[Syslog] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    dies_after: int = 0
    stays_open: bool = False
    talks_on: bool = False

    def take(self, data: bytes) -> None:
        self.messages.append(parse_syslog(data))
        self.sizes.append(len(data))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                count = b""
                while (byte := await reader.read(1)).isdigit():
                    count += byte
                if not byte:
                    assert not count
                    break
                assert byte == b" "
                assert re.fullmatch(rb"[1-9]\d*", count)
                self.take(await reader.readexactly(int(count)))
                if self.dies_after and len(self.messages) >= self.dies_after:
                    self.dies_after = 0
                    linger = struct.pack("ii", 1, 0)  # a reset, as a process that died sends it
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return
            while self.talks_on:
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.02)
            if self.stays_open:
                await asyncio.sleep(PATIENCE_S)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: SyslogServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._server.take(data)


async def _close(server: asyncio.Server) -> None:
    server.close()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:

        async def stop() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


@contextmanager
def http(port: int = 0) -> Iterator[Http]:
    """An HTTP receiver on a free port, or on the one that is named."""
    made = Http()
    with _loop() as loop:
        begin = asyncio.start_server(made.serve, "127.0.0.1", port)
        server = asyncio.run_coroutine_threadsafe(begin, loop).result(PATIENCE_S)
        made.port = server.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            asyncio.run_coroutine_threadsafe(_close(server), loop).result(PATIENCE_S)


@contextmanager
def syslog(context: ssl.SSLContext | None = None) -> Iterator[SyslogServer]:
    """A syslog server over TCP, or over TLS with a context."""
    made = SyslogServer()
    with _loop() as loop:
        begin = asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
        server = asyncio.run_coroutine_threadsafe(begin, loop).result(PATIENCE_S)
        made.port = server.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            asyncio.run_coroutine_threadsafe(_close(server), loop).result(PATIENCE_S)


@contextmanager
def syslog_udp() -> Iterator[SyslogServer]:
    """A syslog server for datagrams."""
    made = SyslogServer()
    with _loop() as loop:
        begin = loop.create_datagram_endpoint(lambda: _Datagrams(made), local_addr=("127.0.0.1", 0))
        transport, _protocol = asyncio.run_coroutine_threadsafe(begin, loop).result(PATIENCE_S)
        made.port = transport.get_extra_info("sockname")[1]
        try:
            yield made
        finally:
            loop.call_soon_threadsafe(transport.close)


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 in a file, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    at = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - dt.timedelta(days=1))
        .not_valid_after(at + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    authority = folder / "ca.pem"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return authority, context
