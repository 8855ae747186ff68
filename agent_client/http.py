# ruff: noqa: A005  # inside a package: absolute imports still reach the standard library's
"""One small HTTP client for the console: verified TLS, bounded answers, typed errors.

Redirects are never followed: a request carries the install's credential, and a console that
moved is enrolled with again. Nothing here logs; no exception's text holds a header or a body.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from agent_client import __version__
from agent_client.contract.wire import MEDIA_PROBLEM, PROBLEM_CODES
from agent_client.paced import Pace

if TYPE_CHECKING:
    from ssl import SSLContext

USER_AGENT: Final = f"hermes-fleet-agent/{__version__}"
TIMEOUT_S: Final = 20.0
"""One socket operation; a console that computes longer for one batch is overloaded."""
DEADLINE_S: Final = 120.0
"""A whole answer; a peer that drips bytes would hold the push lock for ever."""
MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Receipts list at most 100 rejections; more is not an answer of ours."""
MAX_DETAIL_CHARS: Final = 300
MAX_SAID_CHARS: Final = 2_000
"""Of a peer's text only this much is scrubbed, and of that MAX_DETAIL_CHARS are shown."""
MAX_RETRY_AFTER_S: Final = 86_400.0
CANNOT_BE_SENT: Final = (
    "no request can be made of the console's address, a proxy's address in the environment or the "
    "credential: one of them holds characters that may not stand there"
)
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class ClientError(Exception):
    """Base of everything a request can end with but an answer."""


class AddressError(ClientError):
    """The console's address cannot be used; the message says what to type instead."""


class NetworkError(ClientError):
    """No whole answer came: whether the console acted is unknown. Safe to try again later."""


