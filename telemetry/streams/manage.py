"""What people do with collectors and streams: add, change, pause, delete, each audited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.db import transaction
from django.db.models import Max

from fleet.audit import Actor, record_change, snapshot
from fleet.models import ChangeRecord
from telemetry.models import AlertEvent, RelayCursor, RelayDestination, Stream

type Target = RelayDestination | Stream

COLLECTOR_FIELDS: Final = (
    *("name", "endpoint", "profile", "sends_traces", "sends_metrics", "sends_logs"),
    *("errors_as_span_events", "shows_hosts", "headers_env", "group_ids", "max_age_h"),
    *("since_at", "is_enabled"),
)
STREAM_FIELDS: Final = (
    *("name", "kind", "endpoint", "sends_audit", "sends_alerts", "headers_env", "secret_env"),
    "is_enabled",
)
"""What an audit row says of them: names of variables, never values."""


def fields_of(target: Target) -> tuple[str, ...]:
    """The fields that people decide."""
    return COLLECTOR_FIELDS if isinstance(target, RelayDestination) else STREAM_FIELDS


def noun_of(target: Target) -> str:
    """How its audit actions begin."""
    return "collector" if isinstance(target, RelayDestination) else "stream"


def add_target(target: Target, *, actor: Actor, reason: str) -> None:
    """Store a new one."""
    with transaction.atomic():
        target.save(force_insert=True)
        _record(target, "add", actor, pre=None, reason=reason)


def add_stream(stream: Stream, *, from_start: bool, actor: Actor, reason: str) -> None:
    """Store a new stream that begins now, or with the oldest row there is."""
    with transaction.atomic():
        if not from_start:
            stream.audit_position = _newest(ChangeRecord)
            stream.alert_position = _newest(AlertEvent)
        add_target(stream, actor=actor, reason=reason)


def change_target(
    target: Target, values: Mapping[str, Any], *, actor: Actor, reason: str
) -> bool:  # Any: each field's own
    """Change fields; whether anything was another value before. Counts and positions stay."""
    with transaction.atomic():
        kept = type(target).objects.select_for_update().get(pk=target.pk)
        before = snapshot(kept, fields_of(kept))
        changed = [name for name, value in values.items() if getattr(kept, name) != value]
        for name in changed:
            setattr(kept, name, values[name])
            setattr(target, name, values[name])
        if changed:
            kept.save(update_fields=changed)
            if {"endpoint", "headers_env", "secret_env"} & set(changed):
                try_again(kept)  # what was waited for was the old address
            _record(kept, "change", actor, pre=before, reason=reason)
    return bool(changed)


def set_enabled(target: Target, *, is_enabled: bool, actor: Actor, reason: str) -> bool:
    """Pause or go on; whether that changed anything."""
    if not change_allowed(target, is_enabled=is_enabled):
        return False
    with transaction.atomic():
        kept = type(target).objects.select_for_update().get(pk=target.pk)
        before = snapshot(kept, fields_of(kept))
        kept.is_enabled = target.is_enabled = is_enabled
        kept.save(update_fields=["is_enabled"])
        if is_enabled:
            try_again(kept)
        _record(kept, "resume" if is_enabled else "pause", actor, pre=before, reason=reason)
    return True


def change_allowed(target: Target, *, is_enabled: bool) -> bool:
    """Whether there is anything to switch."""
    return target.is_enabled != is_enabled


def try_again(target: Target) -> None:
    """Let the next round try at once, whatever the breaker says."""
    if isinstance(target, RelayDestination):
        RelayCursor.objects.filter(destination=target).update(open_until=None)
    else:
        Stream.objects.filter(pk=target.pk).update(open_until=None)


def delete_target(target: Target, *, actor: Actor, reason: str) -> None:
    """Delete it with its counts and dead letters."""
    with transaction.atomic():
        pre = snapshot(target, fields_of(target))
        pk = target.pk
        target.delete()
        target.pk = pk  # the audit row names it
        record_change(
            actor=actor,
            action=f"{noun_of(target)}.delete",
            target=target,
            pre=pre,
            post=None,
            reason=reason,
        )


def _record(target: Target, verb: str, actor: Actor, *, pre: object, reason: str) -> None:
    record_change(
        actor=actor,
        action=f"{noun_of(target)}.{verb}",
        target=target,
        pre=pre,
        post=snapshot(target, fields_of(target)),
        reason=reason,
    )


def _newest(model: type[ChangeRecord | AlertEvent]) -> int:
    return int(model._default_manager.aggregate(last=Max("pk"))["last"] or 0)  # noqa: SLF001 -- the documented way from a model class
