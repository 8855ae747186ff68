"""An OTLP receiver that misbehaves on demand: one asyncio loop in a thread, real HTTP and protobuf.

It keeps two books: what it took in, and what it also acknowledged, span by span. A sender may bring
a span again that was not acknowledged, and none that was.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service

RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What becomes of one request.

    ``status`` with ``headers`` and ``body``; ``rejected`` records of a 200 with ``message``;
    ``cut_request``: the connection is reset after so many bytes of the request; ``loses_answer``:
    the work is done, the connection is cut; ``cut_answer``: so are all but so many bytes of the
    answer; ``hangs``: no answer until ``release``; ``drips``: the answer a byte at a time;
    ``early``: answered without the body being read.
    """

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    rejected: int = 0
    message: str = ""
    as_json: bool = False
    cut_request: int | None = None
    loses_answer: bool = False
    cut_answer: int | None = None
    hangs: bool = False
    drips: bool = False
    early: bool = False
    before: Callable[[], None] | None = None


@dataclass
class Request:
    """One request as it came, with the ids of the records in it."""

    path: str
    headers: dict[str, str]
    body: bytes
    ids: list[bytes] = field(default_factory=list)


class FlakyReceiver:
    """The server; a context manager. ``faults`` are used up one a request, then all is well."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.judge: Callable[[Request], Fault | None] | None = None
        self.requests: list[Request] = []
        self.taken: Counter[bytes] = Counter()
        self.acknowledged: Counter[bytes] = Counter()
        self.rejected: Counter[bytes] = Counter()
        self.paths = {"/v1/traces", "/v1/logs", "/v1/metrics"}
        self.connection_count = 0
        self.max_records = 10**9
        self._release = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flaky", daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def release(self) -> None:
        """Let the requests that hang go on."""
        self._loop.call_soon_threadsafe(self._release.set)

    def sent(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(path)]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether another may follow."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        request = Request(first.split(" ")[1], headers, b"")
        length = int(headers.get("content-length", "0"))
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and fault.early:
            writer.write(_answer(fault.status, fault.headers, b"", close=True))
            await writer.drain()
            return False
        if fault is not None and fault.cut_request is not None:
            await reader.readexactly(min(length, fault.cut_request))
            _reset(writer)
            return False
        raw = await reader.readexactly(length)
        packed = headers.get("content-encoding") == "gzip"
        request.body = gzip.decompress(raw) if packed else raw
        request.ids = ids_of(request.path, request.body)
        self.requests.append(request)
        if fault is None and self.judge is not None:
            fault = self.judge(request)
        return await self._answered(request, fault or Fault(), writer)

    async def _answered(self, request: Request, fault: Fault, writer: asyncio.StreamWriter) -> bool:
        if fault.before is not None:
            await asyncio.get_running_loop().run_in_executor(None, fault.before)
        if fault.hangs:
            await self._release.wait()
        status = fault.status or 200
        path = "/v1/" + request.path.rpartition("/v1/")[2]
        if path not in self.paths:
            status = 404
        elif not fault.status and len(request.ids) > self.max_records:
            status = 413
        body = fault.body
        headers = dict(fault.headers)
        kept = request.ids[fault.rejected :]
        if 200 <= status < 300:
            self.taken.update(kept)
            if fault.rejected or fault.message:
                body = partial_answer(path, fault.rejected, fault.message, as_json=fault.as_json)
                headers["Content-Type"] = "application/json" if fault.as_json else PROTOBUF
        if fault.loses_answer:
            _reset(writer)
            return False
        answer = _answer(status, tuple(headers.items()), body)
        if fault.cut_answer is not None:
            writer.write(answer[: fault.cut_answer])
            await writer.drain()
            _reset(writer)
            return False
        if fault.drips:
            for at in range(len(answer)):
                writer.write(answer[at : at + 1])
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.write(answer)
        await writer.drain()
        if 200 <= status < 300 and not fault.drips:
            self.acknowledged.update(kept)
            self.rejected.update(request.ids[: fault.rejected])
        return True


def spoil(chance: random.Random) -> Callable[[Request], Fault | None]:
    """Three of ten requests meet one of everything that may happen on the way."""
    faults = [
        Fault(status=429, headers=(("Retry-After", "1"),)),
        Fault(status=503),
        Fault(loses_answer=True),
        Fault(cut_answer=0),
        Fault(cut_answer=25),
        Fault(message="careful"),
    ]
    return lambda _request: chance.choice(faults) if chance.random() < 0.3 else None


PROTOBUF = "application/x-protobuf"


def ids_of(path: str, body: bytes) -> list[bytes]:
    """What tells the records of a request apart, in their order."""
    if path.endswith("traces"):
        traces = trace_service.ExportTraceServiceRequest.FromString(body)
        return [
            span.span_id
            for resource in traces.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    if path.endswith("logs"):
        logs = logs_service.ExportLogsServiceRequest.FromString(body)
        return [
            next(
                pair.value.string_value.encode()
                for pair in record.attributes
                if pair.key == "log.record.uid"
            )
            for resource in logs.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
    metrics = metrics_service.ExportMetricsServiceRequest.FromString(body)
    return [
        metric.name.encode()
        for resource in metrics.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def partial_answer(path: str, rejected: int, message: str, *, as_json: bool) -> bytes:
    kinds: dict[str, tuple[Any, str, str]] = {
        "/v1/traces": (
            trace_service.ExportTraceServiceResponse,
            "rejected_spans",
            "rejectedSpans",
        ),
        "/v1/logs": (
            logs_service.ExportLogsServiceResponse,
            "rejected_log_records",
            "rejectedLogRecords",
        ),
        "/v1/metrics": (
            metrics_service.ExportMetricsServiceResponse,
            "rejected_data_points",
            "rejectedDataPoints",
        ),
    }
    made, name, json_name = kinds[path]
    if as_json:
        said = {json_name: str(rejected), "errorMessage": message}
        return json.dumps({"partialSuccess": said}).encode()
    answer = made()
    setattr(answer.partial_success, name, rejected)
    answer.partial_success.error_message = message
    data: bytes = answer.SerializeToString()
    return data


def _answer(
    status: int, headers: tuple[tuple[str, str], ...], body: bytes, *, close: bool = False
) -> bytes:
    lines = [f"HTTP/1.1 {status} Said"]
    if not any(name == "Content-Length" for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _reset(writer: asyncio.StreamWriter) -> None:
    plain = writer.get_extra_info("socket")
    if plain is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


@pytest.fixture
def receiver(settings: Any) -> Iterator[FlakyReceiver]:  # noqa: ANN401 -- pytest-django's
    """A receiver on this machine, which is allowed."""
    allow_here(settings)
    with FlakyReceiver() as running:
        yield running


def allow_here(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_OTLP_HOSTS = ["127.0.0.0/8"]
    settings.FLEET_OTLP_PLAIN_HTTP = True
