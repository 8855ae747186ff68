"""Lines of the aggregate plane to summaries: the contract's closed types decide, field by field."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from agent_client.contract.aggregate import Heartbeat, RecordFault, record_of
from telemetry.ingest.validate import LineFault, Refused, TimeBounds, Verdicts, read_record
from telemetry.store.summaries import Summary


def judge_summaries(
    lines: Sequence[tuple[int, bytes]], bounds: TimeBounds, *, install_id: UUID
) -> Verdicts:
    """A verdict on each line; never raises, whatever the bytes are.

    A heartbeat that names another install than the credential's is refused.
    """
    summaries: list[Summary] = []
    refused: list[Refused] = []
    for number, line in lines:
        try:
            summaries.append(_summary(line, bounds, str(install_id)))
        except LineFault as fault:
            refused.append(Refused(number, fault.code, fault.detail, line))
    return Verdicts(len(lines), {}, refused, summaries)


def _summary(line: bytes, bounds: TimeBounds, install_id: str) -> Summary:
    try:
        record = record_of(read_record(line))
    except RecordFault as fault:
        raise LineFault(fault.code, fault.field) from None
    if isinstance(record, Heartbeat) and record.install_id != install_id:
        raise LineFault("invalid_value", "install_id")
    if record.occurred_ns > bounds.newest_ns:
        raise LineFault("time_in_future", "occurred_ns")
    if record.occurred_ns < bounds.oldest_ns:
        raise LineFault("time_too_old", "occurred_ns")
    data = {name: value for name, value in record.to_dict().items() if name != "_kind"}
    return Summary(record.KIND, record.record_id, record.seq, record.occurred_ns, data)
