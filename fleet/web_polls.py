"""A poll read from the bytes of its connection, for the web worker to answer without a thread.

Only a request that every HTTP parser reads alike is taken: one line, plain headers, no body, whole
in one piece. Anything else is left unread for gunicorn, which has the last word on what it means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from agent_client.contract.wire import PATH_POLICY_ASSIGNMENT

MAX_BYTES: Final = 4096
_LINE: Final = f"GET {PATH_POLICY_ASSIGNMENT} HTTP/1.1\r\n".encode()
_END: Final = b"\r\n\r\n"
_FIELD: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9-]{0,63}): ?([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)"
)
_NAMES: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "cache-control",
        "connection",
        "forwarded",
        "host",
        "if-none-match",
        "traceparent",
        "tracestate",
        "user-agent",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
    }
)
"""What our agents and the fronts in deploy/ send. A name that is not here may ask for anything."""


def poll_in(data: bytes, client_address: str) -> Mapping[str, object] | None:
    """The variables of WSGI (PEP 3333) that decide a poll, if the bytes are one; otherwise None."""
    if not data.startswith(_LINE) or not data.endswith(_END) or data.count(_END) != 1:
        return None
    environ: dict[str, object] = {
        "PATH_INFO": PATH_POLICY_ASSIGNMENT,
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "",
        "REMOTE_ADDR": client_address,
        "wsgi.url_scheme": "http",
    }
    for line in data[len(_LINE) : -len(_END)].decode("latin-1").split("\r\n"):
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name, value = field[1].lower(), field[2]
        key = _key_of(name)
        if name not in _NAMES or key in environ:
            return None
        environ[key] = value
    if str(environ.get("HTTP_CONNECTION", "keep-alive")).lower() not in {"keep-alive", "close"}:
        return None
    return environ if "HTTP_HOST" in environ else None


@lru_cache(maxsize=64)
def _key_of(name: str) -> str:
    return f"HTTP_{name.upper().replace('-', '_')}"


def stays(environ: Mapping[str, object]) -> bool:
    """Whether who sent this poll may send another on the same connection."""
    return str(environ.get("HTTP_CONNECTION", "")).lower() != "close"


def answer_of(headers: list[tuple[str, str]], at_s: float, *, is_kept: bool) -> bytes:
    """The bytes of a 304 with these headers, sent at ``at_s`` (seconds of the epoch)."""
    lines = [f"{name}: {value}" for name, value in headers]
    lines.append(f"Connection: {'keep-alive' if is_kept else 'close'}")
    return (_head(int(at_s)) + "\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@lru_cache(maxsize=4)
def _head(at_s: int) -> str:
    date = formatdate(at_s, usegmt=True)
    return f"HTTP/1.1 304 Not Modified\r\nServer: gunicorn\r\nDate: {date}\r\n"
