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

from django.conf import settings
from django.db import IntegrityError

from agent_client.contract import wire
from agent_client.contract.canonical import canonical_json
from agent_client.contract.policy_keys import KEYS
from agent_client.contract.tables import BY_NAME, RUNS
from fleet.enroll.erasure import erasure_lock
from fleet.lib.clock import datetime_to_ns, now, ns_to_datetime
from fleet.lib.sql import limit_lock_waits, transaction_lock
from telemetry.ingest.content import judge_content
from telemetry.ingest.decode import Body, IngestError, split_lines
from telemetry.ingest.gate import refuse_erased
from telemetry.ingest.otlp_settle import settle_traces
from telemetry.ingest.otlp_traces import TraceFacts
from telemetry.ingest.scrub import Scrubbed, scrub_rows, scrub_summaries, scrub_text
from telemetry.ingest.spool import Payload, QuarantinedText, put, quarantined_text
from telemetry.ingest.summaries import judge_summaries
from telemetry.ingest.validate import TimeBounds, Verdicts, validate_body, validate_lines
from telemetry.ingest.valve import Ways, pass_batch, patience_ms
from telemetry.models import IngestBatch, QuarantinedLine
from telemetry.models.events import MODEL_OF
from telemetry.models.rollups import NO_GROUP
from telemetry.store import ledger
from telemetry.store.content import store_content
from telemetry.store.copy import CopyCounts, Row, Stamp, copy_batch
from telemetry.store.locks import install_transaction
from telemetry.store.partitions import Ensure, Partition, ensure_partitions, with_partitions
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
    content_pii: bool = True
    clock_skew_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The receipt to send; ``is_replay``: it is that of an earlier, equal batch."""

    receipt: Mapping[str, object]
    is_replay: bool


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What became of the rows; ``hours``: those of runs that were put together."""

    counts: CopyCounts
    accepted: dict[str, int]
    hours: frozenset[datetime] = frozenset()


@dataclass(frozen=True, slots=True)
class _Judged:
    """A batch that is judged and scrubbed: all it takes to store it, now or later."""

    header: BatchHeader
    body: Body
    verdicts: Verdicts
    scrubbed: Scrubbed
    quarantined: list[QuarantinedText]
    received_at: datetime


