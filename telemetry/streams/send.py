"""Ordered delivery of a stream: at least once, under ids that stay, one worker at a time.

1. The lease is taken: nobody else sends for this stream until it is over.
2. What waits is read from the position on, in the order of ids (see ``records.next_records``).
3. The body is sent and its answer read.
4. In one transaction the position moves past what was taken or set aside, with the counts.
Who dies between 3 and 4 leaves the position: the next worker sends the same records under the same
ids. Nothing is skipped, and what comes twice says so itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import Exists, F, Max, OuterRef, Q, QuerySet
from django.db.models.functions import Greatest

from fleet.audit import Actor, record_change
from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.delivery.breaker import CLOSED, after_failure, may_try
from telemetry.delivery.guard import EndpointRefused
from telemetry.delivery.lease import Lease, held
from telemetry.models import AlertEvent, DeadLetter, Stream
from telemetry.relay.letters import bound_letters
from telemetry.streams.channel import Answer, Channel, NotSet
from telemetry.streams.open import open_channel
from telemetry.streams.records import Kind, Record, next_records, signal_record

LEASE_S: Final = 120.0
"""Four of the longest exchanges; renewed with each body."""
BUDGET_S: Final = 20.0
"""Then the worker is somebody else's; what is left goes with the next nudge."""
MAX_ERROR_CHARS: Final = 300
POSITIONS: Final[dict[Kind, str]] = {"alerts": "alert_position", "audit": "audit_position"}
"""Alerts first: they are few, and somebody waits for them."""


@dataclass(slots=True)
class Sent:
    """What one turn did, in records. ``error``: why it stopped early, if it did."""

    sent: int = 0
    dead: int = 0
    error: str = ""
    is_busy: bool = False


class LeaseLost(Exception):
    """Somebody else is at it by now; nothing was written."""


def due_streams(moment: datetime) -> list[int]:
    """Streams that have something to send, may try, and are nobody's at the moment."""
    newest_change = ChangeRecord.objects.order_by().aggregate(last=Max("pk"))["last"] or 0
    newest_alert = AlertEvent.objects.order_by().aggregate(last=Max("pk"))["last"] or 0
    asked = _asked().filter(stream=OuterRef("pk"))
    waits = (
        Q(sends_audit=True, audit_position__lt=newest_change)
        | Q(sends_alerts=True, alert_position__lt=newest_alert)
        | Q(Exists(asked))
    )
    free = Q(lease_until=None) | Q(lease_until__lt=moment)
    may = Q(open_until=None) | Q(open_until__lte=moment)
    found = Stream.objects.filter(waits, free, may, is_enabled=True)
    return list(found.order_by("pk").values_list("pk", flat=True))


def send_stream(pk: int, *, budget_s: float = BUDGET_S) -> Sent:
    """Send what waits, until it is done, the budget is spent or the receiver is not able to.

    Safe to run twice, in parallel, and to kill.
    """
    done = Sent()
    with held(Stream, pk, for_s=LEASE_S) as lease:
        stream = Stream.objects.filter(pk=pk, is_enabled=True).first() if lease else None
        if lease is None or stream is None or not may_try(stream.open_until, now()):
            done.is_busy = lease is None
            return done
        try:
            channel = open_channel(stream)
        except (EndpointRefused, NotSet) as error:
            _write_failure(lease, stream, Answer("later", str(error)))
            done.error = str(error)
            return done
        ends_at_s = time.monotonic() + budget_s
        try:
            for answer in _turn(lease, stream, channel, done):
                if answer.verdict == "later":
                    _write_failure(lease, stream, answer)
                    done.error = answer.error
                    break
                if time.monotonic() > ends_at_s:
                    break
        except LeaseLost:
            done.is_busy = True
    return done


def _turn(lease: Lease, stream: Stream, channel: Channel, done: Sent) -> Iterator[Answer]:
    """Each body's answer, after it was written down (but for ``later``)."""
    yield from _replay(lease, stream, channel, done)
    for kind in POSITIONS:
        wanted = stream.sends_alerts if kind == "alerts" else stream.sends_audit
        # After failures one record tries the way first.
        limit = 1 if stream.failure_count else channel.most_records
        while wanted:
            records = next_records(stream, kind, limit)
            if not records:
                break
            body = channel.pack(records)
            answer = channel.send(body)
            if answer.verdict == "refused" and len(records) > 1:
                limit = len(records) // 2  # one of them is meant: find it, send the others
                continue
            if answer.verdict != "later":
                _write_answer(lease, stream, kind, records, body, answer, done)
                limit = min(channel.most_records, limit * 2)
            yield answer


