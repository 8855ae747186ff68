"""receive_batch(): one batch, one transaction, one receipt.

Acknowledged = committed: the ledger row with the receipt, the event rows, the touched hours and
the install's running sums share one transaction, and the receipt is returned after its commit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, cast
from uuid import UUID

from agent_client.contract import wire
from agent_client.contract.canonical import canonical_json
from agent_client.contract.policy_keys import KEYS
from agent_client.contract.tables import BY_NAME
from fleet.lib.clock import datetime_to_ns, now, ns_to_datetime
from telemetry.ingest.decode import Body, IngestError, split_lines
from telemetry.ingest.scrub import Scrubbed, scrub_raw, scrub_rows, scrub_summaries, scrub_text
from telemetry.ingest.summaries import judge_summaries
from telemetry.ingest.validate import Refused, TimeBounds, Verdicts, validate_body
from telemetry.models import IngestBatch, QuarantinedLine
from telemetry.models.events import MODEL_OF
from telemetry.models.rollups import NO_GROUP
from telemetry.store.copy import Columns, CopyCounts, Stamp, copy_batch
from telemetry.store.ledger import find_batch, record_batch
from telemetry.store.locks import install_transaction
from telemetry.store.partitions import Partition, with_partitions
from telemetry.store.retention import accepted_from
from telemetry.store.summaries import store_summaries

MAX_QUARANTINED: Final = 1000
"""Lines kept of one batch (4 MB at most); the counts by code are complete all the same."""
NS_PER_HOUR: Final = 3_600_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader:
    """What is said about a batch beside its body; all of it checked, none of it trusted."""

    install_id: UUID
    batch_id: UUID
    plane: str = "local"
    schema_version: int = wire.SCHEMA_VERSION
    source: str = IngestBatch.Source.PUSH
    client: str = ""
    consent: Mapping[str, object] = field(default_factory=dict)
    losses: Mapping[str, int] = field(default_factory=dict)
    first_seq: int | None = None
    last_seq: int | None = None
    policy_etag: str = ""
    group_id: int = NO_GROUP


@dataclass(frozen=True, slots=True)
class Outcome:
    """The receipt to send; ``is_replay``: it is that of an earlier, equal batch."""

    receipt: Mapping[str, object]
    is_replay: bool


@dataclass(frozen=True, slots=True)
class _Loaded:
    counts: CopyCounts
    accepted: dict[str, int]


type Judge = Callable[[TimeBounds], Verdicts]
"""Gives the verdict on everything in a batch, within the times that are accepted now."""


def receive_batch(header: BatchHeader, body: Body) -> Outcome:
    """Take in one batch of NDJSON, or answer a repeated one with its receipt.

    Errors: IngestError too_many_lines, batch_mismatch.
    """
    return receive_judged(header, body, lambda bounds: _judge_lines(header, body, bounds))


def receive_judged(header: BatchHeader, body: Body, judge: Judge) -> Outcome:
    """Take in one batch whose rows ``judge`` finds, or answer a repeated one with its receipt.

    Steps: 1. a known batch id is answered from the ledger, 2. the content is judged and scrubbed,
    3. day partitions that its rows lack are made, 4. one transaction stores everything.
    Errors: IngestError batch_mismatch, and what ``judge`` raises.
    """
    known = _replay_of(header, body)
    if known is not None:
        return known
    received_at = now()
    verdicts = judge(_bounds_at(received_at))
    scrubbed = _scrubbed(verdicts)
    quarantined = [
        (refused, scrub_raw(refused.raw)) for refused in verdicts.refused[:MAX_QUARANTINED]
    ]
    hours_by_table = {name: _hours_of(name, found) for name, found in scrubbed.columns.items()}
    days = {
        Partition(hour.date(), MODEL_OF[name].table_name())
        for name, found in hours_by_table.items()
        for hour in found
    }
    hours = set().union(*hours_by_table.values())

    def store() -> Outcome:
        with install_transaction(header.install_id):
            known = _replay_of(header, body)  # a twin may have committed while we waited
            if known is not None:
                return known
            return _store(header, body, verdicts, scrubbed, quarantined, hours, received_at)

    return with_partitions(days, store)


def _judge_lines(header: BatchHeader, body: Body, bounds: TimeBounds) -> Verdicts:
    """The verdict on each line."""
    if header.plane == "aggregate":
        return judge_summaries(split_lines(body.data), bounds, install_id=header.install_id)
    return validate_body(body.data, bounds, plane=header.plane)


def _scrubbed(verdicts: Verdicts) -> Scrubbed:
    """What may be stored of the accepted."""
    if verdicts.summaries:
        return scrub_summaries(verdicts.summaries)
    return scrub_rows(verdicts.rows)


def _replay_of(header: BatchHeader, body: Body) -> Outcome | None:
    known = find_batch(header.install_id, header.batch_id)
    if known is None:
        return None
    if known.content_sha256 != body.content_sha256 or known.plane != header.plane:
        raise IngestError("batch_mismatch", "the batch id was used for other content")
    return Outcome(_ordered(known.receipt), is_replay=True)


def _ordered(receipt: Mapping[str, object]) -> dict[str, object]:
    """One order of keys, whatever the database makes of JSON: a repeat gets the same bytes."""
    ordered = json.loads(canonical_json(dict(receipt)))
    assert isinstance(ordered, dict)  # noqa: S101 -- a receipt is an object
    return ordered


def _bounds_at(moment: datetime) -> TimeBounds:
    return TimeBounds(
        oldest_ns=datetime_to_ns(accepted_from(moment)),
        newest_ns=datetime_to_ns(moment + timedelta(seconds=wire.MAX_FUTURE_S)),
    )


def _hours_of(name: str, columns: Columns) -> set[datetime]:
    """The UTC hours in which rows of a table begin."""
    if not columns:
        return set()
    table = BY_NAME[name]
    times_ns = cast("Sequence[int]", columns[table.column_names().index(table.time)])
    hours = {time_ns // NS_PER_HOUR for time_ns in times_ns}
    return {ns_to_datetime(hour * NS_PER_HOUR) for hour in hours}


def _store(
    header: BatchHeader,
    body: Body,
    verdicts: Verdicts,
    scrubbed: Scrubbed,
    quarantined: list[tuple[Refused, str]],
    hours: Iterable[datetime],
    received_at: datetime,
) -> Outcome:
    """Everything of a batch, inside the caller's transaction."""
    stamp = Stamp(header.install_id, header.batch_id, received_at, header.group_id)
    loaded = _load(scrubbed, stamp)
    receipt = _ordered(_receipt(header, verdicts, loaded).to_dict())
    batch = _ledger_row(header, body, verdicts, scrubbed, loaded)
    batch.quarantined_count = len(quarantined)
    batch.receipt = receipt
    batch.received_at = received_at
    if quarantined:
        QuarantinedLine.objects.bulk_create(
            QuarantinedLine(
                install_id=header.install_id,
                batch_id=header.batch_id,
                line=refused.line,
                code=refused.code,
                detail=refused.detail,
                raw_text=text,
                received_at=received_at,
            )
            for refused, text in quarantined
        )
    is_new = loaded.counts.inserted or loaded.counts.merged
    record_batch(batch, sorted(hours) if is_new else (), consent_state=_consent_of(header))
    return Outcome(receipt, is_replay=False)


