"""OTLP export against the SDK's ways of doing it, alternated: `python -m benchmarks.otlp`.

Encode: the same mapped model calls (about 25 attributes each) as request bytes, by us, by the SDK's
encoder from spans made by hand, and the way the reference design does it (start_span, end, a batch
processor; wrong ids and times). Then what a drain does before it sends: look up, redact, map,
encode, compress. End to end: `drain()` of a home with a mixed load to a receiver process on
loopback that decompresses and parses. Spans per second of CPU (encode) and of wall time (end to
end); medians of the rounds with their range. Results go to benchmarks/results/otlp.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_encode
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from agent_client.contract.events import Event, ModelCallEvent, RunEvent, ToolCallEvent
from agent_client.contract.otlp_names import CLIENT, SCOPE
from agent_client.journal import Journal
from agent_client.otlp.drain import drain
from agent_client.otlp.encode import Sender, compressed, encode_spans
from agent_client.otlp.facts import look_up
from agent_client.otlp.mapping import Mapper
from agent_client.otlp.resource import resource_of
from agent_client.otlp.scrub import Scrubber
from agent_client.otlp.signals import Span
from agent_client.store import Store
from benchmarks.facts import machine

ROUNDS = 7
BATCH = 512
BATCHES = 4
CALLS_A_RUN = 9
END_TO_END_ROWS = 20_000
INSTALL = "0b5f3d1e-8a1c-4b55-9d0e-1f2a3b4c5d6e"
START_NS = 1_790_000_000_000_000_000
RESULTS = Path(__file__).parent / "results" / "otlp.json"

Figures = dict[str, list[float]]


def events_of(count: int) -> list[Event]:
    """Runs with model and tool calls as a real session records them."""
    events: list[Event] = []
    while len(events) < count:
        number = len(events)
        run_id, trace_id = f"{number:032x}", f"{number + 1:032x}"
        start_ns = START_NS + number * 10**9
        place = {"trace_id": trace_id, "parent_span_id": run_id, "start_ns": start_ns}
        events.extend(
            ModelCallEvent(
                span_id=f"{number:024x}{call:08x}",
                run_id=run_id,
                provider="openrouter",
                model="anthropic/claude-sonnet-5",
                base_url="openrouter.ai",
                input_tokens=1200 + number,
                output_tokens=340,
                cache_read_tokens=800,
                latency_ms=1432.5,
                cost_status="unknown",
                end_reason="completed",
                finish_reason="stop",
                response_model="claude-sonnet-5-20260901",
                api_request_id=f"20261122_094211_c57e6c:task:{number:08x}:api:{call}",
                end_ns=start_ns + 1_432_500_000,
                **place,  # type: ignore[arg-type]  # two types in one mapping
            )
            for call in range(CALLS_A_RUN // 2 + 1)
        )
        events.extend(
            ToolCallEvent(
                span_id=f"{number:024x}{call + 100:08x}",
                run_id=run_id,
                tool_name="terminal",
                duration_ms=81.5,
                result_class="ok",
                tool_call_id=f"call_{number:08x}{call:04x}",
                end_ns=start_ns + 81_500_000,
                **place,  # type: ignore[arg-type]  # as above
            )
            for call in range(CALLS_A_RUN // 2)
        )
        events.append(
            RunEvent(
                run_id=run_id,
                trace_id=trace_id,
                session_id=f"20261122_{number:06d}_c57e6c",
                profile_id="default",
                entrypoint="cli",
                start_ns=start_ns,
                end_ns=start_ns + 10**10,
                end_reason="completed",
                agent_version="0.19.0",
            )
        )
    return events[:count]


def record(home: Path, events: Sequence[Event]) -> None:
    """Into log and database, without a spool."""
    journal = Journal(home)
    for start in range(0, len(events), BATCH):
        part = [event.to_dict() for event in events[start : start + BATCH]]
        with journal.locked() as connection:
            journal.append_events(connection, part)
    journal.close()


def readable(span: Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """The same span, made by hand for the SDK's encoder."""
    trace_id = int.from_bytes(span.trace_id)

    def context(span_id: bytes) -> SpanContext:
        return SpanContext(
            trace_id, int.from_bytes(span_id), is_remote=False, trace_flags=TraceFlags(1)
        )

    return ReadableSpan(
        span.name,
        context(span.span_id),
        context(span.parent_id) if span.parent_id else None,
        resource,
        span.attributes,
        kind=SpanKind.CLIENT if span.kind == CLIENT else SpanKind.INTERNAL,
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=scope,
    )


