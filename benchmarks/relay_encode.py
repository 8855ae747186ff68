"""The relay's encoding against the SDK's ways, alternated: `python -m benchmarks.relay_encode`.

The same stored rows (four model calls, four tool calls and a turn a run; 17 to 27 attributes a
span) as request bytes: the way the reference design does it (start_span, end, a batch processor;
wrong ids and times), the SDK's encoder from spans made by hand, the protobuf library with .add() as
the agent does it, and the relay's own bytes. The last from stored rows to body, redaction included,
the others from attributes that are ready made. Spans per second of CPU; medians of the rounds with
their range; bytes a span before and after gzip at level 1. No database: rows as a query gives them.
Results go to benchmarks/results/relay_encode.json.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
django.setup()

from opentelemetry.exporter.otlp.proto.common.trace_encoder import (  # noqa: E402
    encode_spans as sdk_encode,
)
from opentelemetry.sdk.resources import Resource  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import (  # noqa: E402
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: E402

from agent_client.contract.otlp_names import SCOPE  # noqa: E402
from agent_client.contract.tables import MODEL_CALLS, RUNS, SPANS, TOOL_CALLS, Table  # noqa: E402
from agent_client.otlp.encode import Sender, encode_spans  # noqa: E402
from agent_client.otlp.facts import Facts as AgentFacts  # noqa: E402
from agent_client.otlp.facts import RunFacts as AgentRun  # noqa: E402
from agent_client.otlp.mapping import Mapper  # noqa: E402
from agent_client.otlp.scrub import Scrubber  # noqa: E402
from agent_client.otlp.signals import Span  # noqa: E402
from agent_client.store import Row as AgentRow  # noqa: E402
from benchmarks.facts import machine  # noqa: E402
from benchmarks.otlp import readable  # noqa: E402
from telemetry.relay import encode, resource  # noqa: E402
from telemetry.relay.encode import Target, encode_traces  # noqa: E402
from telemetry.store.relay_facts import InstallFacts, RunFacts  # noqa: E402
from telemetry.store.relay_rows import EntryRows  # noqa: E402

ROUNDS = 7
INSTALLS = 8
RUNS_AN_INSTALL = 120
CALLS_A_RUN = 4
START_NS = 1_790_000_000_000_000_000
RESULTS = Path(__file__).parent / "results" / "relay_encode.json"

Figures = dict[str, list[float]]


def row(table: Table, **values: object) -> tuple[Any, ...]:
    """A row as the query gives it."""
    return tuple(values.get(name) for name in table.column_names())


def entries() -> list[EntryRows]:
    """Batches of installs with runs as a real session records them; no two calls are the same."""
    return [install_rows(number) for number in range(INSTALLS)]


def install_rows(number: int) -> EntryRows:
    """One install's batch."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for run in range(RUNS_AN_INSTALL):
        mark = f"{number:04x}{run:08x}"
        run_id, trace_id, turn = f"{mark:0>32}", f"{mark:1>32}", f"{mark:2>32}"
        start_ns = START_NS + (number * RUNS_AN_INSTALL + run) * 10**9
        place = {"run_id": run_id, "trace_id": trace_id, "start_ns": start_ns}
        rows.setdefault(RUNS.name, []).append(
            row(
                RUNS,
                **place,
                end_ns=start_ns + 10**10,
                session_id=f"20261122_{run:06d}_c57e6c",
                profile_id="default",
                entrypoint="cli",
                platform="linux",
                end_reason="completed",
                model_call_count=CALLS_A_RUN,
                tool_call_count=CALLS_A_RUN,
                error_count=0,
                schema_v=1,
                agent_version="0.19.0",
            )
        )
        rows.setdefault(SPANS.name, []).append(
            row(
                SPANS,
                **place,
                span_id=turn,
                parent_span_id=run_id,
                end_ns=start_ns + 9 * 10**9,
                name="turn",
                kind="turn",
                status="ok",
                attrs_json=f'{{"turn_id": "t{run}", "iterations": {run % 9}}}',
            )
        )
        for call in range(CALLS_A_RUN):
            rows.setdefault(MODEL_CALLS.name, []).append(
                row(
                    MODEL_CALLS,
                    **place,
                    span_id=f"{mark}{call:020x}",
                    parent_span_id=turn,
                    provider=("openrouter", "anthropic", "openai")[run % 3],
                    model=("anthropic/claude-sonnet-5", "claude-opus-5", "gpt-6")[run % 3],
                    base_url="openrouter.ai",
                    input_tokens=1200 + run * 7 + call,
                    output_tokens=340 + call,
                    cache_read_tokens=800 + run,
                    cache_write_tokens=run % 5,
                    latency_ms=1432.5 + run / 7,
                    estimated_cost_usd=0.001 * run + call / 997,
                    cost_status="estimated",
                    cost_source="table",
                    end_reason="completed",
                    retry_count=0,
                    finish_reason="stop",
                    response_model="claude-sonnet-5-20260901",
                    api_request_id=f"20261122_094211_c57e6c:task:{run:08x}:api:{call}",
                    end_ns=start_ns + 1_432_500_000,
                )
            )
            rows.setdefault(TOOL_CALLS.name, []).append(
                row(
                    TOOL_CALLS,
                    **place,
                    span_id=f"{mark}{call + 100:020x}",
                    parent_span_id=turn,
                    tool_name=("terminal", "read_file", "web_search")[call % 3],
                    backend="local",
                    duration_ms=81.5 + run / 11,
                    result_class="ok",
                    retry_count=0,
                    tool_call_id=f"call_{mark}{call:012x}",
                    end_ns=start_ns + 81_500_000,
                )
            )
    install_id = UUID(int=number + 1)
    return EntryRows(number + 1, install_id, datetime.now(UTC), 0, rows)