def _consent_of(header: BatchHeader) -> str:
    """What the owner's opt-in is now, as the batch says; "" where it says nothing we know."""
    said = header.consent.get("consent_state")
    known = KEYS["telemetry.consent_state"].choices
    return said if isinstance(said, str) and said in known else ""


def _load(scrubbed: Scrubbed, stamp: Stamp) -> _Loaded:
    if scrubbed.summaries:
        return _Loaded(*store_summaries(scrubbed.summaries, stamp))
    counts = copy_batch(scrubbed.columns, stamp)
    accepted = {
        name: found.inserted + found.merged
        for name, found in counts.items()
        if found.inserted + found.merged
    }
    total = CopyCounts(
        inserted=sum(found.inserted for found in counts.values()),
        merged=sum(found.merged for found in counts.values()),
        duplicate=sum(found.duplicate for found in counts.values()),
    )
    return _Loaded(total, accepted)


def _receipt(header: BatchHeader, verdicts: Verdicts, loaded: _Loaded) -> wire.Receipt:
    listed = verdicts.refused[: wire.MAX_REJECTED_LISTED]
    return wire.Receipt(
        batch_id=str(header.batch_id),
        received=verdicts.received,
        accepted=loaded.accepted,
        duplicates=loaded.counts.duplicate,
        rejected=tuple(wire.Rejection(line.line, line.code, line.detail) for line in listed),
        rejected_counts=dict(Counter(line.code for line in verdicts.refused)),
        policy_etag=header.policy_etag,
    )


def _ledger_row(
    header: BatchHeader, body: Body, verdicts: Verdicts, scrubbed: Scrubbed, loaded: _Loaded
) -> IngestBatch:
    return IngestBatch(
        install_id=header.install_id,
        batch_id=header.batch_id,
        source=header.source,
        plane=header.plane,
        schema_version=header.schema_version,
        content_sha256=body.content_sha256,
        content_encoding=body.encoding,
        client=scrub_text(header.client)[:120],
        wire_bytes=body.wire_bytes,
        decoded_bytes=len(body.data),
        received_count=verdicts.received,
        inserted_count=loaded.counts.inserted,
        merged_count=loaded.counts.merged,
        duplicate_count=loaded.counts.duplicate,
        rejected_count=len(verdicts.refused),
        scrubbed_count=scrubbed.hit_count,
        ruleset_version=scrubbed.ruleset,
        consent=dict(header.consent),
        losses={scrub_text(reason): count for reason, count in header.losses.items()},
        first_seq=header.first_seq,
        last_seq=header.last_seq,
        clock_skew_ms=clock_skew_ms(header.batch_id),
    )


def clock_skew_ms(batch_id: UUID) -> int | None:
    """The agent's clock minus ours, from the batch id; None when it is no UUIDv7 (RFC 9562)."""
    if batch_id.version != 7:
        return None
    return (batch_id.int >> 80) - datetime_to_ns(now()) // 1_000_000
