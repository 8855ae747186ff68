"""Requests as bytes: a push made by hand, and whatever else a client may send."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent_client.contract import wire
from agent_client.contract.tokens import PREFIX_INSTALL
from fleet.lib import tokens
from fleet.models import Install, InstallCredential
from tests.telemetry import builders as make

TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``headers`` by lower-case name."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:  # Any: the tests know what they look for
        """The object of the body."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    @property
    def code(self) -> str:
        """The problem's code, after its form was checked; "" for anything but a problem."""
        if self.headers.get("content-type") != wire.MEDIA_PROBLEM:
            return ""
        code = str(self.json()["code"])
        assert wire.PROBLEM_CODES[code][0] == self.status
        if self.status in {429, 503}:
            assert int(self.headers["retry-after"]) >= 1
        return code


def credential_of(install_id: UUID = make.INSTALL) -> str:
    """A credential of an install, which is made when it is not there."""
    install, _ = Install.objects.get_or_create(pk=install_id, defaults={"machine_id": "m" * 64})
    token, stored = tokens.mint(PREFIX_INSTALL)
    InstallCredential.objects.create(
        install=install,
        key_id=token.key_id,
        digest=stored.digest,
        pepper_id=stored.pepper_id,
        scopes=list(wire.SCOPES),
    )
    return token.text()


def push_headers(token: str, batch_id: object = None, **more: str) -> dict[str, str]:
    """The headers of a good push, but for what is overridden; an empty one is left out."""
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": wire.MEDIA_NDJSON,
        "Idempotency-Key": str(batch_id or uuid4()),
        "Telemetry-Plane": "local",
        "Telemetry-Schema": "1",
        "Connection": "close",
    } | {name.replace("_", "-"): value for name, value in more.items()}
    return {name: value for name, value in headers.items() if value}


def request(
    url: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = wire.PATH_TELEMETRY,
) -> Answer:
    """One request over a connection of its own. Errors: OSError, HTTPException."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, response.read(), names)
    finally:
        connection.close()


def push(url: str, token: str, body: bytes, batch_id: object = None, **more: str) -> Answer:
    """One push, made by hand."""
    return request(url, body, push_headers(token, batch_id, **more))


def otlp_export(name: str = "chat m-1") -> bytes:
    """One span of a model call, as an SDK exports it."""
    export = ExportTraceServiceRequest()
    span = export.resource_spans.add().scope_spans.add().spans.add()
    span.name, span.trace_id, span.span_id = name, b"t" * 16, b"s" * 8
    span.start_time_unix_nano = make.recent_ns()
    span.end_time_unix_nano = span.start_time_unix_nano + make.S
    span.attributes.add(key="gen_ai.request.model").value.string_value = "m-1"
    return export.SerializeToString()


def exchange(url: str, data: bytes, *, is_ended: bool = True) -> bytes:
    """Bytes in, bytes out, over a plain socket; what came back before the other side closed.

    ``is_ended``: our side is closed for writing after the bytes, so that a server that waits for
    more sees that there is none.
    """
    parts = urlsplit(url)
    answer = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S) as plain:
        try:
            plain.sendall(data)
            if is_ended:
                with contextlib.suppress(OSError):  # cut off already
                    plain.shutdown(socket.SHUT_WR)
            while piece := plain.recv(65_536):
                answer += piece
        except ConnectionError:
            pass  # cut off in the middle: what came before counts
    return answer


def raw_request(headers: dict[str, str], body: bytes, *, length: int | None = None) -> bytes:
    """A push as bytes; ``length`` is what Content-Length claims."""
    claimed = len(body) if length is None else length
    sent = {"Host": "127.0.0.1", "Content-Length": str(claimed), **headers}
    lines = [f"POST {wire.PATH_TELEMETRY} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in sent.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def status_of(answer: bytes) -> int:
    """The status of a raw answer; 0 when there is none."""
    line = answer.split(b"\r\n", 1)[0].split()
    return int(line[1]) if len(line) > 1 and line[1].isdigit() else 0
