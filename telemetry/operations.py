"""What telemetry adds to doctor, to the checks before an upgrade, and to a restore."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.apps import apps
from django.utils.translation import ngettext

from fleet.lib.clock import now
from fleet.ops import hooks
from fleet.ops.hooks import Finding, Stated
from telemetry.ingest.spool import spool_state
from telemetry.models import (
    EVENT_MODELS,
    ExportDestination,
    ExportJob,
    ExportSchedule,
    IngestBatch,
    QuarantinedLine,
    RelayCursor,
    RelayDestination,
    Stream,
)
from telemetry.models.content import CONTENT_MODELS
from telemetry.rollup.lag import failed_batches, lag_s
from telemetry.store.retention import current_plan

QUARANTINE_WARN: Final = 1_000
"""Lines a day: a few are agents of odd versions, a thousand are one that is broken."""
BACKLOG_WARN_S: Final = 120.0
STATED: Final = {
    "0001_events": Stated("online", "makes the first tables of events"),
    "0002_spans_and_happenings": Stated("online", "makes tables of further events"),
    "0004_stamps": Stated("window", "indexes of the tables of events are made under a lock"),
    "0005_valve": Stated("window", "indexes of the ledger are made under its lock"),
    "0006_content": Stated("online", "makes the tables of content"),
    "0007_cells": Stated("window", "moves all hourly sums, while no worker may fold"),
    "0010_drop_hourly": Stated("window", "takes away the tables that release 0006 fills"),
}
"""Migrations that run SQL of their own, or that are risky and were let through, and why."""


def register_operations() -> None:
    """Register what this module knows; called once by the app."""
    hooks.register_after_restore("leases", free_leases)
    hooks.register_for_rehearsal("outward", switch_off_what_sends)
    hooks.register_before_upgrade("backlog", look_at_backlog)
    hooks.register_doctor("telemetry", look_at_telemetry)
    hooks.register_live_tables(
        *(model._meta.db_table for model in (*EVENT_MODELS, *CONTENT_MODELS, IngestBatch))
    )
    for name, stated in STATED.items():
        hooks.register_stated(f"telemetry.{name}", stated)


def look_at_telemetry() -> list[Finding]:
    """Quarantine, exports, relays and retention."""
    return [look_at_quarantine(), look_at_exports(), look_at_relays(), look_at_retention()]


def look_at_quarantine() -> Finding:
    """How many lines were refused in a day."""
    lines = QuarantinedLine.objects.filter(received_at__gte=now() - timedelta(days=1)).count()
    if lines < QUARANTINE_WARN:
        return Finding("quarantine", "ok", f"{lines} lines in 24 hours")
    mend = "Look at Data → Quarantine: each reason says which agents and why."
    return Finding("quarantine", "warn", f"{lines} lines in 24 hours", mend)


def look_at_exports() -> Finding:
    """Exports that failed in a day."""
    failed = ExportJob.objects.filter(
        state=ExportJob.State.FAILED, created_at__gte=now() - timedelta(days=1)
    )
    newest = failed.order_by("-id").first()
    if newest is None:
        return Finding("exports", "ok", "None failed in 24 hours")
    detail = f"{failed.count()} failed in 24 hours; the last: {newest.last_error}"
    return Finding("exports", "warn", detail, "Look at Exports → Exports: each says what to do.")


def look_at_relays() -> Finding:
    """Relays and streams that cannot send."""
    failing = [
        *RelayCursor.objects.filter(failure_count__gt=0, destination__is_enabled=True)[:20],
        *Stream.objects.filter(failure_count__gt=0, is_enabled=True)[:20],
    ]
    if not failing:
        return Finding("relays", "ok", "None fails")
    said = "; ".join(f"{each}: {each.last_error}" for each in failing[:3])
    mend = "Look at Exports → Collectors and Streams and press Test: it says what is wrong."
    return Finding("relays", "warn", f"{len(failing)} fail: {said}", mend)


def look_at_retention() -> Finding:
    """Days that should be gone and are held."""
    held = sorted({part.day for part in current_plan().held})
    if not held:
        return Finding("retention", "ok", "No day is kept longer than it should be")
    mend = "Run: manage.py telemetry_rollup, then manage.py retention --apply"
    detail = f"{len(held)} days are held since {held[0]}: their rollups are not done"
    return Finding("retention", "warn", detail, mend)


def look_at_backlog() -> list[Finding]:
    """What is acknowledged and not at its place yet: better done before tables change."""
    state, lag = spool_state(), lag_s() or 0.0
    found = []
    if state.waiting_count:
        mend = "Run: manage.py telemetry_spool drain"
        found.append(Finding("spool", "warn", f"{state.waiting_count} batches wait", mend))
    if lag > BACKLOG_WARN_S or failed_batches():
        mend = "Run: manage.py telemetry_rollup"
        detail = f"sums are {lag:.0f} s behind, {failed_batches()} batches failed"
        found.append(Finding("rollups", "warn", detail, mend))
    return found or [Finding("backlog", "ok", "Nothing waits")]


def free_leases() -> str:
    """Give back what workers of another time held: nobody would, until it ran out."""
    freed = 0
    for model in apps.get_app_config("telemetry").get_models():
        names = {field.name for field in model._meta.get_fields()}
        if {"lease_until", "lease_owner"} <= names:
            held = model._default_manager.exclude(lease_owner="", lease_until=None)  # noqa: SLF001 -- the documented way from a model class
            freed += held.update(lease_owner="", lease_until=None)
    text = ngettext("%d lease of a job or relay was freed.", "%d leases were freed.", freed)
    return text % freed if freed else ""


def switch_off_what_sends() -> str:
    """A restored copy beside its original: nothing leaves it before a person switches it on.

    Orders that wait for a place outside end: they would be written there twice.
    """
    off = sum(
        model._default_manager.filter(is_enabled=True).update(is_enabled=False)  # noqa: SLF001 -- as above
        for model in (RelayDestination, Stream, ExportSchedule, ExportDestination)
    )
    ended = ExportJob.objects.filter(state__in=ExportJob.OPEN, destination__isnull=False).update(
        state=ExportJob.State.CANCELLED, finished_at=now()
    )
    return (
        f"A rehearsal: {off} collectors, streams, schedules and destinations are switched off, "
        f"{ended} exports to a place outside were cancelled."
    )
