"""The HTTP side of OTLP: one kept connection, every wait and every answer bounded.

TLS, proxies and their rules are those of ``agent_client.http``. No redirect is followed: a request
carries the owner's headers. A peer that drips its answer, header lines included, meets the
deadline; a connection that died while it was idle is opened again once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Final
from urllib.parse import SplitResult

from agent_client.http import USER_AGENT, Client, NetworkError, reason_of
from agent_client.paced import Pace

TIMEOUT_S: Final = 10.0
"""One step: connecting, the TLS handshake, sending a body, waiting for a byte."""
DEADLINE_S: Final = 30.0
"""A whole answer; the time that OpenTelemetry's own batch processor gives an export."""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""The limit that the protocol names for answers."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of any status; header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Collector:
    """A client of one endpoint; ``close`` it. Not for several threads."""

    def __init__(
        self, base: SplitResult, headers: Mapping[str, str], *, deadline_s: float = DEADLINE_S
    ) -> None:
        self._base = base
        self._headers = {**headers, "User-Agent": USER_AGENT}
        self._deadline_s = deadline_s
        self._connection: HTTPConnection | None = None
        self._target_prefix = ""
        self._pace = Pace(TIMEOUT_S)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a body to a path below the endpoint. Errors: NetworkError, holding nothing sent."""
        try:
            if self._connection is not None:
                with suppress(ConnectionError, HTTPException):
                    return self._exchange(self._connection, path, body, headers)
                self.close()  # it had died while idle; what was sent may be sent again
            return self._exchange(self._open(), path, body, headers)
        except (OSError, HTTPException) as error:
            self.close()
            raise NetworkError(reason_of(error, self._base)) from error
        except ValueError as error:  # an odd name of a host, a proxy or a header
            self.close()
            raise NetworkError(reason_of(error, self._base)) from None
        except NetworkError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> HTTPConnection:
        proxy_headers = dict(self._headers)
        connection, target = Client(self._base, timeout_s=TIMEOUT_S).open(
            self._base.path, proxy_headers
        )
        self._pace.hold(connection)
        self._connection, self._target_prefix = connection, target
        self._headers = proxy_headers  # with the proxy's login, where there is one
        self._pace.begin(self._deadline_s)  # a proxy's answer to CONNECT
        connection.connect()
        return connection

    def _exchange(
        self, connection: HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        if connection.sock is not None:
            connection.sock.settimeout(TIMEOUT_S)
        is_whole = False
        with suppress(BrokenPipeError, ConnectionResetError):
            # A receiver that refuses early closes its side; its answer is still there.
            connection.request(
                "POST", self._target_prefix + path, body=body, headers={**self._headers, **headers}
            )
            is_whole = True
        self._pace.begin(self._deadline_s)
        with connection.getresponse() as response:
            data = _read(response)
            found = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close or not is_whole:
            self.close()
        return Reply(response.status, found, data)


def _read(response: HTTPResponse) -> bytes:
    parts: list[bytes] = []
    total_bytes = 0
    while chunk := response.read1(65_536):
        total_bytes += len(chunk)
        if total_bytes > MAX_ANSWER_BYTES:
            raise NetworkError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        parts.append(chunk)
    if response.length:
        raise NetworkError("the answer was cut off")
    return b"".join(parts)
