"""What is held of some installs: counted row by row, and deleted for good with its cells.

Deleting is for installs that never were: a simulated crowd. It leaves no tombstone, so that the
same crowd may come again; a person's data is erased by ``erase``. Every hour that loses rows is
marked to be made again as a whole, so that no cell remembers them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from django.db import models
from django.db.models import Count, F, Sum, Value
from django.db.models.functions import Cast, Concat

from agent_client.contract.tables import BY_NAME
from fleet.lib.clock import now
from telemetry.models import FirstSeen, SpooledBatch, TouchedHour
from telemetry.models.events import MODEL_OF
from telemetry.store.erase import erasable_models, restore_first_seen
from telemetry.store.locks import install_transaction

CHUNK: Final = 100
"""Installs a query: a transaction that deletes them stays short, and SQLite takes the list."""


@dataclass(frozen=True, slots=True)
class Held:
    """Rows of one event table; ``distinct`` counts each id of each install once."""

    rows: int
    distinct: int


def count_held(install_ids: Sequence[UUID], mark: str = "") -> dict[str, Held]:
    """Rows held by table, of installs and with ids that begin with ``mark``."""
    counted: dict[str, Held] = {}
    for name, model in MODEL_OF.items():
        key = BY_NAME[name].key
        rows = distinct = 0
        for some in _chunks(install_ids):
            found = model._default_manager.filter(install_id__in=some)  # noqa: SLF001 -- the documented way from a model class
            if mark:
                found = found.filter(**{f"{key}__startswith": mark})
            whole = Concat(
                Cast("install_id", models.CharField()),
                Value("/"),
                F(key),
                output_field=models.CharField(),
            )
            sums = found.aggregate(rows=Count("*"), distinct=Count(whole, distinct=True))
            rows, distinct = rows + sums["rows"], distinct + sums["distinct"]
        counted[name] = Held(rows, distinct)
    return counted


def count_spooled(install_ids: Sequence[UUID]) -> int:
    """Acknowledged rows of installs that wait in the spool and are in no event table yet."""
    waiting = (
        SpooledBatch.objects.filter(install_id__in=some).aggregate(rows=Sum("row_count"))["rows"]
        for some in _chunks(install_ids)
    )
    return sum(rows or 0 for rows in waiting)


def remove_held(install_ids: Sequence[UUID]) -> int:
    """Delete everything held of installs; how many rows of events. Safe to kill and run again.

    Nothing of an install may be written meanwhile: its credentials have to be gone before.
    """
    return sum(_remove(some) for some in _chunks(install_ids))


def _remove(install_ids: Sequence[UUID]) -> int:
    with ExitStack() as locks:
        for install_id in sorted(install_ids):
            locks.enter_context(install_transaction(install_id))
        hours: set[datetime] = set()
        removed = 0
        for model in MODEL_OF.values():
            found = model._default_manager.filter(install_id__in=install_ids)  # noqa: SLF001 -- the documented way from a model class
            hours.update(found.datetimes("start_at", "hour", tzinfo=UTC))
            removed += found._raw_delete(found.db)  # noqa: SLF001 -- no signals, no cascades: rows have neither
        # Where a fold waits, the cells may hold a run that began elsewhere since.
        waiting = TouchedHour.objects.filter(install_id__in=install_ids)
        hours.update(hour.astimezone(UTC) for hour in waiting.values_list("hour", flat=True))
        seen = list(FirstSeen.objects.filter(install_id__in=install_ids))
        for other in erasable_models():
            rows = other._default_manager.filter(install_id__in=install_ids)  # noqa: SLF001 -- as above
            rows._raw_delete(rows.db)  # noqa: SLF001 -- as above
        restore_first_seen(seen)
        TouchedHour.objects.bulk_create(
            TouchedHour(hour=hour, touched_at=now()) for hour in sorted(hours)
        )
    return removed


def _chunks(install_ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(install_ids), CHUNK):
        yield install_ids[start : start + CHUNK]