_THROUGH_THE_VALVE: Final = frozenset({IngestBatch.Source.PUSH, IngestBatch.Source.OTLP})
"""Whoever loads a file or replays can wait for the database."""

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
    When the database is overloaded, steps 3 and 4 are the drainer's and the batch is spooled.
    Errors: IngestError batch_mismatch or unavailable, and what ``judge`` raises.
    """
    known = _replay_of(header, body)
    if known is not None:
        return known
    received_at = now()
    verdicts = judge(bounds_at(received_at))
    scrubbed = _scrubbed(verdicts)
    quarantined = [quarantined_text(line) for line in verdicts.refused[:MAX_QUARANTINED]]
    judged = _Judged(header, body, verdicts, scrubbed, quarantined, received_at)
    # Content is never at rest outside of its own tables: without room it waits on the agent.
    if header.source not in _THROUGH_THE_VALVE or scrubbed.content:
        return _store_now(judged)
    ways = Ways(lambda: _store_now(judged), lambda: _spool(judged), row_count=verdicts.received)
    return pass_batch(ways)


def _store_now(judged: _Judged) -> Outcome:
    """Steps 3 and 4 of ``receive_judged``."""
    try:
        return with_partitions(lambda ensure: _store_once(judged, ensure))
    except IntegrityError:
        known = _replay_of(judged.header, judged.body)  # a twin was spooled, without our lock
        if known is None:
            raise
        return known


def _store_once(judged: _Judged, ensure: Ensure) -> Outcome:
    header, body = judged.header, judged.body
    hours = prepare_hours(judged.scrubbed.rows, ensure, judged.scrubbed.traces)
    if judged.scrubbed.content:
        ensure_partitions(judged.scrubbed.content.partitions())
    with install_transaction(header.install_id, patience_ms=patience_ms()):
        refuse_erased(header.install_id)
        known = _replay_of(header, body)  # a twin may have committed while we waited
        if known is not None:
            return known
        stamp = Stamp(header.install_id, header.batch_id, judged.received_at, header.group_id)
        loaded = _load(judged.scrubbed, stamp)
        batch = _ledger_row(judged, loaded)
        touched = hours | loaded.hours if has_news(loaded.counts) else set()
        _note_hours(batch, touched)
        keep_beside(
            batch,
            judged.quarantined,
            stamp,
            touched,
            ledger.new_batch(batch),
            *_pushed(header, judged.received_at),
        )
    return Outcome(batch.receipt, is_replay=False)


def _spool(judged: _Judged) -> Outcome:
    """Steps 3 and 4 without the event tables: the ledger row, and all the rest in one row.

    Errors: IngestError batch_mismatch, or unavailable when the spool is full.
    """
    accepted = {name: len(rows) for name, rows in judged.scrubbed.rows.items() if rows}
    accepted |= Counter(item.kind for item in judged.scrubbed.summaries)
    if judged.scrubbed.traces:
        accepted[RUNS.name] = accepted.get(RUNS.name, 0) + len(judged.scrubbed.traces)
    batch = _ledger_row(judged, _Loaded(CopyCounts(), accepted), is_spooled=True)
    payload = Payload(
        rows=judged.scrubbed.rows,
        summaries=judged.scrubbed.summaries,
        quarantined=judged.quarantined,
        traces=judged.scrubbed.traces,
    )
    try:
        with transaction_lock(erasure_lock(batch.install_id)):
            refuse_erased(batch.install_id)
            limit_lock_waits(settings.FLEET_VALVE_SLOW_MS)
            batch.save(force_insert=True)
            put(batch, payload, judged.header.group_id)
            ledger.write(*_pushed(judged.header, judged.received_at))
    except IntegrityError:
        known = _replay_of(judged.header, judged.body)  # a twin was first
        if known is None:
            raise
        return known
    return Outcome(batch.receipt, is_replay=False)


def store_spooled(batch: IngestBatch, payload: Payload, stamp: Stamp, hours: set[datetime]) -> None:
    """Store what the spool holds of a ledger row's batch, in the caller's transaction.

    The caller holds the install's lock and deletes the spool's row. What the payload lacks of the
    rows that were acknowledged has expired meanwhile.
    """
    loaded = _load(Scrubbed(payload.rows, 0, payload.summaries, traces=payload.traces), stamp)
    counts = loaded.counts
    stored = counts.inserted + counts.merged + counts.duplicate
    batch.inserted_count = counts.inserted
    batch.merged_count = counts.merged
    batch.duplicate_count = counts.duplicate
    batch.expired_count, batch.spooled_count = batch.spooled_count - stored, 0
    batch.drained_at = stamp.received_at
    touched = hours | loaded.hours if has_news(counts) else set()
    _note_hours(batch, touched)
    batch.save(
        update_fields=[
            *("inserted_count", "merged_count", "duplicate_count"),
            *("expired_count", "spooled_count", "drained_at", "first_hour", "last_hour"),
        ]
    )
    keep_beside(batch, payload.quarantined, stamp, touched)


def prepare_hours(
    rows: Mapping[str, Sequence[Row]],
    ensure: Ensure = ensure_partitions,
    traces: Mapping[str, TraceFacts] | None = None,
) -> set[datetime]:
    """The hours that rows lie in; ``ensure`` makes the days that they and traces' runs lack."""
    found = {name: _hours_of(name, some) for name, some in rows.items()}
    lacking = {
        Partition(hour.date(), MODEL_OF[name].table_name())
        for name, hours in found.items()
        for hour in hours
    }
    lacking |= {
        Partition(day, MODEL_OF[RUNS.name].table_name())
        for day in {ns_to_datetime(facts.start_ns).date() for facts in (traces or {}).values()}
    }
    ensure(lacking)
    return set().union(*found.values())