class _Encoding(SpanExporter):
    """The exporter of the reference design, up to the bytes."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Encode and forget."""
        sdk_encode(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def encode_ways(home: Path) -> dict[str, Callable[[], int]]:
    """What is timed; each answers how many spans it made."""
    sender = Sender("0.1.0", "1.41", resource_of(INSTALL, bytes(32)))
    mapper = Mapper(INSTALL, "1.41")
    store = Store(home)
    rows = store.rows_after(0, BATCH * BATCHES)

    scrubber = Scrubber()

    def mapped(part: list) -> list[Span]:  # type: ignore[type-arg]  # rows
        pairs = [(row, scrubber.pair_of(row)) for row in part]
        mapper.facts = look_up(store.connection, pairs, scrubber, with_errors=False)
        made = [mapper.map(row.table, raw, record) for row, (raw, record) in pairs]
        return [span for span in made if isinstance(span, Span)]

    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    batches = [mapped(part) for part in parts]
    resource = Resource(sender.resource_of(batches[0][0].origin))
    scope = InstrumentationScope(SCOPE, "0.1.0")
    provider = TracerProvider(resource=resource)
    processor = BatchSpanProcessor(_Encoding(), max_queue_size=BATCH * 4)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer(SCOPE)

    def ours() -> int:
        return sum(len(batch) for batch in batches if encode_spans(batch, sender))

    def by_hand() -> int:
        for batch in batches:
            made = [readable(span, resource, scope) for span in batch]
            sdk_encode(made).SerializeToString()
        return sum(map(len, batches))

    def seed() -> int:
        for batch in batches:
            for span in batch:
                tracer.start_span(span.name, attributes=span.attributes).end()
            processor.force_flush()
        return sum(map(len, batches))

    def all_but_sending() -> int:
        nonlocal scrubber
        scrubber = Scrubber()  # a drain starts with nothing known
        return sum(
            len(spans)
            for part in parts
            if (spans := mapped(part)) and compressed(encode_spans(spans, sender))
        )

    return {
        "ours: encode": ours,
        "SDK, spans by hand": by_hand,
        "seed: start_span and end": seed,
        "ours: look up, redact, map, encode, gzip": all_but_sending,
    }


RECEIVER = """
import gzip, sys, zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/traces":
            ExportTraceServiceRequest.FromString(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def end_to_end(home: Path, url: str) -> tuple[float, float]:
    """Spans a second of wall time and of this process's CPU, for a whole drain."""
    otlp = {"enabled": True, "endpoint": url}
    settings = {"telemetry": {"install_id": INSTALL, "export": {"otlp": otlp}}}
    (home / "config.yaml").write_text(json.dumps(settings))
    with Store(home) as store:
        store.connection.execute("DELETE FROM tel_state WHERE key LIKE 'otlp.%'")
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    report = drain(home)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    if report.status != "sent":
        raise RuntimeError(f"{report.status}: {report.detail}")
    return report.sent["spans"] / wall_s, report.sent["spans"] / cpu_s


def main() -> None:
    """Run, print the table, write the results."""
    folder = Path(tempfile.mkdtemp())
    small, large = folder / "small", folder / "large"
    for home, count in ((small, BATCH * BATCHES), (large, END_TO_END_ROWS)):
        home.mkdir()
        record(home, events_of(count))
    figures: Figures = {}
    ways = encode_ways(small)
    for _ in range(ROUNDS):
        for name, run in ways.items():
            began_s = time.process_time()
            count = run()
            figures.setdefault(name, []).append(count / (time.process_time() - began_s))
    command = [sys.executable, "-c", RECEIVER]
    receiver = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603  # our own text
    try:
        port = int(receiver.stdout.readline()) if receiver.stdout else 0
        for _ in range(ROUNDS):
            wall, cpu = end_to_end(large, f"http://127.0.0.1:{port}")
            figures.setdefault("end to end, wall time", []).append(wall)
            figures.setdefault("end to end, our CPU", []).append(cpu)
    finally:
        receiver.kill()
        receiver.wait()
    report(figures)


def report(figures: Figures) -> None:
    """Print medians and ranges; write them with the facts of the machine."""
    reference = statistics.median(figures["SDK, spans by hand"])
    rows = []
    for name, rates in figures.items():
        median = statistics.median(rates)
        rows.append(
            {
                "way": name,
                "spans_per_s": round(median),
                "range": [round(min(rates)), round(max(rates))],
                "times_sdk_by_hand": round(median / reference, 2),
            }
        )
        sys.stdout.write(
            f"{name:<42}{median:>9,.0f} spans/s  ×{median / reference:5.2f}"
            f"   ({min(rates):,.0f}-{max(rates):,.0f})\n"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
