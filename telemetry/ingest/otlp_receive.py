"""receive_spans(): one OTLP request becomes one batch of the ledger, with its receipt.

OTLP has no batch id. It is made from the install and the content, so that what an exporter sends
again after a lost answer is answered from the ledger; spans that come again in other company are
known by their rows' keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from agent_client.contract.tables import BY_NAME
from fleet.lib.clock import ns_to_datetime
from telemetry.ingest.decode import Body
from telemetry.ingest.otlp_json import decode_json
from telemetry.ingest.otlp_mapping import Mapped, map_spans
from telemetry.ingest.otlp_protobuf import decode_protobuf
from telemetry.ingest.otlp_spans import Decoded
from telemetry.ingest.otlp_traces import (
    COUNTED,
    TraceFacts,
    is_same,
    merged,
    run_row,
    said_from_json,
)
from telemetry.ingest.receive import (
    NS_PER_HOUR,
    BatchHeader,
    Outcome,
    Settled,
    receive_judged,
)
from telemetry.ingest.scrub import scrub_text
from telemetry.ingest.validate import TimeBounds, Verdicts
from telemetry.models import Run
from telemetry.store.copy import CopyCounts, Row, Stamp
from telemetry.store.partitions import Partition, ensure_partitions
from telemetry.store.traces import KnownTrace, NewTrace, inserted_by, known_traces, store_traces

MEDIA_PROTOBUF: Final = "application/x-protobuf"
MEDIA_JSON: Final = "application/json"
DECODERS: Final[Mapping[str, Callable[[bytes], Decoded]]] = {
    MEDIA_PROTOBUF: decode_protobuf,
    MEDIA_JSON: decode_json,
}
_BATCH_PREFIX: Final = b"hermes-otlp-batch-v1"


def batch_id_of(install_id: UUID, media: str, body: Body) -> UUID:
    """The id of a request's batch: UUIDv8 (RFC 9562) of install and decoded content."""
    parts = (_BATCH_PREFIX, install_id.bytes, media.encode(), body.content_sha256.encode())
    digest = bytearray(hashlib.sha256(b"\0".join(parts)).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))


def receive_spans(header: BatchHeader, body: Body, media: str) -> Outcome | None:
    """Take in one ExportTraceServiceRequest; None for one without spans, which leaves no trace.

    Errors: IngestError malformed_body, too_many_lines.
    """
    work = _Work(body.data, media)
    try:
        return receive_judged(header, body, work.judge, work.settle)
    except _NoSpansError:
        return None


class _NoSpansError(Exception):
    """A request holds no span."""


@dataclass(slots=True)
class _Work:
    """One request between its two steps: rows before the transaction, runs inside it."""

    data: bytes
    media: str
    bounds: TimeBounds = field(default_factory=lambda: TimeBounds(0, 0))
    mapped: Mapped = field(default_factory=Mapped)

    def judge(self, bounds: TimeBounds) -> Verdicts:
        """The rows of the spans; the runs of traces come in settle(), and are counted here."""
        decoded = DECODERS[self.media](self.data)
        if not decoded.received:
            raise _NoSpansError
        self.bounds = bounds
        self.mapped = mapped = map_spans(decoded, bounds)
        for facts in mapped.traces.values():
            facts.said = {
                name: (rank, at_ns, span_id, scrub_text(value))
                for name, (rank, at_ns, span_id, value) in facts.said.items()
            }
        days = {ns_to_datetime(facts.start_ns).date() for facts in mapped.traces.values()}
        ensure_partitions({Partition(day, Run.table_name()) for day in days})
        row_count = sum(map(len, mapped.rows.values())) + len(mapped.traces)
        return Verdicts(row_count + len(mapped.refused), mapped.rows, mapped.refused)

    def settle(self, stamp: Stamp, counts: CopyCounts) -> Settled:
        """The runs of the traces, each put together with what was known of it before."""
        traces = self.mapped.traces
        if not traces:
            return Settled()
        known = {
            run_id: trace
            for run_id, trace in known_traces(stamp.install_id, traces).items()
            # What began before retention has no partition any more: the run begins anew.
            if trace.start_ns >= self.bounds.oldest_ns
        }
        added = {run_id: facts.counts for run_id, facts in traces.items()}
        if counts.duplicate:
            added = inserted_by(stamp, COUNTED, *_window(self.mapped.rows))
        plan = [
            _next(known.get(run_id), facts, added.get(run_id, {}))
            for run_id, facts in traces.items()
        ]
        new = [trace for trace in plan if trace is not None]
        replaced = {
            trace.run_id: known[trace.run_id].start_ns for trace in new if trace.run_id in known
        }
        if new:
            store_traces(stamp, new, replaced)
        merged_count = len(replaced)
        return Settled(
            CopyCounts(len(new) - merged_count, merged_count, len(plan) - len(new)),
            frozenset(
                ns_to_datetime(at_ns // NS_PER_HOUR * NS_PER_HOUR)
                for at_ns in (*replaced.values(), *(trace.start_ns for trace in new))
            ),
        )


def _next(known: KnownTrace | None, found: TraceFacts, added: Mapping[str, int]) -> NewTrace | None:
    """What is to be stored of a trace; None when nothing of it is new."""
    if known is None:
        facts, seq = TraceFacts(found.run_id, found.start_ns, found.said, dict(added)), 1
    else:
        before = TraceFacts(
            found.run_id, known.start_ns, said_from_json(known.said), dict(known.counts)
        )
        facts, seq = merged(before, found, added), known.seq + 1
        if is_same(before, facts):
            return None
    return NewTrace(
        facts.run_id, facts.start_ns, seq, facts.said, facts.counts, run_row(facts, seq)
    )


def _window(rows: Mapping[str, list[Row]]) -> tuple[int, int]:
    """The first and the last time at which rows of calls and errors stand, in nanoseconds."""
    times: list[int] = []
    for name in COUNTED:
        at = BY_NAME[name].column_names().index(BY_NAME[name].time)
        times += [time_ns for row in rows[name] if isinstance(time_ns := row[at], int)]
    return (min(times), max(times)) if times else (0, 0)
