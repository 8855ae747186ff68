"""One kept connection to an endpoint that was checked; every wait and every answer bounded.

The connection goes to an address that ``guard`` has judged, with the endpoint's own name in SNI,
certificate check and Host. No redirect is followed and no proxy used: a request carries somebody's
credentials. A peer that drips its answer, header lines included, meets the deadline; so does one
that is slow to read. A connection that died while it was idle is opened again once.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Final, Literal, Self

from django.conf import settings
from django.utils.translation import gettext as _

from telemetry.delivery.addresses import Address
from telemetry.delivery.guard import (
    Endpoint,
    EndpointRefused,
    EndpointUnknown,
    Resolve,
    addresses_of,
)
from telemetry.delivery.headers import scrubbed

CONNECT_S: Final = 5.0
STEP_S: Final = 10.0
"""One step after that: the TLS handshake, a part of the body, a byte of the answer."""
TOTAL_S: Final = 30.0
"""A whole exchange; the time that OpenTelemetry's own batch processor gives an export."""
MAX_ANSWER_BYTES: Final = 4 * 1024**2
"""The limit that the protocol names for answers, after decompression as well."""
MAX_ADDRESSES: Final = 4
"""Addresses of one name that are tried in turn."""
USER_AGENT: Final = "hermes-fleet"
_CHUNK_BYTES: Final = 64 * 1024

Kind = Literal["refused", "dns", "connect", "tls", "timeout", "cut", "answer"]


class DeliveryError(Exception):
    """No answer that could be read; ``kind`` is for programs, the text for a person.

    ``refused`` lasts until somebody changes something, the others may be over in a minute.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind: Kind = kind


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of any status; header names are lower case, the body is decompressed."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def media(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take."""

    connect_s: float = CONNECT_S
    step_s: float = STEP_S
    total_s: float = TOTAL_S


