"""What is held of some installs: counted row by row, and deleted for good with its cells.

Deleting is for installs that never were: a simulated crowd. Every hour that loses rows is marked to
be made again as a whole, so that no cell remembers them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from django.apps import apps
from django.db import models, transaction
from django.db.models import Count, F, Value
from django.db.models.functions import Cast, Concat, TruncHour

from agent_client.contract.tables import BY_NAME
from fleet.lib.clock import now
from telemetry.models import TouchedHour
from telemetry.models.events import MODEL_OF

CHUNK: Final = 200
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


def remove_held(install_ids: Sequence[UUID]) -> int:
    """Delete everything held of installs; how many rows of events. Safe to kill and run again."""
    removed = 0
    for some in _chunks(install_ids):
        with transaction.atomic():
            hours: set[datetime] = set()
            for model in MODEL_OF.values():
                found = model._default_manager.filter(install_id__in=some)  # noqa: SLF001 -- as above
                hours.update(
                    found.annotate(at=TruncHour("start_at")).values_list("at", flat=True).distinct()
                )
                removed += found._raw_delete(found.db)  # noqa: SLF001 -- no signals, no cascades: rows have neither
            for other in _others():
                other._default_manager.filter(install_id__in=some).delete()  # noqa: SLF001 -- as above
            TouchedHour.objects.bulk_create(
                TouchedHour(hour=hour, touched_at=now()) for hour in sorted(hours)
            )
    return removed


def _others() -> Iterator[type[models.Model]]:
    """Every other model of ours that names an install: ledger, quarantine, sums, cells, touches."""
    events = set(MODEL_OF.values())
    for model in apps.get_app_config("telemetry").get_models():
        names = {field.attname for field in model._meta.concrete_fields}
        if "install_id" in names and model not in events:
            yield model


def _chunks(install_ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(install_ids), CHUNK):
        yield install_ids[start : start + CHUNK]