def _note_hours(batch: IngestBatch, hours: set[datetime]) -> None:
    batch.first_hour, batch.last_hour = min(hours, default=None), max(hours, default=None)


def has_news(counts: CopyCounts) -> bool:
    """Whether anything is in the tables that was not there before."""
    return bool(counts.inserted or counts.merged)


def is_known(header: BatchHeader) -> bool:
    """Whether the ledger has the batch, whatever its content."""
    return ledger.find_batch(header.install_id, header.batch_id) is not None


def _judge_lines(header: BatchHeader, body: Body, bounds: TimeBounds) -> Verdicts:
    """The verdict on each line of a body."""
    if header.plane == "local":
        return validate_body(body.data, bounds)
    return judge_numbered(header, split_lines(body.data), bounds)


def judge_numbered(
    header: BatchHeader, lines: Sequence[tuple[int, bytes]], bounds: TimeBounds
) -> Verdicts:
    """The verdict on each numbered line, by the rules of its plane."""
    if header.plane == "aggregate":
        return judge_summaries(lines, bounds, install_id=header.install_id)
    if header.plane == "trajectories":
        return judge_content(lines, bounds, pii=header.content_pii)
    return validate_lines(lines, bounds, plane=header.plane)


def _scrubbed(verdicts: Verdicts) -> Scrubbed:
    """What may be stored of the accepted."""
    if verdicts.content:
        content = verdicts.content
        return Scrubbed({}, content.hit_count, content=content)
    if verdicts.summaries:
        return scrub_summaries(verdicts.summaries)
    return scrub_rows(verdicts.rows, verdicts.traces)


def _replay_of(header: BatchHeader, body: Body) -> Outcome | None:
    known = ledger.find_batch(header.install_id, header.batch_id)
    if known is None:
        return None
    refuse_erased(header.install_id)
    if known.content_sha256 != body.content_sha256 or known.plane != header.plane:
        raise IngestError("batch_mismatch", "the batch id was used for other content")
    return Outcome(_ordered(known.receipt), is_replay=True)


def _ordered(receipt: Mapping[str, object]) -> dict[str, object]:
    """One order of keys, whatever the database makes of JSON: a repeat gets the same bytes."""
    ordered = json.loads(canonical_json(dict(receipt)))
    assert isinstance(ordered, dict)  # noqa: S101 -- a receipt is an object
    return ordered


def bounds_at(moment: datetime) -> TimeBounds:
    """The times that are accepted at a moment."""
    return TimeBounds(
        oldest_ns=datetime_to_ns(accepted_from(moment)),
        newest_ns=datetime_to_ns(moment + timedelta(seconds=wire.MAX_FUTURE_S)),
    )


