"""receive_batch(): one batch, one transaction, one receipt.

Acknowledged = committed: the ledger row with the receipt, the event rows, the touched hours and
the install's running sums share one transaction, and the receipt is returned after its commit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from agent_client.contract import wire
from agent_client.contract.canonical import canonical_json
from agent_client.contract.policy_keys import KEYS
from agent_client.contract.tables import BY_NAME, RUNS
from fleet.lib.clock import datetime_to_ns, now, ns_to_datetime
from fleet.models import Install
from telemetry.ingest.decode import Body, IngestError, split_lines
from telemetry.ingest.scrub import Scrubbed, scrub_raw, scrub_rows, scrub_summaries, scrub_text
from telemetry.ingest.summaries import judge_summaries
from telemetry.ingest.validate import Refused, TimeBounds, Verdicts, validate_lines
from telemetry.models import IngestBatch, InstallIntake, QuarantinedLine, TouchedHour
from telemetry.models.events import MODEL_OF
from telemetry.models.rollups import NO_GROUP
from telemetry.store.copy import CopyCounts, Row, Stamp, copy_rows
from telemetry.store.locks import install_transaction
from telemetry.store.partitions import Partition, ensure_partitions
from telemetry.store.retention import accepted_from
from telemetry.store.summaries import store_summaries

MAX_QUARANTINED: Final = 1000
"""Lines kept of one batch (4 MB at most); the counts by code are complete all the same."""
NS_PER_HOUR: Final = 3_600_000_000_000
MAX_LOSS_REASONS: Final = 50
"""Reasons are a closed list on the agent; a hostile one must not grow our rows without bound."""


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

    def with_runs(self, more: CopyCounts) -> _Loaded:
        """The same with the runs that were settled."""
        counts = CopyCounts(
            self.counts.inserted + more.inserted,
            self.counts.merged + more.merged,
            self.counts.duplicate + more.duplicate,
        )
        stored = more.inserted + more.merged
        if not stored:
            return _Loaded(counts, self.accepted)
        runs = self.accepted.get(RUNS.name, 0) + stored
        return _Loaded(counts, {**self.accepted, RUNS.name: runs})


type Judge = Callable[[TimeBounds], Verdicts]
"""Gives the verdict on everything in a batch, within the times that are accepted now."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the runs that could only be made beside those stored before."""

    counts: CopyCounts = field(default_factory=CopyCounts)
    hours: frozenset[datetime] = frozenset()


type Settle = Callable[[Stamp, CopyCounts], Settled]
"""Stores such runs, inside the transaction and after the rows, whose counts it is given."""


def receive_batch(header: BatchHeader, body: Body) -> Outcome:
    """Take in one batch of NDJSON, or answer a repeated one with its receipt.

    Errors: IngestError too_many_lines, batch_mismatch.
    """
    return receive_judged(header, body, lambda bounds: _judge_lines(header, body, bounds))


