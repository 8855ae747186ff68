"""What needs a person right now, each state under a key that stays the same. Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from fleet.console import attention
from fleet.health import gather
from fleet.models import ChangeRecord
from fleet.templatetags.fleet_format import duration_s, exact
from telemetry.delivery.breaker import OPEN_AFTER
from telemetry.models import (
    AlertEvent,
    ExportJob,
    ExportSchedule,
    RelayDestination,
    Signal,
    Stream,
)
from telemetry.relay.state import states

FAILED_EXPORT_FOR: Final = timedelta(hours=24)
"""An export ordered by hand has no next time that would put it right: a day's notice, then over."""
LAG_RAISED_S: Final = 15 * 60.0
"""Three of the longest pauses between two tries: a receiver's restart raises nothing."""
LAG_CLEARED_S: Final = LAG_RAISED_S / 2
_SEVERITIES: Final = {"warn": "warn", "down": "bad"}


@dataclass(frozen=True, slots=True)
class Found:
    """A state that is there now. ``severity``: bad, warn or info; ``count``: how many things."""

    key: str
    severity: str
    text: str
    count: int = 1


def look(moment: datetime, raised: AbstractSet[str]) -> list[Found]:
    """Every state that needs a person.

    ``raised`` are the keys that are raised: what has a threshold needs to be well below it again.
    """
    return [
        *installs(),
        *probes(),
        *exports(moment),
        *collectors(raised),
        *streams(moment, raised),
    ]


def installs() -> Iterator[Found]:
    """What the overview says of installs and their policy."""
    for notice in attention.notices():
        yield Found(notice.key, notice.tone, notice.text, notice.count)


def probes() -> Iterator[Found]:
    """The health page's probes; among them the spool and the sums, ingest's backlog."""
    for probe in gather().probes:
        severity = _SEVERITIES.get(probe.state)
        if severity is not None:
            text = f"{probe.title}: {probe.detail}. {probe.mend}".strip()
            yield Found(f"probe:{probe.name}", severity, text)


def exports(moment: datetime) -> Iterator[Found]:
    """Schedules whose last export failed, and exports ordered by hand that failed today."""
    ended = ExportJob.objects.filter(schedule=OuterRef("pk"), finished_at__isnull=False)
    last = ended.exclude(state=ExportJob.State.CANCELLED).order_by("-finished_at", "-pk")
    schedules = ExportSchedule.objects.annotate(
        last_state=Subquery(last.values("state")[:1]),
        last_said=Subquery(last.values("last_error")[:1]),
    ).filter(last_state=ExportJob.State.FAILED)
    for schedule in schedules:
        text = _("The scheduled export %(name)s failed: %(why)s") % {
            "name": schedule.name,
            "why": schedule.last_said or "?",
        }
        yield Found(f"export_schedule:{schedule.pk}", "bad", text)
    failed = ExportJob.objects.filter(
        schedule=None,
        state=ExportJob.State.FAILED,
        finished_at__gte=moment - FAILED_EXPORT_FOR,
    ).count()
    if failed:
        text = ngettext("%s export failed", "%s exports failed", failed) % exact(failed)
        yield Found("export_failed", "bad", text, failed)


def collectors(raised: AbstractSet[str]) -> Iterator[Found]:
    """Collectors that take nothing, or that are far behind."""
    for state in states(RelayDestination.objects.filter(is_enabled=True)):
        # A back-fill is behind because a person said so.
        lag_s = None if state.word == "catching_up" else state.lag_s
        found = _delivery(
            f"relay:{state.destination_id}:{state.signal}",
            f"{state.name} ({Signal(state.signal).label})",
            failures=state.failure_count,
            error=state.last_error,
            lag_s=lag_s,
            raised=raised,
        )
        if found is not None:
            yield found


def streams(moment: datetime, raised: AbstractSet[str]) -> Iterator[Found]:
    """Streams that reach nobody, or that are far behind."""
    for stream in Stream.objects.filter(is_enabled=True):
        found = _delivery(
            f"stream:{stream.pk}",
            stream.name,
            failures=stream.failure_count,
            error=stream.last_error,
            lag_s=stream_lag_s(stream, moment),
            raised=raised,
        )
        if found is not None:
            yield found


def _delivery(
    key: str,
    name: str,
    *,
    failures: int,
    error: str,
    lag_s: float | None,
    raised: AbstractSet[str],
) -> Found | None:
    # Not "open_until lies ahead": between two tries it does not, and nothing got through.
    if failures >= OPEN_AFTER:
        text = _("%(name)s takes nothing: %(error)s") % {"name": name, "error": error or "?"}
        return Found(key, "bad", text, failures)
    limit_s = LAG_CLEARED_S if key in raised else LAG_RAISED_S
    if lag_s is not None and lag_s > limit_s:
        text = _("%(name)s is %(lag)s behind") % {"name": name, "lag": duration_s(lag_s)}
        return Found(key, "warn", text)
    return None


def stream_lag_s(stream: Stream, moment: datetime) -> float | None:
    """The age of the oldest row that was not sent; None: all was."""
    oldest = []
    if stream.sends_audit:
        rows = ChangeRecord.objects.filter(pk__gt=stream.audit_position)
        oldest.append(rows.order_by("pk").values_list("at", flat=True).first())
    if stream.sends_alerts:
        events = AlertEvent.objects.filter(pk__gt=stream.alert_position)
        oldest.append(events.order_by("pk").values_list("at", flat=True).first())
    ages = [(moment - at).total_seconds() for at in oldest if at is not None]
    return max(0.0, *ages) if ages else None
