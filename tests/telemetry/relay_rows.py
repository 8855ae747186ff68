"""Rows in the tables and the feed, and the relay's bodies of them as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from telemetry.models import FeedEntry, IngestBatch
from telemetry.relay.encode import Body, Target, encode_logs, encode_traces
from telemetry.store.relay_rows import LOG_TABLES, TRACE_TABLES, EntryRows, read_entries
from tests.telemetry.builders import INSTALL, push

TRACE = "0af7651916cd43dd8448eb211c80319c"


def fed(*records: Mapping[str, object], install_id: UUID = INSTALL, **values: object) -> FeedEntry:
    """A batch of these records, received and numbered."""
    outcome = push(*records, install_id=install_id, **values)
    batch = IngestBatch.objects.get(
        install_id=install_id, batch_id=str(outcome.receipt["batch_id"])
    )
    return entry_of(batch)


def entry_of(batch: IngestBatch) -> FeedEntry:
    received_at: datetime = batch.drained_at or batch.received_at
    return FeedEntry.objects.create(
        install_id=batch.install_id,
        batch_id=batch.batch_id,
        received_at=received_at,
        row_count=batch.inserted_count + batch.merged_count,
    )


def trace_rows(*entries: FeedEntry) -> list[EntryRows]:
    return read_entries(entries, TRACE_TABLES)


def log_rows(*entries: FeedEntry) -> list[EntryRows]:
    return read_entries(entries, LOG_TABLES)


def bodies(*entries: FeedEntry, **target: Any) -> list[Body]:  # noqa: ANN401 -- as Target has them
    return list(encode_traces(trace_rows(*entries), Target(**target)))


def spans_of(*entries: FeedEntry, **target: Any) -> list[Span]:  # noqa: ANN401 -- the same
    return spans_in(bodies(*entries, **target))


def spans_in(made: Iterable[Body]) -> list[Span]:
    found = []
    for body in made:
        request = ExportTraceServiceRequest.FromString(body.data)
        of_body = [s for r in request.resource_spans for c in r.scope_spans for s in c.spans]
        assert len(of_body) == body.record_count
        found += of_body
    return found


def logs_of(*entries: FeedEntry, **target: Any) -> list[LogRecord]:  # noqa: ANN401 -- the same
    found = []
    for body in encode_logs(log_rows(*entries), Target(**target)):
        request = ExportLogsServiceRequest.FromString(body.data)
        of_body = [s for r in request.resource_logs for c in r.scope_logs for s in c.log_records]
        assert len(of_body) == body.record_count
        found += of_body
    return found


def attributes_of(message: Any) -> dict[str, Any]:  # noqa: ANN401 -- whatever has attributes
    """Attributes by name, as plain values."""
    return {pair.key: plain(pair.value) for pair in message.attributes}


def plain(value: Any) -> Any:  # noqa: ANN401 -- an AnyValue
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


def named(spans: Iterable[Span]) -> dict[str, Span]:
    found = list(spans)
    by_name = {span.name: span for span in found}
    assert len(by_name) == len(found)
    return by_name