class ApiError(ClientError):
    """The console refused. ``code`` is one of ``wire.PROBLEM_CODES``, or http_<status>."""

    def __init__(
        self, status: int, code: str, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{status} {code}" + (f": {detail}" if detail else ""))
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx or 304; header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, object]:
        """The object of the body. Errors: NetworkError when it is none (a proxy's page, say)."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise NetworkError("the answer is not JSON; is this a Hermes Fleet console?") from error
        if not isinstance(value, dict):
            raise NetworkError("the answer is not a JSON object")
        return value


class Transport(Protocol):
    """What push, enroll and policy need of a client; the tests' faults come through a real one."""

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str = "",
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """One request. Errors: ApiError, NetworkError."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client of one console. Make it with ``connect_to``; it keeps no connection open."""

    base: SplitResult
    timeout_s: float = TIMEOUT_S
    deadline_s: float = DEADLINE_S

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str = "",
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """One request with one answer: 2xx or 304.

        Errors: ApiError for a refusal (redirects included), NetworkError for everything that
        leaves it unknown whether the console acted, AddressError where no request can be made.
        """
        sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Connection": "close", **(headers or {})}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        try:
            connection, target = self.open(self.base.path.rstrip("/") + path, sent)
            pace = Pace(self.timeout_s)
            pace.hold(connection)
            pace.begin(self.deadline_s)
            try:
                target.encode("ascii")  # as the request does it, before a name is looked up
                connection.connect()  # not below: without a socket there is no answer to wait for
                with suppress(BrokenPipeError, ConnectionResetError):
                    # A console that refuses early closes its side; its answer is still there.
                    connection.request(method, target, body=body, headers=sent)
                pace.begin(self.deadline_s)
                # Closed here: read to its end it still holds the socket that the connection let go.
                with connection.getresponse() as response:
                    data = self._read(response, max_bytes)
            finally:
                connection.close()
        except (OSError, HTTPException) as error:
            raise NetworkError(reason_of(error, self.base)) from error
        except ValueError:
            # What http.client says of a header holds its value: neither its words nor the chain.
            raise AddressError(CANNOT_BE_SENT) from None
        return _judged(response, data, token)

    def open(self, path: str, headers: dict[str, str]) -> tuple[HTTPConnection, str]:
        """A connection, through the environment's proxy where one is named, and the target."""
        host, is_tls = self.base.hostname or "", self.base.scheme == "https"
        port = self.base.port or (443 if is_tls else 80)
        proxy = proxy_for(self.base)
        if proxy is None:
            if is_tls:
                return HTTPSConnection(host, port, timeout=self.timeout_s, context=_tls()), path
            return HTTPConnection(host, port, timeout=self.timeout_s), path
        proxy_host, proxy_port = proxy.hostname or "", proxy.port or 80
        login = _proxy_login(proxy)
        if is_tls:
            tunnel = HTTPSConnection(proxy_host, proxy_port, timeout=self.timeout_s, context=_tls())
            tunnel.set_tunnel(host, port, headers=login)
            return tunnel, path
        headers.update(login, Host=self.base.netloc)
        plain = HTTPConnection(proxy_host, proxy_port, timeout=self.timeout_s)
        return plain, f"http://{self.base.netloc}{path}"

    @staticmethod
    def _read(response: HTTPResponse, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        total_bytes = 0
        while chunk := response.read1(65_536):
            total_bytes += len(chunk)
            if total_bytes > max_bytes:
                raise NetworkError(f"the answer is larger than {max_bytes} bytes")
            parts.append(chunk)
        if response.length:
            raise NetworkError("the answer was cut off")
        return b"".join(parts)


def connect_to(url: str, *, allow_plain_http: bool = False) -> Client:
    """A client of the console at an address. Errors: AddressError.

    Plain http is for loopback; elsewhere it would show the credential to the network.
    """
    return Client(parse_console_url(url, allow_plain_http=allow_plain_http))


def parse_console_url(url: str, *, allow_plain_http: bool = False) -> SplitResult:
    """The parts of a console's address. Errors: AddressError with what to do."""
    try:
        parts = urlsplit(url.strip())
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        # Its words quote a piece of the address: of a password with a slash in it, say.
        raise AddressError("not an address: its host or port cannot be read") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_good:
        raise AddressError("give the console's address with its scheme: https://console.example")
    if parts.username is not None or parts.query or parts.fragment:
        raise AddressError("the address may hold neither a user name nor ? nor #")
    if any(char.isspace() or ord(char) < 33 for char in url.strip()):
        raise AddressError("the address holds blanks or control characters")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS and not allow_plain_http:
        raise AddressError(
            "plain http would show the credential to the network: use https, or --insecure-http "
            "(HERMES_TELEMETRY_INSECURE_HTTP=1) where the network is yours"
        )
    return parts


def proxy_for(base: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for an address; loopback never goes through one."""
    from urllib.request import getproxies_environment, proxy_bypass

    host = base.hostname or ""
    if host in LOOPBACK_HOSTS:
        return None
    proxies = getproxies_environment()
    named = proxies.get(base.scheme) or proxies.get("all")
    if not named or proxy_bypass(base.netloc):
        return None
    parts = urlsplit(named if "://" in named else f"http://{named}")
    return parts if parts.scheme == "http" and parts.hostname else None


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}


def _tls() -> SSLContext:
    import ssl

    return ssl.create_default_context()  # honours SSL_CERT_FILE and SSL_CERT_DIR


def reason_of(error: Exception, base: SplitResult) -> str:
    """Why a request failed, in words that hold nothing of what was sent."""
    place = f"{base.hostname}:{base.port or (443 if base.scheme == 'https' else 80)}"
    if isinstance(error, TimeoutError):
        return f"{place} did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {place}"
    if isinstance(error, OSError) and error.strerror:
        return f"{place}: {error.strerror}"
    return f"{place}: {type(error).__name__}"


def _judged(response: HTTPResponse, data: bytes, token: str) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    status = response.status
    if 200 <= status < 300 or status == 304:
        return Answer(status, headers, data)
    if 300 <= status < 400:
        host = _host_in(headers.get("location", "")) or "another address"
        detail = f"the console redirects to {host}; enroll with its final address"
        raise ApiError(status, "redirect", detail)
    code, said = _problem(status, headers, data)
    detail = _shown(said, token)
    raise ApiError(status, code, detail, retry_after_s(headers.get("retry-after", "")))


def _host_in(location: str) -> str:
    try:
        return printable(urlsplit(location).hostname)
    except ValueError:
        return ""


def _shown(said: object, token: str) -> str:
    """A console's words made safe to show: should it echo the credential, it is cut out."""
    from agent_client.contract.redact import redact_text  # a refusal is rare, its rules are many

    if not isinstance(said, str) or not said:
        return ""
    text = said.replace(token, "[credential]") if token else said
    return printable(redact_text(text[:MAX_SAID_CHARS]))


def _problem(status: int, headers: Mapping[str, str], data: bytes) -> tuple[str, object]:
    if headers.get("content-type", "").split(";")[0].strip() != MEDIA_PROBLEM:
        return f"http_{status}", ""
    try:
        problem = json.loads(data)
    except (ValueError, RecursionError):
        return f"http_{status}", ""
    if not isinstance(problem, dict):
        return f"http_{status}", ""
    code = problem.get("code")
    known = code if isinstance(code, str) and code in PROBLEM_CODES else f"http_{status}"
    return known, problem.get("detail") or problem.get("title")


def printable(text: object) -> str:
    """A peer's text made safe for a terminal: one line, no control characters, bounded."""
    if not isinstance(text, str):
        return ""
    kept = "".join(char if char.isprintable() else " " for char in text[:MAX_DETAIL_CHARS])
    return " ".join(kept.split())


def retry_after_s(value: str) -> float | None:
    """Seconds of a Retry-After header in either of its forms; None when it says nothing."""
    from email.utils import parsedate_to_datetime

    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None
    return max(0.0, min(at_s - time.time(), MAX_RETRY_AFTER_S))


def http_date(time_ns: int) -> str:
    """A time as a Date header (RFC 9110, 5.6.7): by it the console sees a clock that is wrong."""
    from email.utils import formatdate  # the host's start would pay for it

    return formatdate(time_ns / 1e9, usegmt=True)
