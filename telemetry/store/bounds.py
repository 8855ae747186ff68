"""What bounds every table that could grow: a retention, a fixed number, or a reason to keep it.

A test fails when a model has no entry here, so that nobody adds a table that only ever grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import batched
from typing import Final, Literal

from django.apps import apps
from django.conf import settings
from django.db import connection

from fleet.lib.clock import now
from fleet.models import SEEN_DAYS, STALE_DAYS
from telemetry.models import EVENT_MODELS, IngestBatch, ReplacedRun, SpooledBatch

LEDGER_MARGIN: Final = timedelta(days=7)
"""A batch is known this long after its last row could still be taken in. From then on a repeat of
it has only rows that are too old, so that nothing can be stored twice without the ledger."""
CHUNK: Final = 5_000
"""Rows of one step: the first prune of a year's ledger must not hold locks for minutes."""
MAX_CHUNKS: Final = 200
"""A million rows an hour; what is left goes with the next round."""

Kind = Literal["retention", "bounded", "kept"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Why a table does not grow for ever, or why it may. ``text`` is for an operator."""

    kind: Kind
    text: str


_ROWS: Final = Bound("retention", "FLEET_RETENTION_DAYS after the row's time, once it is summed up")
_CONTENT: Final = Bound("retention", "FLEET_CONTENT_RETENTION_DAYS after the row's time")
_CELLS: Final = Bound("retention", "of hours FLEET_HOURLY_DAYS, of days FLEET_DAILY_DAYS")
_PEOPLE: Final = Bound("bounded", "made by people")
_DAILY: Final = Bound("retention", f"{STALE_DAYS} days")

BOUNDS: Final[Mapping[str, Bound]] = {
    **{model._meta.label: _ROWS for model in EVENT_MODELS},
    "telemetry.ContentSession": _CONTENT,
    "telemetry.ContentMessage": _CONTENT,
    "telemetry.AggregateRecord": Bound("retention", "FLEET_RETENTION_DAYS after the run's end"),
    "telemetry.IngestBatch": Bound(
        "retention",
        f"FLEET_RETENTION_DAYS and {LEDGER_MARGIN.days + 1} days after it came in: until no row of "
        "it could be taken in again",
    ),
    "telemetry.QuarantinedLine": Bound("retention", "FLEET_RETENTION_DAYS after it came in"),
    "telemetry.QuarantineJob": _PEOPLE,
    "telemetry.ExportJob": Bound("retention", "FLEET_RETENTION_DAYS after its result expired"),
    "telemetry.ExportFile": Bound("retention", "with its export"),
    "telemetry.ExportSchedule": _PEOPLE,
    "telemetry.ExportDestination": _PEOPLE,
    "telemetry.FeedEntry": Bound("retention", "with the ledger, once every relay has passed it"),
    "telemetry.RelayDestination": _PEOPLE,
    "telemetry.RelayCursor": Bound("bounded", "three a collector"),
    "telemetry.Stream": _PEOPLE,
    "telemetry.DeadLetter": Bound("retention", "FLEET_RETENTION_DAYS; FLEET_DEAD_LETTER_MAX_BYTES"),
    "telemetry.AlertEvent": Bound("retention", "FLEET_DAILY_DAYS, once it is over"),
    "telemetry.AlertWatch": Bound("bounded", "one a state that changes, for two minutes"),
    "telemetry.ReplacedRun": Bound("retention", "when the sums know of it; FLEET_RETENTION_DAYS"),
    "telemetry.TouchedHour": Bound("bounded", "gone when its hour is summed up, within seconds"),
    "telemetry.SpooledBatch": Bound("bounded", "FLEET_SPOOL_MAX_BYTES and FLEET_SPOOL_MAX_ROWS"),
    "telemetry.ClosedPlane": Bound("bounded", "three an install"),
    "telemetry.InstallIntake": Bound("bounded", "one an install"),
    "telemetry.OtlpTrace": Bound("retention", "when no span of it is awaited any more"),
    "telemetry.InstallBoard": Bound("bounded", "one a window and group"),
    "telemetry.FillState": Bound("retention", "FLEET_DAILY_DAYS, one an hour"),
    "telemetry.FirstSeen": Bound("bounded", "20,000 names a kind, each cut at 200 characters"),
    **{
        f"telemetry.{name}": _CELLS
        for name in (
            *("RunsCell", "CostsCell", "ModelCallsCell", "ToolCallsCell", "ErrorsCell"),
            *("HistogramCell", "InstallCell"),
        )
    },
    "fleet.ChangeRecord": Bound("kept", "the audit trail: a row missing breaks its chain"),
    "fleet.Erasure": Bound("kept", "tombstones: without one, what was erased could come back"),
    "fleet.ErasedCredential": Bound("kept", "part of a tombstone"),
    "fleet.Install": Bound("bounded", "one an enrollment; erased by a person"),
    "fleet.CheckInRecord": Bound("bounded", "two an install"),
    "fleet.InstallPolicy": Bound("bounded", "one an install"),
    "fleet.InstallBundle": Bound("bounded", "one an install and published change"),
    "fleet.InstallCredential": Bound("bounded", "one an enrollment or rotation"),
    "fleet.EnrollmentRequest": _DAILY,
    "sessions.Session": Bound("retention", "when it has ended"),
    "axes.AccessLog": _DAILY,
    "axes.AccessAttempt": _DAILY,
    "axes.AccessFailureLog": _DAILY,
    "axes.AccessAttemptExpiration": _DAILY,
    "admin.LogEntry": _PEOPLE,
    "auth.User": _PEOPLE,
    "auth.Group": _PEOPLE,
    "auth.Permission": Bound("bounded", "a few a model"),
    "contenttypes.ContentType": Bound("bounded", "one a model"),
    "fleet.EnrollmentToken": _PEOPLE,
    "fleet.InstallGroup": _PEOPLE,
    "fleet.Pin": _PEOPLE,
    "fleet.PolicyRevision": _PEOPLE,
    "fleet.PolicyBundle": _PEOPLE,
    "fleet.PolicyTarget": _PEOPLE,
    "fleet.Fleet": Bound("bounded", "one"),
    "fleet.ProcessBeat": Bound("bounded", "one a kind of process"),
    "fleet.ProcessSeen": Bound("retention", f"{SEEN_DAYS} day after it was last seen"),
    "fleet.TaskRun": Bound("bounded", "one a periodic task"),
}


def lines() -> list[str]:
    """Every table of ours with what bounds it, for a terminal."""
    shown = []
    for label, bound in sorted(BOUNDS.items()):
        table = apps.get_model(label)._meta.db_table
        shown.append(f"{bound.kind:<9} {table}: {bound.text}")
    return shown


def ledger_kept_from(moment: datetime, unfinished: frozenset[date] = frozenset()) -> datetime:
    """The oldest time of arrival that the ledger keeps.

    A row begins at most a day after its batch came in; so a batch is needed while a row that
    began a day later may still be taken in, repeated, or is held for its rollups.
    """
    oldest = moment - timedelta(days=settings.FLEET_RETENTION_DAYS + 1) - LEDGER_MARGIN
    held = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in unfinished]
    return min([oldest, *(at - timedelta(days=1) for at in held)])


def prune_books(unfinished: frozenset[date]) -> int:
    """Drop ledger rows that nobody can ask for again, and replaced runs left over; how many."""
    moment = now()
    waiting = SpooledBatch.objects.values("batch_id")  # acknowledged, and still without their rows
    before = ledger_kept_from(moment, unfinished)
    ledger = IngestBatch.objects.filter(received_at__lt=before).exclude(batch_id__in=waiting)
    # Without what a run was before, a fold that comes late would not take it out of the cells.
    oldest = moment - timedelta(days=settings.FLEET_RETENTION_DAYS + 2)
    waited_for = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in unfinished]
    replaced = ReplacedRun.objects.filter(start_at__lt=min([oldest, *waited_for]))
    return _delete(IngestBatch, ledger) + _delete(ReplacedRun, replaced)


def _delete(model: type[IngestBatch | ReplacedRun], rows: object) -> int:
    """Delete a query's rows in steps of their own transactions."""
    deleted = 0
    query = rows.order_by("pk").values_list("pk", flat=True)  # type: ignore[attr-defined]  # a queryset of either
    for _round in range(MAX_CHUNKS):
        keys = list(query[:CHUNK])
        for some in batched(keys, 500):
            found = model._default_manager.filter(pk__in=some)  # noqa: SLF001 -- the documented way from a model class
            deleted += found._raw_delete(connection.alias)  # noqa: SLF001 -- one DELETE: nothing points here
        if len(keys) < CHUNK:
            break
    return deleted
