"""Spans of this process, recorded and sent by OTLP; the module that knows OpenTelemetry's SDK.

Off without FLEET_TRACES_ENDPOINT: then no span is made and no exporter is loaded. Made
in each process for itself at its first span, so that no thread or lock of it crosses a fork. A
thread of its own sends; a collector that is away or hangs costs spans, never a request.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from django.conf import settings

from fleet.lib.traceid import TRACE_ID

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from fleet.watch.tracing_send import OtlpExporter

type Value = str | int | float | bool
type Kind = Literal["server", "producer", "consumer"]

SCOPE: Final = "hermes.fleet"
PARENT: Final = "traceparent"
"""W3C's header, and the one of a Celery message. tracestate is not taken: it is others' data."""
QUEUE_SPANS: Final = 2_048
BATCH_SPANS: Final = 512
DELAY_MS: Final = 2_000
STOP_S: Final = 3.0
"""What a stopping process gives a collector to take the last spans."""


@dataclass(frozen=True, slots=True)
class _Started:
    """Recording in one process."""

    provider: TracerProvider
    tracer: Tracer
    exporter: OtlpExporter


class _Process:
    """What is started in this process; anew after a fork."""

    lock = threading.Lock()
    started: _Started | None = None
    is_stopped = False


def forget() -> None:
    """Begin anew: in a child, what the parent had is the parent's."""
    _Process.lock = threading.Lock()
    _Process.started = None
    _Process.is_stopped = False


os.register_at_fork(after_in_child=forget)


def is_on() -> bool:
    """Whether this deployment wants traces."""
    return bool(settings.FLEET_TRACES_ENDPOINT)


class Recorded:
    """A span that is going on; what is said of it is names and numbers, never what was sent."""

    def __init__(self, span: Span) -> None:
        self._span: Final = span

    def name(self, name: str) -> None:
        """Call it so: routes are known only at the end."""
        self._span.update_name(name)

    def say(self, values: Mapping[str, Value]) -> None:
        """Add attributes."""
        self._span.set_attributes(dict(values))

    def fail(self, kind: str) -> None:
        """It failed, by this kind of error; an exception's own words are left out."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


@contextmanager
def span(name: str, kind: Kind, *, parent: str = "") -> Iterator[Recorded | None]:
    """Record what runs inside; None when this process records nothing.

    ``parent``: a traceparent that is trusted; a malformed one is as none.
    """
    started = _start()
    if started is None:
        yield None
        return
    from opentelemetry import trace

    made = started.tracer.start_span(
        name,
        context=_context_of(parent),
        kind=trace.SpanKind[kind.upper()],
        record_exception=False,
        set_status_on_exception=False,
    )
    context = made.get_span_context()
    token = TRACE_ID.set(trace.format_trace_id(context.trace_id))
    try:
        with trace.use_span(made, record_exception=False, set_status_on_exception=False):
            yield Recorded(made)
    finally:
        TRACE_ID.reset(token)
        made.end()


def current_parent() -> str:
    """The traceparent for what this span hands on; "" outside of one."""
    if _Process.started is None:
        return ""
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get(PARENT, "")


def stop(deadline_s: float = STOP_S) -> bool:
    """Send what is there and end; whether that was done in time. Nothing is recorded afterwards."""
    with _Process.lock:
        started, _Process.started, _Process.is_stopped = _Process.started, None, True
    if started is None:
        return True
    started.exporter.hurry(time.monotonic() + deadline_s)
    # The SDK's own patience cannot be set and is 30 seconds.
    thread = threading.Thread(target=started.provider.shutdown, name="traces-stop", daemon=True)
    thread.start()
    thread.join(deadline_s)
    return not thread.is_alive() and started.exporter.has_sent_all()


def _start() -> _Started | None:
    """What records in this process, made now if it has to be."""
    started = _Process.started
    if started is not None or not is_on() or _Process.is_stopped:
        return started
    with _Process.lock:
        if _Process.started is None and not _Process.is_stopped:
            _Process.started = _made()
        return _Process.started


def _made() -> _Started:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    from fleet.watch.gauges import build
    from fleet.watch.tracing_send import OtlpExporter

    exporter = OtlpExporter(
        settings.FLEET_TRACES_ENDPOINT,
        settings.FLEET_TRACES_HEADERS_ENV,
        ca_file=settings.FLEET_OTLP_CA_FILE,
    )
    # Everything is said here: the SDK would read a dozen OTEL_ variables, resources among them.
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.FLEET_TRACES_RATIO)),
        resource=Resource(
            {
                "service.name": "hermes-fleet",
                "service.version": build()[0],
                "process.pid": os.getpid(),
                "host.name": os.uname().nodename,
            }
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=QUEUE_SPANS,
            schedule_delay_millis=DELAY_MS,
            max_export_batch_size=BATCH_SPANS,
            export_timeout_millis=30_000,
        )
    )
    return _Started(provider, provider.get_tracer(SCOPE), exporter)


def _context_of(parent: str) -> Context | None:
    return _propagator().extract({PARENT: parent}) if parent else None


def _propagator() -> TraceContextTextMapPropagator:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()