def receive_judged(
    header: BatchHeader, body: Body, judge: Judge, settle: Settle | None = None
) -> Outcome:
    """Take in one batch whose rows ``judge`` finds, or answer a repeated one with its receipt.

    Steps: 1. a known batch id is answered from the ledger, 2. the content is judged and scrubbed,
    3. day partitions that its rows lack are made, 4. one transaction stores everything; ``settle``
    adds runs there.
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
    hours_by_table = {name: _hours_of(name, rows) for name, rows in scrubbed.rows.items()}
    ensure_partitions(
        {
            Partition(hour.date(), MODEL_OF[name].table_name())
            for name, found in hours_by_table.items()
            for hour in found
        }
    )
    hours = frozenset[datetime]().union(*hours_by_table.values())
    with install_transaction(header.install_id):
        known = _replay_of(header, body)  # a twin may have committed while we waited
        if known is not None:
            return known
        stamp = Stamp(header.install_id, header.batch_id, received_at, header.group_id)
        loaded = _load(scrubbed, stamp)
        if settle is not None:
            settled = settle(stamp, loaded.counts)
            loaded, hours = loaded.with_runs(settled.counts), hours | settled.hours
        return _store(header, body, verdicts, scrubbed, loaded, quarantined, hours, received_at)


def _judge_lines(header: BatchHeader, body: Body, bounds: TimeBounds) -> Verdicts:
    """The verdict on each line."""
    lines = split_lines(body.data)
    if header.plane == "aggregate":
        return judge_summaries(lines, bounds, install_id=header.install_id)
    return validate_lines(lines, bounds, plane=header.plane)


def _scrubbed(verdicts: Verdicts) -> Scrubbed:
    """What may be stored of the accepted."""
    if verdicts.summaries:
        return scrub_summaries(verdicts.summaries)
    return scrub_rows(verdicts.rows)


def _replay_of(header: BatchHeader, body: Body) -> Outcome | None:
    known = IngestBatch.objects.filter(
        install_id=header.install_id, batch_id=header.batch_id
    ).first()
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


def _hours_of(name: str, rows: Iterable[Row]) -> set[datetime]:
    """The UTC hours in which rows of a table begin."""
    table = BY_NAME[name]
    at = table.column_names().index(table.time)
    hours = {time_ns // NS_PER_HOUR for row in rows if isinstance(time_ns := row[at], int)}
    return {ns_to_datetime(hour * NS_PER_HOUR) for hour in hours}


def _store(
    header: BatchHeader,
    body: Body,
    verdicts: Verdicts,
    scrubbed: Scrubbed,
    loaded: _Loaded,
    quarantined: list[tuple[Refused, str]],
    hours: Iterable[datetime],
    received_at: datetime,
) -> Outcome:
    """What is noted of a batch beside its rows, inside the caller's transaction."""
    receipt = _ordered(_receipt(header, verdicts, loaded).to_dict())
    batch = _ledger_row(header, body, verdicts, scrubbed, loaded)
    batch.quarantined_count = len(quarantined)
    batch.receipt = receipt
    batch.received_at = received_at
    batch.save(force_insert=True)
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
    if loaded.counts.inserted or loaded.counts.merged:
        TouchedHour.objects.bulk_create(
            TouchedHour(
                hour=hour,
                touched_at=received_at,
                install_id=header.install_id,
                batch_id=header.batch_id,
            )
            for hour in sorted(hours)
        )
    _add_to_intake(batch)
    Install.objects.filter(pk=header.install_id).update(
        last_push_at=received_at, **_consent_of(header)
    )
    return Outcome(receipt, is_replay=False)


def _consent_of(header: BatchHeader) -> dict[str, str]:
    """What the owner's opt-in is now, as the batch says; nothing where it says nothing we know."""
    said = header.consent.get("consent_state")
    known = KEYS["telemetry.consent_state"].choices
    return {"consent_state": said} if isinstance(said, str) and said in known else {}


def _load(scrubbed: Scrubbed, stamp: Stamp) -> _Loaded:
    if scrubbed.summaries:
        return _Loaded(*store_summaries(scrubbed.summaries, stamp))
    inserted = merged = duplicate = 0
    accepted: dict[str, int] = {}
    for name, found in scrubbed.rows.items():
        counts = copy_rows(BY_NAME[name], found, stamp)
        inserted += counts.inserted
        merged += counts.merged
        duplicate += counts.duplicate
        if counts.inserted + counts.merged:
            accepted[name] = counts.inserted + counts.merged
    return _Loaded(CopyCounts(inserted, merged, duplicate), accepted)


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


def _add_to_intake(batch: IngestBatch) -> None:
    """Add a batch to its install's running sums; the install's lock makes read-add-write safe."""
    intake, _ = InstallIntake.objects.get_or_create(install_id=batch.install_id)
    losses = Counter(intake.losses)
    losses.update(batch.losses)
    intake.losses = dict(losses.most_common(MAX_LOSS_REASONS))
    intake.batch_count += 1
    intake.stored_count += batch.inserted_count
    intake.duplicate_count += batch.duplicate_count
    intake.rejected_count += batch.rejected_count
    intake.scrubbed_count += batch.scrubbed_count
    intake.lost_count += sum(batch.losses.values())
    if batch.plane == "local":  # a summary's seq is its run's, and comes later than its rows
        intake.last_seq = max(
            (seq for seq in (intake.last_seq, batch.last_seq) if seq is not None), default=None
        )
    if batch.clock_skew_ms is not None:
        intake.clock_skew_ms = batch.clock_skew_ms
    intake.last_batch_at = batch.received_at
    intake.save()
