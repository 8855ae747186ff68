"""A real HTTP server on 127.0.0.1 that plays the console for the agent's tests, faults included.

It keeps the wire's promises (idempotent batches, signed documents, problem+json) in memory, and
breaks them on demand: each entry of ``faults`` spoils one request to a path.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from agent_client.contract.aggregate import record_of
from agent_client.contract.canonical import canonical_json, sha256_hex
from agent_client.contract.dsse import SigningKey, peek, seal
from agent_client.contract.policy_doc import (
    TYPE_ASSIGNMENT,
    TYPE_BUNDLE,
    TYPE_ROOT,
    Assignment,
    Bundle,
    Root,
)
from agent_client.contract.policy_keys import nest
from agent_client.contract.tokens import Token
from agent_client.contract.wire import (
    MEDIA_PROBLEM,
    PATH_CHECKIN,
    PATH_DISCOVERY,
    PATH_ENROLL,
    PATH_POLICY_ASSIGNMENT,
    PATH_POLICY_BUNDLE,
    PATH_POLICY_ROOT,
    PATH_TELEMETRY,
    PROBLEM_CODES,
    PROBLEM_TYPE_BASE,
    Discovery,
)

FLEET_ID = "2f0c5d57-3c5b-4d57-9a53-0c6b5c4f6a11"
ROOT_KEY = SigningKey(b"\x01" * 32)
POLICY_KEY = SigningKey(b"\x02" * 32)
ENROLL_TOKEN = Token("hfe", "0123456789ab", "ab" * 32).text()
CREDENTIAL = Token("hfa", "ba9876543210", "cd" * 32).text()
DAY_NS = 86_400 * 10**9

Json = dict[str, object]


@dataclass
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Json:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class Fault:
    """Spoils one request. ``kind``: status, drop (after the work is done), reset, slow, truncate,
    reply (another body), or call (runs ``action`` after the work, then drops)."""

    path: str
    kind: str
    status: int = 500
    code: str = "internal"
    headers: dict[str, str] = field(default_factory=dict)
    reply: Json = field(default_factory=dict)
    action: Callable[[], None] | None = None
    before: bool = False


def root_document(version: int = 1, **changes: object) -> Json:
    now_ns = time.time_ns()
    keys = {
        key.key_id: {"scheme": "ed25519", "public": key.public.hex()}
        for key in (ROOT_KEY, POLICY_KEY)
    }
    roles: dict[str, dict[str, object]] = {
        "root": {"key_ids": [ROOT_KEY.key_id], "threshold": 1},
        "bundle": {"key_ids": [POLICY_KEY.key_id], "threshold": 1},
        "assignment": {"key_ids": [POLICY_KEY.key_id], "threshold": 1},
    }
    root = Root(FLEET_ID, version, now_ns - DAY_NS, now_ns + 365 * DAY_NS, keys, roles)
    return {**root.to_dict(), **changes}


def sealed_root(version: int = 1, **changes: object) -> bytes:
    return seal(TYPE_ROOT, root_document(version, **changes), [ROOT_KEY])


def sealed_bundle(pins: Json, version: int = 1, **changes: object) -> bytes:
    meta = {
        key: {"layer": "fleet", "revision": version, "reason": "house rule", "contact": "ops@x"}
        for key in pins
    }
    bundle = Bundle(FLEET_ID, version, nest(pins), meta=meta)
    return seal(TYPE_BUNDLE, {**bundle.to_dict(), **changes}, [POLICY_KEY])


def digest_of_bundle(envelope: bytes) -> str:
    return sha256_hex(peek(envelope))


def sealed_assignment(to: str, bundle: bytes, version: int = 1, **changes: object) -> bytes:
    now_ns = time.time_ns()
    assignment = Assignment(
        FLEET_ID, to, version, digest_of_bundle(bundle), now_ns, now_ns + DAY_NS, 60
    )
    return seal(TYPE_ASSIGNMENT, {**assignment.to_dict(), **changes}, [POLICY_KEY])


class LoopbackConsole:
    """The server; a context manager. What it got is in ``requests`` and ``batches``."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.faults: list[Fault] = []
        self.batches: dict[str, tuple[bytes, Json]] = {}
        self.rows: dict[tuple[str, str], Json] = {}
        self.summaries: dict[tuple[str, str], Json] = {}
        self.closed_planes: set[str] = set()
        self.checkins: list[Json] = []
        self.install_id = ""
        self.pending_polls = 0
        self.refused_lines = 0
        self.max_lines = 50_000
        self.credential_is_good = True
        self.fingerprint = ROOT_KEY.key_id
        self.root = sealed_root()
        self.bundle: bytes | None = None
        self.assignment: bytes | None = None
        console = self

        class Handler(_Handler):
            owner = console

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # A short poll keeps shutdown() from costing half a second a test.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def enrollment(self) -> str:
        return f"{ENROLL_TOKEN}.{self.fingerprint}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def publish(self, pins: Json, version: int = 1, **changes: object) -> None:
        self.bundle = sealed_bundle(pins, version, **changes)
        self.assignment = sealed_assignment(self.install_id, self.bundle, version)

    def sent(self, path: str) -> list[Received]:
        return [request for request in self.requests if request.path == path]

    # ------------------------------------------------------------------------- the answers

    def answer(self, request: Received) -> tuple[int, dict[str, str], bytes]:
        path = request.path
        if path == PATH_DISCOVERY:
            found = Discovery(FLEET_ID, self.url, time.time_ns(), 60, "0.1", self.fingerprint)
            return _json(200, found.to_dict())
        if path == PATH_POLICY_ROOT:
            return 200, {"ETag": '"root"'}, self.root
        if path == PATH_ENROLL:
            return self._enroll(request)
        if request.headers.get("authorization") != f"Bearer {CREDENTIAL}":
            return _problem("credential_unknown")
        if not self.credential_is_good:
            return _problem("credential_revoked")
        if path == PATH_TELEMETRY:
            return self._telemetry(request)
        if path == PATH_POLICY_ASSIGNMENT:
            return self._assignment(request)
        if path.startswith(PATH_POLICY_BUNDLE):
            wanted = path.removeprefix(PATH_POLICY_BUNDLE)
            if self.bundle is None or digest_of_bundle(self.bundle) != wanted:
                return _problem("not_found")
            return 200, {}, self.bundle
        if path == PATH_CHECKIN:
            self.checkins.append(request.json())
            return _json(200, {"ack": request.json()["seq"], "actions": []})
        return _problem("not_found")

    def _enroll(self, request: Received) -> tuple[int, dict[str, str], bytes]:
        if request.headers.get("authorization") != f"Bearer {ENROLL_TOKEN}":
            return _problem("token_unknown")
        if self.pending_polls:
            self.pending_polls -= 1
            return _json(202, {"status": "pending", "user_code": "ABCD-EFGH", "poll_seconds": 0})
        self.install_id = str(request.json()["install_id"])
        return _json(
            201,
            {
                "install_id": self.install_id,
                "credential": CREDENTIAL,
                "fleet_id": FLEET_ID,
                "group": "lab",
                "scopes": ["push", "policy:read", "report:write"],
                "server_time_ns": time.time_ns(),
                "poll_seconds": 60,
            },
        )

    def _telemetry(self, request: Received) -> tuple[int, dict[str, str], bytes]:
        plane = request.headers["telemetry-plane"]
        if plane in self.closed_planes:
            return _problem("plane_closed")
        batch_id = request.headers["idempotency-key"]
        lines = gzip.decompress(request.body).splitlines()
        if batch_id in self.batches:
            body, receipt = self.batches[batch_id]
            if gzip.decompress(body) != gzip.decompress(request.body):
                return _problem("batch_mismatch")
            return _json(200, receipt)
        if len(lines) > self.max_lines:
            return _problem("too_many_lines")
        accepted: dict[str, int] = {}
        duplicates, refused = 0, 0
        for line in lines:
            row = json.loads(line)
            if refused < self.refused_lines:
                refused += 1
                continue
            key, is_new = self._keep(plane, row)
            if not is_new:
                duplicates += 1
                continue
            accepted[key[0]] = accepted.get(key[0], 0) + 1
        receipt = {
            "batch_id": batch_id,
            "received": len(lines),
            "accepted": accepted,
            "duplicates": duplicates,
            "rejected": [{"line": n + 1, "code": "wrong_type"} for n in range(refused)],
            "rejected_counts": {"wrong_type": refused} if refused else {},
            "policy_etag": "none",
        }
        self.batches[batch_id] = (request.body, receipt)
        return _json(200, receipt)

    def _keep(self, plane: str, row: Json) -> tuple[tuple[str, str], bool]:
        """Store a line as the console would; its key, and whether that changed anything."""
        kind = str(row["_kind"])
        if plane == "aggregate":
            record_of(row)
            key = kind, str(row["record_id"])
            held = self.summaries.setdefault(key, {"seq": -1})
            is_new = int(str(row["seq"])) > int(str(held["seq"]))
            if is_new:
                self.summaries[key] = row
            return key, is_new
        key = kind, str(row.get("span_id") or row["run_id"])
        is_new = key not in self.rows or kind == "tel_runs"
        self.rows[key] = row if is_new else self.rows[key]
        return key, is_new

    def _assignment(self, request: Received) -> tuple[int, dict[str, str], bytes]:
        if self.assignment is None:
            return 204, {"ETag": '"none"'}, b""
        etag = f'"{sha256_hex(self.assignment)}"'
        if request.headers.get("if-none-match") == etag:
            return 304, {"ETag": etag}, b""
        return 200, {"ETag": etag}, self.assignment


