"""An unchanged poll answered before anything of Django runs: 304, or nothing at all.

It looks at what the full path looks at: host, TLS, client version, credential, rate limits, entity
tag. Whatever is not certain is left to the full path, which then says why.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

from agent_client.contract.wire import PATH_POLICY_ASSIGNMENT as PATH
from fleet.api.authentication import is_welcome
from fleet.api.throttling import LocalCounts
from fleet.lib.addresses import client_address
from fleet.policy.polls import MEMORY, proof_of
from fleet.watch.figures import LATENCY, POLLS, REQUESTS

logger = structlog.get_logger(__name__)
STATUS: Final = "304 Not Modified"
LOOK_EVERY_S: Final = 1.0
_COUNTS: Final = LocalCounts()
_ANSWERED: Final = REQUESTS.labels(PATH, "GET", "304")
_TOOK: Final = LATENCY.labels(PATH, "GET")
_POLLED: Final = POLLS.labels("304", "memory")

type Environ = Mapping[str, object]
type Headers = list[tuple[str, str]]
type StartResponse = Callable[[str, Headers], object]
type Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]  # Any: WSGI's own


class _Meta:
    """As much of a request as ``client_address`` reads."""

    __slots__ = ("META",)

    def __init__(self, meta: Environ) -> None:
        self.META = meta


def headers_of_304(environ: Environ) -> Headers | None:
    """The headers of the 304 this poll gets, and the poll is counted; None: ask the full path."""
    if (
        environ.get("PATH_INFO") != PATH
        or environ.get("REQUEST_METHOD") != "GET"
        or environ.get("QUERY_STRING")
        or not MEMORY.is_on
    ):
        return None
    began_s = time.perf_counter()
    scheme, _space, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    held = MEMORY.find(proof_of(token.strip())) if scheme.lower() == "bearer" else None
    if held is None or not _names(str(environ.get("HTTP_IF_NONE_MATCH", "")), held.etag):
        return None
    if not _may_be_here(environ) or not is_welcome(str(environ.get("HTTP_USER_AGENT", ""))):
        return None
    address = client_address(cast("HttpRequest", _Meta(environ)))
    if not _COUNTS.admit(address, str(held.install_id)):
        return None
    MEMORY.note_seen(held, address)
    _ANSWERED.inc()
    _POLLED.inc()
    _TOOK.observe(time.perf_counter() - began_s)
    return [
        ("ETag", f'"{held.etag}"'),
        ("Cache-Control", "private, no-cache"),
        ("X-Request-Id", os.urandom(16).hex()),
    ]


def _names(if_none_match: str, etag: str) -> bool:
    """Whether If-None-Match names this entity (RFC 9110, 13.1.2: weak comparison)."""
    if if_none_match == f'"{etag}"':
        return True
    tags = if_none_match.split(",")
    return any(tag.strip().removeprefix("W/") in {f'"{etag}"', "*"} for tag in tags)


def _may_be_here(environ: Environ) -> bool:
    """Whether the full path would neither refuse the host nor send the caller to TLS."""
    if not _is_host(str(environ.get("HTTP_HOST", "")), tuple(settings.ALLOWED_HOSTS)):
        return False
    if not settings.SECURE_SSL_REDIRECT or environ.get("wsgi.url_scheme") == "https":
        return True
    header = settings.SECURE_PROXY_SSL_HEADER
    return header is not None and environ.get(header[0]) == header[1]


@lru_cache(maxsize=64)
def _is_host(host: str, allowed: tuple[str, ...]) -> bool:
    domain, _port = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


class PollsFirst:
    """The console's WSGI callable: polls from memory, everything else from Django."""

    def __init__(self, application: Application) -> None:
        self._application: Final = application

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        headers = headers_of_304(environ)
        if headers is None:
            return self._application(environ, start_response)
        start_response(STATUS, headers)
        return []


class Looker:
    """The thread that keeps MEMORY true, once a second; started once a process, after its fork."""

    def __init__(self) -> None:
        self._stop: Final = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Switch the memory on."""
        if self._thread is None and settings.FLEET_POLL_CACHE_S:
            MEMORY.is_on = True
            self._thread = threading.Thread(target=self._run, name="polls", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 3.0) -> None:
        """Switch it off, after who was seen is written down."""
        thread, self._thread = self._thread, None
        if thread is not None:
            MEMORY.is_on = False
            self._stop.set()
            thread.join(timeout_s)

    def _run(self) -> None:
        is_well = True
        while not self._stop.wait(LOOK_EVERY_S):
            is_well = self._try(MEMORY.look, was_well=is_well)
        self._try(MEMORY.flush, was_well=is_well)
        connections.close_all()

    def _try(self, act: Callable[[], object], *, was_well: bool) -> bool:
        """Without the database nothing is confirmed, and after a while nothing is answered."""
        try:
            close_old_connections()
            act()
            _COUNTS.tell()
        except DatabaseError as error:
            connections.close_all()
            if was_well:
                logger.warning("poll_memory_blind", kind=type(error).__name__)
            return False
        return True


LOOKER: Final = Looker()