def _hours_of(name: str, rows: Iterable[Row]) -> set[datetime]:
    """The UTC hours in which rows of a table begin."""
    table = BY_NAME[name]
    at = table.column_names().index(table.time)
    times_ns = cast("list[int]", [row[at] for row in rows])  # required: all are int
    hours = {time_ns // NS_PER_HOUR for time_ns in times_ns}
    return {ns_to_datetime(hour * NS_PER_HOUR) for hour in hours}


def keep_beside(
    batch: IngestBatch,
    quarantined: Sequence[QuarantinedText],
    stamp: Stamp,
    hours: Iterable[datetime],
    *more: ledger.Statement,
) -> None:
    """What goes with the rows of a batch: its refused lines, its hours, its install's sums.

    ``more`` is written in the same round trip, before them.
    """
    if quarantined:
        QuarantinedLine.objects.bulk_create(
            QuarantinedLine(
                install_id=batch.install_id,
                batch_id=batch.batch_id,
                plane=batch.plane,
                line=refused.line,
                code=refused.code,
                detail=refused.detail,
                raw_text=refused.text,
                is_replayable=refused.is_replayable,
                received_at=batch.received_at,
            )
            for refused in quarantined
        )
    ledger.write(*more, *ledger.touched_hours(stamp, hours), ledger.intake_of(batch))
    if batch.losses:
        ledger.add_losses(batch)


def _pushed(header: BatchHeader, received_at: datetime) -> list[ledger.Statement]:
    """That the install pushed, and what the owner's opt-in is now, where the batch says it."""
    if header.source == IngestBatch.Source.REPLAY:  # the install has no part in it
        return []
    said = header.consent.get("consent_state")
    is_known_state = isinstance(said, str) and said in KEYS["telemetry.consent_state"].choices
    state = str(said) if is_known_state else ""
    return [ledger.last_push(header.install_id, received_at, consent_state=state)]


def _load(scrubbed: Scrubbed, stamp: Stamp) -> _Loaded:
    if scrubbed.content:
        return _Loaded(*store_content(scrubbed.content, stamp))
    if scrubbed.summaries:
        return _Loaded(*store_summaries(scrubbed.summaries, stamp))
    counts = copy_batch(scrubbed.columns_by_table(), stamp)
    hours: frozenset[datetime] = frozenset()
    if scrubbed.traces:
        has_duplicates = any(found.duplicate for found in counts.values())
        runs = settle_traces(scrubbed.traces, scrubbed.rows, stamp, has_duplicates=has_duplicates)
        counts[RUNS.name] = _sum_of([counts.get(RUNS.name, CopyCounts()), runs.counts])
        hours = runs.hours
    accepted = {
        name: found.inserted + found.merged
        for name, found in counts.items()
        if found.inserted + found.merged
    }
    return _Loaded(_sum_of(counts.values()), accepted, hours)


def _sum_of(counts: Iterable[CopyCounts]) -> CopyCounts:
    found = list(counts)
    return CopyCounts(
        inserted=sum(some.inserted for some in found),
        merged=sum(some.merged for some in found),
        duplicate=sum(some.duplicate for some in found),
    )


def _receipt(judged: _Judged, loaded: _Loaded, *, is_spooled: bool) -> wire.Receipt:
    header, verdicts = judged.header, judged.verdicts
    listed = verdicts.refused[: wire.MAX_REJECTED_LISTED]
    return wire.Receipt(
        batch_id=str(header.batch_id),
        received=verdicts.received,
        accepted=loaded.accepted,
        duplicates=loaded.counts.duplicate,
        rejected=tuple(wire.Rejection(line.line, line.code, line.detail) for line in listed),
        rejected_counts=dict(Counter(line.code for line in verdicts.refused)),
        policy_etag=header.policy_etag,
        spooled=is_spooled,
    )


def _ledger_row(judged: _Judged, loaded: _Loaded, *, is_spooled: bool = False) -> IngestBatch:
    header, body, verdicts = judged.header, judged.body, judged.verdicts
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
        spooled_count=sum(loaded.accepted.values()) if is_spooled else 0,
        quarantined_count=len(judged.quarantined),
        scrubbed_count=judged.scrubbed.hit_count,
        ruleset_version=judged.scrubbed.ruleset,
        receipt=_ordered(_receipt(judged, loaded, is_spooled=is_spooled).to_dict()),
        consent=dict(header.consent),
        losses={scrub_text(reason): count for reason, count in header.losses.items()},
        first_seq=header.first_seq,
        last_seq=header.last_seq,
        clock_skew_ms=clock_skew_ms(header.batch_id)
        if header.clock_skew_ms is None
        else header.clock_skew_ms,
        received_at=judged.received_at,
    )


def clock_skew_ms(batch_id: UUID) -> int | None:
    """The agent's clock minus ours, from the batch id; None when it is no UUIDv7 (RFC 9562)."""
    if batch_id.version != 7:
        return None
    return (batch_id.int >> 80) - datetime_to_ns(now()) // 1_000_000