def facts_of(found: Sequence[EntryRows]) -> dict[UUID, InstallFacts]:
    """What the queries for facts would find."""
    facts: dict[UUID, InstallFacts] = {}
    for entry in found:
        run_rows = entry.rows[RUNS.name]
        facts[entry.install_id] = InstallFacts(
            {
                one[0]: RunFacts(one[1], one[2], one[3], "0.19.0", is_closed=True)
                for one in run_rows
            },
            {one[0]: "span" for one in entry.rows[SPANS.name]},
            {one[0]: "openrouter" for one in run_rows},
        )
    return facts


def mapped(found: Sequence[EntryRows], facts: dict[UUID, InstallFacts]) -> list[list[Span]]:
    """The same spans as the agent's mapping makes them, for the ways of others."""
    made: list[list[Span]] = []
    scrubber = Scrubber()
    for entry in found:
        known = facts[entry.install_id]
        mapper = Mapper(str(entry.install_id), "1.41")
        mapper.facts = AgentFacts(
            runs={
                run_id: AgentRun(
                    run.trace_id, run.session_id, run.profile_id, run.agent_version, is_closed=True
                )
                for run_id, run in known.runs.items()
            },
            parents=known.parents,
            providers=known.providers,
        )
        spans = []
        for table in (RUNS, MODEL_CALLS, TOOL_CALLS, SPANS):
            for values in entry.rows[table.name]:
                raw, record = scrubber.pair_of(AgentRow(table, 1, values))
                span = mapper.map(table, raw, record)
                assert isinstance(span, Span)  # noqa: S101 -- every run has ended
                spans.append(span)
        made.append(spans)
    return made


