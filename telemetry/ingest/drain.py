"""drain(): what the spool holds, into the event tables, each batch once.

Steps for each batch: 1. the oldest of an install is claimed and its try counted, 2. the partitions
that it lacks are made, 3. one transaction takes its spool row and its install's lock, stores the
rows, corrects the ledger and deletes the spool row. Death anywhere costs a try and nothing else;
after the commit there is nothing to do twice. Batches of one install follow each other; several
drainers take different installs.

What fails for its own sake is tried again, later each time, and then set aside with its reason; the
rest goes on. What fails because the database is away, locked or full costs no try.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.db.models import Exists, F, OuterRef

from agent_client.contract.tables import BY_NAME
from fleet.lib.clock import datetime_to_ns, now
from telemetry.ingest.receive import prepare_hours, store_spooled
from telemetry.ingest.scrub import scrub_text
from telemetry.ingest.spool import Payload, unpack
from telemetry.models import IngestBatch, SpooledBatch
from telemetry.store.copy import Row, Stamp
from telemetry.store.locks import try_install_lock
from telemetry.store.retention import keep_from

logger = structlog.get_logger(__name__)
BUDGET_S: Final = 20.0
"""One task: long enough to be worth it, short enough to be stopped politely."""
MAX_TRIES: Final = 5
FIRST_PAUSE: Final = timedelta(seconds=5)
MAX_ERROR_CHARS: Final = 200
DIED: Final = "the worker died over it each time"


@dataclass(frozen=True, slots=True)
class Drained:
    """What one round did."""

    batch_count: int = 0
    row_count: int = 0
    failed_count: int = 0


def drain(*, budget_s: float = BUDGET_S) -> Drained:
    """Store what is spooled, oldest first, for at most so long.

    Errors: DatabaseError when the database is away; nothing is lost by it.
    """
    deadline_s = time.monotonic() + budget_s
    passed_over: set[UUID] = set()
    batch_count = row_count = failed_count = 0
    while time.monotonic() < deadline_s:
        claimed = _claim(passed_over)
        if claimed is None:
            break
        try:
            stored = _store(claimed)
        except (OperationalError, InterfaceError) as error:
            _put_back(claimed, error, is_counted=False)
            passed_over.add(claimed.install_id)
            failed_count += 1
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with it, the others go on
            _put_back(claimed, error, is_counted=True)
            passed_over.add(claimed.install_id)
            failed_count += 1
        else:
            if stored is None:  # another has it, or its install pushes just now
                _uncount(claimed)
                passed_over.add(claimed.install_id)
                continue
            batch_count += 1
            row_count += stored
    return Drained(batch_count, row_count, failed_count)


def try_again(pk: int) -> bool:
    """Give a batch that was set aside its tries back; whether there was such a batch."""
    return bool(
        SpooledBatch.objects.filter(pk=pk, set_aside_at__isnull=False).update(
            set_aside_at=None, attempts=0, not_before=now()
        )
    )


def _claim(passed_over: set[UUID]) -> SpooledBatch | None:
    """The oldest batch whose install has no older one, its try counted; without its payload."""
    waiting = SpooledBatch.objects.filter(set_aside_at=None)
    if not waiting.exists():  # on SQLite a transaction would take the only writer's place
        return None
    older = waiting.filter(install_id=OuterRef("install_id"), pk__lt=OuterRef("pk"))
    with transaction.atomic():
        claimed = (
            waiting.filter(~Exists(older), not_before__lte=now())
            .exclude(install_id__in=passed_over)
            .select_for_update(skip_locked=True)
            .defer("payload")
            .order_by("pk")
            .first()
        )
        if claimed is None:
            return None
        mine = SpooledBatch.objects.filter(pk=claimed.pk)
        if claimed.attempts < MAX_TRIES:
            mine.update(attempts=F("attempts") + 1)
            return claimed
        # Each try was begun and none came back to say why: it takes its worker with it.
        mine.update(set_aside_at=now(), last_error=claimed.last_error or DIED)
    logger.error("spooled_batch_failed", batch_id=str(claimed.batch_id), is_aside=True)
    return _claim(passed_over)


def _store(claimed: SpooledBatch) -> int | None:
    """Steps 2 and 3; the rows stored, None when somebody else is at it."""
    data = SpooledBatch.objects.filter(pk=claimed.pk).values_list("payload", flat=True).first()
    if data is None:
        return None
    moment = now()
    payload = _without_expired(unpack(bytes(data)), moment)
    hours = prepare_hours(payload.rows, traces=payload.traces)
    stamp = Stamp(claimed.install_id, claimed.batch_id, moment, claimed.group_id)
    with transaction.atomic():
        mine = SpooledBatch.objects.select_for_update(skip_locked=True).defer("payload")
        if mine.filter(pk=claimed.pk).first() is None or not try_install_lock(claimed.install_id):
            return None
        batch = IngestBatch.objects.get(install_id=claimed.install_id, batch_id=claimed.batch_id)
        store_spooled(batch, payload, stamp, hours)
        # Its rows are there from now on: the feed numbers it (again).
        IngestBatch.objects.filter(pk=batch.pk).update(is_fed=False)
        SpooledBatch.objects.filter(pk=claimed.pk).delete()
    return batch.received_count - batch.rejected_count


def _without_expired(payload: Payload, moment: datetime) -> Payload:
    """What of it is not older than the oldest day that is kept: its partition may be gone."""
    day = keep_from(moment)
    oldest_ns = datetime_to_ns(datetime(day.year, day.month, day.day, tzinfo=UTC))
    return Payload(
        rows={name: _since(oldest_ns, name, rows) for name, rows in payload.rows.items()},
        summaries=[item for item in payload.summaries if item.occurred_ns >= oldest_ns],
        quarantined=payload.quarantined,
        traces={run: told for run, told in payload.traces.items() if told.start_ns >= oldest_ns},
    )


def _since(oldest_ns: int, name: str, rows: list[Row]) -> list[Row]:
    table = BY_NAME[name]
    at = table.column_names().index(table.time)
    return [row for row in rows if isinstance(begin_ns := row[at], int) and begin_ns >= oldest_ns]


def _uncount(claimed: SpooledBatch) -> None:
    SpooledBatch.objects.filter(pk=claimed.pk, attempts__gt=0).update(attempts=F("attempts") - 1)


def _put_back(claimed: SpooledBatch, error: Exception, *, is_counted: bool) -> None:
    """Note why it failed, and when or whether it is tried again."""
    attempts = claimed.attempts + 1
    is_last = is_counted and attempts >= MAX_TRIES
    moment = now()
    SpooledBatch.objects.filter(pk=claimed.pk).update(
        attempts=attempts if is_counted else F("attempts") - 1,
        last_error=_kind_of(error),
        not_before=moment + FIRST_PAUSE * 2 ** (min(attempts, MAX_TRIES) - 1),
        set_aside_at=moment if is_last else None,
    )
    log = logger.error if is_last else logger.warning
    log("spooled_batch_failed", batch_id=str(claimed.batch_id), attempts=attempts, is_aside=is_last)


def _kind_of(error: Exception) -> str:
    """What went wrong, without a value of a row: a database quotes them in its messages."""
    name = type(error).__name__
    if isinstance(error, DatabaseError):
        cause = error.__cause__
        where = getattr(getattr(cause, "diag", None), "constraint_name", None)
        parts = [name, getattr(cause, "sqlstate", None), where]
        return " ".join(part for part in parts if part)[:MAX_ERROR_CHARS]
    return scrub_text(f"{name}: {error}")[:MAX_ERROR_CHARS]
