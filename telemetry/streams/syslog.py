"""Syslog as RFC 5424 writes it, over TLS (RFC 5425), TCP (RFC 6587, octets counted) or UDP.

Syslog has no acknowledgement. Over a connection, records count as taken when the other side has
read to their end and closed in order after us: what it then loses by itself nobody can see. Over
UDP, when nothing came back that says no. For proof use a webhook or OTLP.
Names and texts are strangers': no control character reaches a line, structured values are escaped.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from telemetry.delivery.guard import Endpoint, EndpointRefused, EndpointUnknown, addresses_of
from telemetry.delivery.http import Limits, connected, tls_context
from telemetry.streams.channel import Answer
from telemetry.streams.records import Record, attributes

SCHEMES: Final = {"tls": 6514, "tcp": 601, "udp": 514}
SD_ID: Final = "hermes@32473"
"""32473 is the enterprise number that RFC 5612 sets aside: Hermes has none of its own."""
_FACILITIES: Final = {"audit": 13, "alerts": 14, "test": 14}
"""Log audit, log alert."""
_SEVERITIES: Final = {"bad": 3, "warn": 4, "notice": 5, "info": 6}
MAX_UDP_BYTES: Final = 1_180
"""Fits the smallest packet every IPv6 network carries; a larger one may be lost unseen."""
MAX_BYTES: Final = 32_768
LIMITS: Final = Limits()
BOM: Final = b"\xef\xbb\xbf"
NO_ANSWER_S: Final = 0.03
"""How long a refusal (ICMP) is waited for after UDP; a machine nearby says so at once."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NOT_PRINTED: Final = re.compile(r"[^\x21-\x7e]")
_ESCAPED: Final = re.compile(r'["\\\]]')


def one_line(text: str) -> str:
    """Without control characters and what turns the direction of writing; blanks instead."""
    return _CONTROL.sub(" ", text)


def message(record: Record, *, most_bytes: int = MAX_BYTES) -> bytes:
    """One SYSLOG-MSG of at most so many bytes: first the text is cut, then the last values go."""
    priority = _FACILITIES[record.kind] * 8 + _SEVERITIES[record.level]
    at = record.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    host = _NOT_PRINTED.sub("", urlsplit(settings.FLEET_PUBLIC_URL).hostname or "")[:255] or "-"
    head = f"<{priority}>1 {at} {host} hermes-fleet - {record.kind} ".encode("ascii")
    pairs = [("id", record.uid), ("event", record.event)]
    pairs += [(name, str(value)) for name, value in attributes(record).items() if name != "text"]
    element = f"[{SD_ID}".encode("ascii")
    left = most_bytes - len(head) - len(element) - 1
    for name, value in pairs:
        written = f' {name}="{_ESCAPED.sub(_escape, one_line(value))}"'.encode()
        if len(written) <= left:  # a value whole or not at all: half of it would be another value
            element += written
            left -= len(written)
    text = one_line(record.text)
    said = text.encode() if text.isascii() else BOM + text.encode()
    return (head + element + b"]" + _cut(b" " + said, left)).rstrip(b" ")


def _escape(found: re.Match[str]) -> str:
    return "\\" + found[0]


def _cut(text: bytes, most_bytes: int) -> bytes:
    """At most so many bytes, no character halved."""
    if len(text) <= most_bytes:
        return text
    return text[: max(0, most_bytes)].decode("utf-8", "ignore").encode()


def frames(body: bytes) -> Iterator[bytes]:
    """The messages of a body of counted octets."""
    while body:
        count, _blank, rest = body.partition(b" ")
        yield rest[: int(count)]
        body = rest[int(count) :]


class SyslogChannel:
    """Sends to one host; a connection a body, closed in order at its end."""

    def __init__(self, endpoint: Endpoint, *, limits: Limits = LIMITS) -> None:
        self._endpoint, self._limits = endpoint, limits
        self._is_udp = endpoint.scheme == "udp"
        self.most_records = 20 if self._is_udp else 200

    def pack(self, records: Sequence[Record]) -> bytes:
        """Counted octets, of UDP as well: so a dead letter can be taken apart again."""
        most_bytes = MAX_UDP_BYTES if self._is_udp else MAX_BYTES
        messages = [message(record, most_bytes=most_bytes) for record in records]
        return b"".join(str(len(each)).encode() + b" " + each for each in messages)

    def send(self, body: bytes) -> Answer:
        """Send all of it, or say why it is not known to be there."""
        where = {"where": f"{self._endpoint.host}:{self._endpoint.port}"}
        try:
            if self._is_udp:
                self._send_datagrams(body)
            else:
                self._send_connected(body)
        except (EndpointRefused, EndpointUnknown) as error:
            return Answer("later", str(error))
        except ssl.SSLCertVerificationError as error:
            text = _(
                "The certificate of %(where)s is not valid for it: %(why)s. Mend it there, or name "
                "its authority in FLEET_OTLP_CA_FILE."
            )
            return Answer("later", text % {**where, "why": error.verify_message})
        except ssl.SSLError as error:
            text = _("%(where)s does not speak TLS as expected (%(why)s). Is it tcp:// there?")
            return Answer("later", text % {**where, "why": error.reason or "?"})
        except TimeoutError:
            text = _("%(where)s did not take the records in time, or did not close after them.")
            return Answer("later", text % where)
        except ConnectionRefusedError:
            text = _("Nothing listens at %(where)s. Is the syslog server running, the port right?")
            return Answer("later", text % where)
        except OSError as error:
            text = _("%(where)s cannot be reached or cut the connection (%(why)s).")
            return Answer("later", text % {**where, "why": error.strerror or type(error).__name__})
        return Answer("taken")

    def _send_connected(self, body: bytes) -> None:
        found = addresses_of(self._endpoint)
        sock = connected(found, self._endpoint.port, self._limits)
        try:
            if self._endpoint.is_tls:
                context = tls_context(settings.FLEET_OTLP_CA_FILE)
                sock = context.wrap_socket(sock, server_hostname=self._endpoint.host)
            sock.sendall(body)
            if _is_closed(sock):
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            _close_in_order(sock, self._limits)
        finally:
            sock.close()

    def _send_datagrams(self, body: bytes) -> None:
        address = addresses_of(self._endpoint)[0]
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), self._endpoint.port))
            for each in frames(body):
                sock.send(each)
            sock.settimeout(NO_ANSWER_S)
            with suppress(TimeoutError):
                sock.recv(1)  # a host where nobody listens answers "refused" here


def _is_closed(sock: socket.socket) -> bool:
    """Whether the other side has gone already, before it could know that this is the end."""
    if isinstance(sock, ssl.SSLSocket):
        return False  # its own close is told from a cut by TLS
    readable, _writable, _odd = select.select([sock], [], [], 0)
    return bool(readable) and not sock.recv(1, socket.MSG_PEEK)


def _close_in_order(sock: socket.socket, limits: Limits) -> None:
    """Say that nothing follows, wait until the other side has read that and closes as well.

    A side that died before has reset or never closes, one that is odd talks on: all are errors
    here, the last one at the end of the whole time. Errors: OSError.
    """
    ends_at_s = time.monotonic() + limits.total_s
    if isinstance(sock, ssl.SSLSocket):
        try:
            sock = sock.unwrap()  # sends our close and waits for theirs
        except ssl.SSLEOFError:
            return  # closed without a word in TLS, in order below it
        except ssl.SSLError as error:
            if error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                return
            raise
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(4096):
        left_s = ends_at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(min(left_s, limits.step_s))