def _json(status: int, value: Json) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, canonical_json(value)


def _problem(code: str, status: int = 0) -> tuple[int, dict[str, str], bytes]:
    known, title = PROBLEM_CODES.get(code, (500, "?"))
    body = {"type": PROBLEM_TYPE_BASE + code, "title": title, "detail": title, "code": code}
    return status or known, {"Content-Type": MEDIA_PROBLEM}, canonical_json(body)


class _Handler(BaseHTTPRequestHandler):
    owner: LoopbackConsole
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        del format, args

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _serve(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, self.path, headers, body)
        self.owner.requests.append(request)
        fault = self._fault()
        if fault is not None and fault.kind in {"status", "reset"}:
            self._spoil(fault, b"")
            return
        status, found, data = self.owner.answer(request)
        if fault is not None:
            self._spoil(fault, data)
            return
        self._send(status, found, data)

    def _fault(self) -> Fault | None:
        for fault in self.owner.faults:
            if self.path.startswith(fault.path):
                self.owner.faults.remove(fault)
                return fault
        return None

    def _spoil(self, fault: Fault, data: bytes) -> None:
        if fault.action is not None:
            fault.action()
        if fault.kind == "status":
            status, headers, body = _problem(fault.code, fault.status)
            self._send(status, {**headers, **fault.headers}, body)
        elif fault.kind == "reply":
            self._send(*_json(200, fault.reply))
        elif fault.kind == "truncate":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
            self.wfile.write(data[: len(data) // 2])
        elif fault.kind == "slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.01)
        elif fault.kind == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status not in {204, 304}:
            self.wfile.write(body)


@contextlib.contextmanager
def console() -> Iterator[LoopbackConsole]:
    """A running console."""
    with LoopbackConsole() as running:
        yield running