def _write_answer(
    lease: Lease,
    stream: Stream,
    kind: Kind,
    records: list[Record],
    body: bytes,
    answer: Answer,
    done: Sent,
) -> None:
    """The position past these records, with the counts. Errors: LeaseLost."""
    field, position, count = POSITIONS[kind], records[-1].position, len(records)
    with transaction.atomic():
        if answer.verdict == "refused":
            _set_aside(stream, kind, count, body, answer)
            values: dict[str, object] = {"dead_count": F("dead_count") + count}
            done.dead += count
        else:
            rejected = min(answer.rejected_count, count)
            values = {
                "sent_count": F("sent_count") + count - rejected,
                "rejected_count": F("rejected_count") + rejected,
                "last_ok_at": now(),
            }
            done.sent += count - rejected
        _update(lease, **values, **{field: position}, **_closed(), **_said(answer))
    setattr(stream, field, position)
    stream.failure_count = 0


def _set_aside(stream: Stream, kind: Kind, count: int, body: bytes, answer: Answer) -> None:
    DeadLetter.objects.create(
        stream=stream,
        signal=kind,
        record_count=count,
        body=body,
        body_bytes=len(body),
        status=answer.status,
        error=answer.error[:MAX_ERROR_CHARS],
        at=now(),
    )
    bound_letters()


def _write_failure(lease: Lease, stream: Stream, answer: Answer) -> None:
    pause = after_failure(stream.failure_count, now(), retry_after_s=answer.retry_after_s)
    lease.update(
        failure_count=pause.failure_count,
        open_until=pause.open_until,
        retry_count=F("retry_count") + 1,
        **_said(answer),
    )


def _asked() -> QuerySet[DeadLetter]:
    return DeadLetter.objects.filter(
        stream__isnull=False, replay_asked_at__isnull=False, replayed_at=None
    )


def _replay(lease: Lease, stream: Stream, channel: Channel, done: Sent) -> Iterator[Answer]:
    """Dead letters that a person wants sent again, as they are: the same bytes, the same ids."""
    for pk in list(_asked().filter(stream=stream).order_by("pk").values_list("pk", flat=True)):
        letter = _asked().filter(pk=pk).first()
        if letter is None:
            continue
        answer = channel.send(bytes(letter.body))
        if answer.verdict != "later":
            with transaction.atomic():
                _write_replayed(lease, letter, answer)
            done.sent += letter.record_count if answer.verdict == "taken" else 0
            stream.failure_count = 0
        yield answer


def _write_replayed(lease: Lease, letter: DeadLetter, answer: Answer) -> None:
    count, letters = letter.record_count, DeadLetter.objects.filter(pk=letter.pk)
    tried = {"attempt_count": F("attempt_count") + 1}
    if answer.verdict == "refused":
        error = answer.error[:MAX_ERROR_CHARS]
        letters.update(replay_asked_at=None, error=error, status=answer.status, **tried)
        _update(lease, **_closed(), **_said(answer))
        return
    rejected = min(answer.rejected_count, count)
    letters.update(replayed_at=now(), body=b"", body_bytes=0, **tried)
    _update(
        lease,
        sent_count=F("sent_count") + count - rejected,
        rejected_count=F("rejected_count") + rejected,
        dead_count=Greatest(F("dead_count") - count, 0),
        last_ok_at=now(),
        **_closed(),
        **_said(answer),
    )


def _update(lease: Lease, **values: object) -> None:
    """Write and hold on to the lease. Errors: LeaseLost, which rolls the transaction back."""
    if not lease.update(**values) or not lease.renew():
        raise LeaseLost


def _closed() -> dict[str, object]:
    return {"failure_count": CLOSED.failure_count, "open_until": CLOSED.open_until}


def _said(answer: Answer) -> dict[str, object]:
    """The last error with its time; what was taken without a word leaves the older one."""
    if not answer.error:
        return {}
    return {"last_error": answer.error[:MAX_ERROR_CHARS], "last_error_at": now()}


def waiting_count(stream: Stream) -> int:
    """Records that were not sent yet."""
    count = 0
    if stream.sends_audit:
        count += ChangeRecord.objects.filter(pk__gt=stream.audit_position).count()
    if stream.sends_alerts:
        count += AlertEvent.objects.filter(pk__gt=stream.alert_position).count()
    return count


def try_stream(stream: Stream, *, actor: Actor) -> str:
    """Send one test record and write down what came of it, audited; "" when it was taken."""
    moment = now()
    try:
        channel = open_channel(stream)
        record = signal_record(
            f"test-{stream.pk}-{moment.timestamp():.6f}".replace(".", "-"), moment
        )
        answer = channel.send(channel.pack([record]))
        error = "" if answer.verdict == "taken" else answer.error or "?"
    except (EndpointRefused, NotSet) as refused:
        error = str(refused)
    said = error[:MAX_ERROR_CHARS]
    with transaction.atomic():
        Stream.objects.filter(pk=stream.pk).update(tested_at=moment, test_error=said)
        post = {"ok": not error, "error": said}
        record_change(actor=actor, action="stream.test", target=stream, pre={}, post=post)
    return error
