"""send_metrics(): a collector's metrics, once a minute: one body that says everything anew.

Cumulative series make up for a body that was lost, so none is kept as a dead letter. The state goes
to the cursor before the body leaves: a series that was sent once keeps its start through a death.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import F

from fleet.lib.clock import now
from telemetry.delivery.http import Sender
from telemetry.models import RelayCursor, Signal
from telemetry.relay.cursor import Books, error_values
from telemetry.relay.encode import compressed
from telemetry.relay.metrics import encode_metrics
from telemetry.relay.send import Outcome, send_body

EVERY: Final = timedelta(seconds=60)
"""The interval that OpenTelemetry's own readers have."""


def is_metrics_due(cursor: RelayCursor, moment: datetime) -> bool:
    """Whether a round is due; while it fails, whenever the breaker lets it."""
    at = cursor.sending.get("at")
    if cursor.failure_count or not isinstance(at, str):
        return True
    return datetime.fromisoformat(at) + EVERY <= moment


def send_metrics(books: Books, sender: Sender, *, is_refused: bool = False) -> int:
    """One round; how many points were taken. ``is_refused``: its receiver takes no metrics."""
    moment, cursor = now(), books.cursor
    if is_refused:
        books.write(sending={**cursor.sending, "at": moment.isoformat()})
        return 0
    body = encode_metrics(cursor.destination, cursor.sending.get("state", {}), moment)
    books.write(sending={"state": body.state, "at": moment.isoformat()}, position=F("position") + 1)
    if not body.record_count:
        return 0
    outcome = send_body(
        sender,
        Signal.METRICS,
        compressed(body.data),
        record_count=body.record_count,
        headers_env=cursor.destination.headers_env,
    )
    return _account(books, outcome, body.record_count, moment)


def _account(books: Books, outcome: Outcome, count: int, moment: datetime) -> int:
    if outcome.kind in {"retry", "stop", "dead", "too_large"}:
        if outcome.kind in {"dead", "too_large"}:
            books.write(rejected_count=F("rejected_count") + count)
        books.pause(outcome)
        return 0
    values: dict[str, Any] = {"failure_count": 0, "open_until": None}  # Any: expressions
    if outcome.text:
        values |= error_values(outcome.text)
    if outcome.kind == "not_offered":
        books.write(**values, not_offered_at=moment, rejected_count=F("rejected_count") + count)
        return 0
    taken = count - outcome.rejected_count
    books.write(
        **values,
        sent_count=F("sent_count") + taken,
        rejected_count=F("rejected_count") + outcome.rejected_count,
        not_offered_at=None,
        newest_sent_at=moment,
        last_ok_at=moment,
        lag_s=0.0,
    )
    return taken