class _Encoding(SpanExporter):
    """The exporter of the reference design, up to the bytes."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Encode and forget."""
        sdk_encode(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def ways_of(found: list[EntryRows]) -> dict[str, Callable[[], int]]:
    """What is timed; each answers how many spans it made."""
    facts = facts_of(found)
    batches = mapped(found, facts)
    sender = Sender("0.1.0", "1.41", {"service.name": "hermes-agent"})
    whole = Resource(sender.resource_of(batches[0][0].origin))
    scope = InstrumentationScope(SCOPE, "0.1.0")
    provider = TracerProvider(resource=whole)
    processor = BatchSpanProcessor(_Encoding(), max_queue_size=8192, max_export_batch_size=512)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer(SCOPE)

    def ours(profile: str = "1.41") -> int:
        return sum(body.record_count for body in encode_traces(found, Target(profile)))

    def ours_as_sent() -> int:
        made = [(body.record_count, body.compressed()) for body in encode_traces(found, Target())]
        return sum(count for count, _ in made)

    def by_hand() -> int:
        for batch in batches:
            sdk_encode([readable(span, whole, scope) for span in batch]).SerializeToString()
        return sum(map(len, batches))

    def by_library() -> int:
        return sum(len(batch) for batch in batches if encode_spans(batch, sender))

    def seed() -> int:
        for batch in batches:
            for start in range(0, len(batch), 512):
                for span in batch[start : start + 512]:
                    tracer.start_span(span.name, attributes=span.attributes).end()
                processor.force_flush()
        return sum(map(len, batches))

    return {
        "seed: start_span and end": seed,
        "SDK, spans by hand": by_hand,
        "protobuf library, .add(), from mapped spans": by_library,
        "ours, from stored rows, redacted": ours,
        "ours, and gzip at level 1": ours_as_sent,
    }


def main() -> None:
    """Run, print the table, write the results."""
    found = entries()
    facts = facts_of(found)
    figures: Figures = {}
    with (
        mock.patch.object(encode, "look_up", return_value=facts),
        mock.patch.object(resource, "read_installs", return_value={}),
        mock.patch.object(resource, "fleet_id", return_value="fleet"),
    ):
        ways = ways_of(found)
        for _ in range(ROUNDS):
            for name, run in ways.items():
                began_s = time.process_time()
                count = run()
                figures.setdefault(name, []).append(count / (time.process_time() - began_s))
        bodies = list(encode_traces(found, Target()))
        # Ids of calls never seen before, as in a fleet: each round of the above has seen its own.
        began_s = time.process_time()
        fresh = [replace(entry, rows=shifted(entry.rows)) for entry in found]
        began_s = time.process_time()
        count = sum(body.record_count for body in encode_traces(fresh, Target()))
        figures["ours, rows never seen before"] = [count / (time.process_time() - began_s)]
    report(figures, bodies)


def shifted(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """The same rows with other ids and numbers."""

    def other(value: Any) -> Any:  # noqa: ANN401 -- a column's value
        if isinstance(value, str) and len(value) in {32, 21}:
            return value.replace("c57e6c", "d68f7d").translate(_TURNED)
        return value + 100_003 if isinstance(value, int) and value > 100 else value

    return {name: [tuple(map(other, one)) for one in some] for name, some in rows.items()}


_TURNED = str.maketrans("0123456789abcdef", "0123456789fedcba")


def report(figures: Figures, bodies: list[encode.Body]) -> None:
    """Print medians and ranges; write them with the facts of the machine."""
    reference = statistics.median(figures["seed: start_span and end"])
    rows = []
    for name, rates in figures.items():
        median = statistics.median(rates)
        rows.append(
            {
                "way": name,
                "spans_per_cpu_s": round(median),
                "range": [round(min(rates)), round(max(rates))],
                "times_seed": round(median / reference, 2),
            }
        )
        sys.stdout.write(
            f"{name:<46}{median:>9,.0f} spans/CPU s  ×{median / reference:5.2f}"
            f"   ({min(rates):,.0f}-{max(rates):,.0f})\n"
        )
    span_count = sum(body.record_count for body in bodies)
    plain = sum(len(body.data) for body in bodies)
    packed = sum(len(gzip.compress(body.data, 1, mtime=0)) for body in bodies)
    sizes = {
        "spans": span_count,
        "bytes_a_span": round(plain / span_count),
        "gzip_bytes_a_span": round(packed / span_count),
    }
    sys.stdout.write(f"{sizes}\n")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"machine": machine(), "rows": rows, "sizes": sizes}, indent=2) + "\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