class Sender:
    """A client of one endpoint; a context manager, or ``close`` it. Not for several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        *,
        limits: Limits = Limits(),
        resolve: Resolve | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._headers = dict(headers)
        self._limits = limits
        self._resolve = resolve
        self._connection: HTTPConnection | None = None
        self._pace = _Pace(limits.step_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a body to a path below the endpoint. Errors: DeliveryError, holding nothing sent."""
        self._pace.begin(self._limits.total_s)
        try:
            if self._connection is not None:
                with suppress(ConnectionError, HTTPException):
                    return self._exchange(self._connection, path, body, headers)
                self.close()  # it had died while idle; what was sent may be sent again
            return self._exchange(self._open(), path, body, headers)
        except EndpointRefused as error:
            self.close()
            raise DeliveryError("refused", str(error)) from error
        except EndpointUnknown as error:
            self.close()
            raise DeliveryError("dns", str(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            raise self._told(error) from None  # a ValueError quotes the header it dislikes
        except DeliveryError:
            self.close()
            raise

    def shown(self, text: str) -> str:
        """Words of the receiver, safe to store: no value of a header, one line, redacted."""
        return scrubbed(text, self._headers)

    def close(self) -> None:
        """Let go of the connection; the next request opens and resolves anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> HTTPConnection:
        found = addresses_of(self.endpoint, resolve=self._resolve)[:MAX_ADDRESSES]
        connection = _connection_to(self.endpoint, found, self._limits)
        self._pace.hold(connection)
        connection.connect()
        self._connection = connection
        return connection

    def _exchange(
        self, connection: HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        fields = {
            **self._headers,
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **headers,
            "Content-Length": str(len(body)),
        }
        if connection.sock is not None:
            connection.sock.settimeout(self._pace.left_s())
        is_whole = False
        with suppress(BrokenPipeError, ConnectionResetError):
            # A receiver that refuses early closes its side; its answer is still there.
            parts = self._pace.parts(connection, body)
            connection.request("POST", self.endpoint.path + path, body=parts, headers=fields)
            is_whole = True
        with connection.getresponse() as response:
            data = _read(response)
            found = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close or not is_whole:
            self.close()
        return Reply(response.status, found, _decoded(data, found.get("content-encoding", "")))

    def _told(self, error: Exception) -> DeliveryError:
        where = {"where": f"{self.endpoint.host}:{self.endpoint.port}"}
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message or error.reason
            text = _(
                "The certificate of %(where)s is not valid for it: %(why)s. Mend it there, or name "
                "its authority in FLEET_OTLP_CA_FILE."
            )
            return DeliveryError("tls", text % {**where, "why": why})
        if isinstance(error, ssl.SSLError):
            why = error.reason or type(error).__name__
            text = _("%(where)s does not speak TLS as expected (%(why)s). Is it plain http there?")
            return DeliveryError("tls", text % {**where, "why": why})
        if isinstance(error, TimeoutError):
            text = _("%(where)s did not answer in time.")
            return DeliveryError("timeout", text % where)
        if isinstance(error, ConnectionRefusedError):
            text = _("Nothing listens at %(where)s. Is the collector running, is the port right?")
            return DeliveryError("connect", text % where)
        if isinstance(error, ConnectionError | HTTPException):
            text = _("%(where)s cut the connection or answers no HTTP (%(why)s).")
            return DeliveryError("cut", text % {**where, "why": type(error).__name__})
        if isinstance(error, OSError):
            text = _("%(where)s cannot be reached (%(why)s).")
            return DeliveryError(
                "connect", text % {**where, "why": error.strerror or type(error).__name__}
            )
        return DeliveryError("refused", _("The request to %(where)s cannot be made.") % where)


class _Pace:
    """When the exchange has to be over; ``step_s`` bounds the wait for each part of it."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._ends_at_s = 0.0

    def begin(self, total_s: float) -> None:
        self._ends_at_s = time.monotonic() + total_s

    def left_s(self) -> float:
        """How long the next step may take. Errors: TimeoutError past the end."""
        left_s = self._ends_at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return min(left_s, self._step_s)

    def parts(self, connection: HTTPConnection, body: bytes) -> Iterator[bytes]:
        """The body in parts, each with no more time than is left."""
        view = memoryview(body)
        for start in range(0, len(body), _CHUNK_BYTES):
            if connection.sock is not None:
                connection.sock.settimeout(self.left_s())
            yield bytes(view[start : start + _CHUNK_BYTES])

    def hold(self, connection: HTTPConnection) -> None:
        connection.response_class = partial(_PacedResponse, self)  # type: ignore[assignment]  # called, never subclassed


class _PacedReader(io.RawIOBase):
    """A socket's bytes; a socket's own timeout begins anew with each of them, this one does not."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, pace: _Pace) -> None:
        self._raw, self._sock, self._pace = raw, sock, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]  # what BufferedReader hands over
        self._sock.settimeout(self._pace.left_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(HTTPResponse):
    def __init__(
        self, pace: _Pace, sock: socket.socket, debuglevel: int = 0, method: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_PacedReader(raw, sock, pace))


class _Pinned(HTTPConnection):
    """A connection to given addresses under an endpoint's own name."""

    auto_open = 0  # only by ``Sender``, which asks for the addresses anew

    def __init__(self, endpoint: Endpoint, found: list[Address], limits: Limits) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout=limits.step_s)
        self._found, self._limits = found, limits

    def connect(self) -> None:
        self.sock = connected(self._found, self.port, self._limits)


class _PinnedTls(HTTPSConnection):
    """The same in TLS: the name is what the certificate has to be valid for."""

    auto_open = 0

    def __init__(self, endpoint: Endpoint, found: list[Address], limits: Limits) -> None:
        context = tls_context(settings.FLEET_OTLP_CA_FILE)
        super().__init__(endpoint.host, endpoint.port, timeout=limits.step_s, context=context)
        self._found, self._limits, self._tls = found, limits, context

    def connect(self) -> None:
        plain = connected(self._found, self.port, self._limits)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def _connection_to(endpoint: Endpoint, found: list[Address], limits: Limits) -> HTTPConnection:
    if endpoint.is_tls:
        return _PinnedTls(endpoint, found, limits)
    return _Pinned(endpoint, found, limits)


def connected(found: list[Address], port: int, limits: Limits) -> socket.socket:
    """A TCP connection to the first of the addresses that answers. Errors: OSError of the last."""
    last: OSError = OSError("no address")
    ends_at_s = time.monotonic() + limits.connect_s
    for address in found:
        left_s = ends_at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            sock = socket.create_connection((str(address), port), timeout=left_s)
        except OSError as error:
            last = error
            continue
        sock.settimeout(limits.step_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise last


@lru_cache(maxsize=4)
def tls_context(ca_file: str) -> ssl.SSLContext:
    """The system's authorities, and those of a file beside them. Errors: OSError."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _read(response: HTTPResponse) -> bytes:
    parts: list[bytes] = []
    total_bytes = 0
    while chunk := response.read1(_CHUNK_BYTES):
        total_bytes += len(chunk)
        if total_bytes > MAX_ANSWER_BYTES:
            raise _too_large()
        parts.append(chunk)
    if response.length:
        raise DeliveryError("cut", _("The answer was cut off."))
    return b"".join(parts)


def _decoded(data: bytes, encoding: str) -> bytes:
    """An answer's bytes; some compress although nobody asked for it."""
    name = encoding.strip().lower()
    if name in {"", "identity"} or not data:
        return data
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise DeliveryError("answer", _("The answer has an encoding that was not asked for."))
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = unpacker.decompress(data, MAX_ANSWER_BYTES + 1)
    except zlib.error as error:
        raise DeliveryError("answer", _("The answer cannot be decompressed.")) from error
    if len(plain) > MAX_ANSWER_BYTES:
        raise _too_large()
    if not unpacker.eof:
        raise DeliveryError("cut", _("The answer was cut off."))
    return plain


def _too_large() -> DeliveryError:
    text = _("The answer is larger than %(count)d bytes.") % {"count": MAX_ANSWER_BYTES}
    return DeliveryError("answer", text)
