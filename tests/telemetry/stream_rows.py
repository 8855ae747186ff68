"""Rows that streams send, and streams to send them."""

from __future__ import annotations

from typing import Any

from fleet.audit import record_change
from fleet.lib.clock import now
from fleet.models import ChangeRecord, InstallGroup
from telemetry.models import AlertEvent, Stream


def stream_to(endpoint: str, kind: str = "webhook", **values: object) -> Stream:
    held = {"secret_env": "FLEET_HOOK_SIEM"} if kind == "webhook" else {}
    fields: dict[str, Any] = {"name": "SIEM", "kind": kind, "endpoint": endpoint, **held}
    return Stream.objects.create(**fields | values)


def change(number: int = 1, **values: object) -> ChangeRecord:
    group, _made = InstallGroup.objects.get_or_create(name="Group")
    held: dict[str, Any] = {"actor": "ann", "action": "rename", "pre": {"n": 0}, "reason": "why"}
    return record_change(target=group, **held | {"post": {"n": number}} | values)


def alert(**values: object) -> AlertEvent:
    held: dict[str, Any] = {"key": "disk", "state": "raised", "severity": "bad"}
    held["text"] = "The disk is full"
    return AlertEvent.objects.create(**held | {"at": now(), "count": 1} | values)


def again(stream: Stream) -> Stream:
    """As if the pause were over."""
    Stream.objects.filter(pk=stream.pk).update(open_until=None)
    stream.refresh_from_db()
    return stream
