"""What a stream sends: an audit row or an alert as a record of fixed fields, redacted once more.

An audit row holds no secret (``record_change`` says so of its callers); it goes through the
redaction again all the same, because from here it leaves the console.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from django.conf import settings

from agent_client.contract.redact import redact_text, redact_value
from fleet.models import ChangeRecord
from telemetry.models import AlertEvent, Stream

AUDIT_EVENT: Final = "hermes.audit.change"
ALERT_EVENT: Final = "hermes.alert"
TEST_EVENT: Final = "hermes.test"
MAX_JSON_CHARS: Final = 16_384
"""Of what was before and after: a receiver's line has a bound, and the console keeps the whole."""
MAX_CHARS: Final = 300

Kind = Literal["audit", "alerts", "test"]
Level = Literal["bad", "warn", "notice", "info"]


@dataclass(frozen=True, slots=True)
class Record:
    """One thing to tell.

    Shape: ``uid`` is the same at each try and after a restore never that of another row: it is made
    of the row's number and of what it says. ``position`` is the row's id. ``fields`` are texts,
    numbers and, of an audit row, the JSON values before and after.
    """

    uid: str
    kind: Kind
    event: str
    at: datetime
    level: Level
    text: str
    fields: dict[str, object]
    position: int = 0


def next_records(stream: Stream, kind: Kind, limit: int) -> list[Record]:
    """The next rows that were not sent yet, in the order of their ids.

    Ids are in the order of commits: whoever writes a row of either kind holds that kind's lock
    from before it draws the id to its commit. A reader that is past an id has missed none below.
    """
    if kind == "audit":
        rows = ChangeRecord.objects.filter(pk__gt=stream.audit_position).order_by("pk")[:limit]
        return [audit_record(row) for row in rows]
    events = AlertEvent.objects.filter(pk__gt=stream.alert_position).order_by("pk")[:limit]
    return [alert_record(event) for event in events]


def audit_record(row: ChangeRecord) -> Record:
    """A change: who, what, when, before and after."""
    label, actor = clean(row.object_label), clean(row.actor)
    fields: dict[str, object] = {
        "number": row.pk,
        "actor": actor,
        "action": clean(row.action),
        "object_type": clean(row.object_type),
        "object_id": clean(row.object_id),
        "object_label": label,
        "reason": clean(row.reason),
        "request_id": clean(row.request_id),
        "before": _json_value(row.pre_json),
        "after": _json_value(row.post_json),
        "sha256": row.sha256,
        "prev_sha256": row.prev_sha256,
    }
    text = f"{actor}: {fields['action']} {label}".strip()
    if row.reason:
        text += f" ({fields['reason']})"
    return Record(
        uid=f"audit-{row.pk}-{row.sha256[:16]}",
        kind="audit",
        event=AUDIT_EVENT,
        at=row.at,
        level="notice",
        text=text,
        fields=fields,
        position=row.pk,
    )


def alert_record(event: AlertEvent) -> Record:
    """A state that began, or that is over."""
    said = f"{event.key}\0{event.state}\0{event.at.isoformat()}".encode()
    is_over = event.state == AlertEvent.State.CLEARED
    level: Level = "bad" if event.severity == "bad" else "warn"
    if is_over or event.severity not in {"bad", "warn"}:
        level = "info"
    text = clean(event.text)
    fields: dict[str, object] = {
        "number": event.pk,
        "key": clean(event.key),
        "state": event.state,
        "severity": event.severity,
        "count": event.count,
        "text": text,
    }
    return Record(
        uid=f"alert-{event.pk}-{hashlib.sha256(said).hexdigest()[:16]}",
        kind="alerts",
        event=ALERT_EVENT,
        at=event.at,
        level=level,
        text=text,
        fields=fields,
        position=event.pk,
    )


def signal_record(uid: str, at: datetime) -> Record:
    """What the test button sends."""
    text = f"Test of a stream from {settings.FLEET_PUBLIC_URL}"
    return Record(uid, "test", TEST_EVENT, at, "info", text, {"console": settings.FLEET_PUBLIC_URL})


def clean(text: str) -> str:
    """Redacted, and without what no receiver can take (lone surrogates)."""
    return redact_text(text[:MAX_CHARS]).encode("utf-8", "replace").decode("utf-8")


def _json_value(text: str) -> object:
    """A JSON text as a redacted value; one that is too long says so instead."""
    if len(text) > MAX_JSON_CHARS:
        return {"left_out_chars": len(text)}
    return redact_value(json.loads(text))


def attributes(record: Record) -> dict[str, str | int]:
    """The fields flat, JSON values as text, empty ones left out: for logs and syslog."""
    flat: dict[str, str | int] = {}
    for name, value in record.fields.items():
        if isinstance(value, int) and not isinstance(value, bool):
            flat[name] = value
        elif isinstance(value, str):
            if value:
                flat[name] = value
        elif value is not None:
            flat[name] = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return flat


def last_position(records: Sequence[Record]) -> int:
    """The id up to which these are."""
    return records[-1].position
