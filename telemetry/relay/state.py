"""How each signal of each collector stands, in numbers and in words that say what to do.

Lag and what waits are counted when asked, so that they are right while nothing is sent as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from django.db.models import Count, Sum
from django.utils.translation import gettext as _

from fleet.lib.clock import now
from telemetry.delivery.breaker import State as BreakerState
from telemetry.delivery.breaker import state_of
from telemetry.models import DeadLetter, RelayCursor, RelayDestination, Signal
from telemetry.relay.cursor import SIGNALS, Waiting, Window, waiting_of
from telemetry.relay.rounds import wants

LATE_S: Final = 120.0
"""A relay that keeps up is seconds behind."""

Word = Literal["ok", "off", "new", "catching_up", "late", "retrying", "failing", "not_offered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayState:
    """One signal of one collector.

    ``word`` is for programs, ``text`` says what it means, ``mend`` what to do ("" : nothing).
    Counts are of records since the collector was made; ``letter_count`` and ``letter_bytes`` are
    what can be sent again. ``lag_s``: age of the oldest row that waits; of metrics None.
    """

    destination_id: int
    name: str
    signal: str
    word: Word
    text: str
    mend: str
    breaker: BreakerState
    open_until: datetime | None
    lag_s: float | None
    waiting_count: int
    sent_count: int
    rejected_count: int
    dead_count: int
    expired_count: int
    retry_count: int
    failure_count: int
    letter_count: int
    letter_bytes: int
    newest_sent_at: datetime | None
    last_ok_at: datetime | None
    last_error: str
    last_error_at: datetime | None
    left_count: int | None
    """Of a back-fill: records that are still to be caught up; None when none is under way."""

    @property
    def is_bad(self) -> bool:
        """Whether a person should look."""
        return self.word in {"late", "failing", "not_offered"}


def states(destinations: Iterable[RelayDestination] | None = None) -> list[RelayState]:
    """Every signal that a collector is to get, collectors by name."""
    chosen = RelayDestination.objects.all() if destinations is None else destinations
    found = sorted(chosen, key=lambda destination: destination.name)
    cursors = {
        (cursor.destination_id, cursor.signal): cursor
        for cursor in RelayCursor.objects.filter(destination__in=[d.pk for d in found])
    }
    letters = {
        (row["destination_id"], row["signal"]): (row["count"], row["size"] or 0)
        for row in DeadLetter.objects.filter(
            destination__in=[d.pk for d in found], replayed_at=None
        )
        .order_by()
        .values("destination_id", "signal")
        .annotate(count=Count("pk"), size=Sum("body_bytes"))
    }
    moment = now()
    return [
        _state(
            destination,
            signal,
            cursors.get((destination.pk, signal)) or RelayCursor(signal=signal),
            letters.get((destination.pk, signal), (0, 0)),
            moment,
        )
        for destination in found
        for signal, switch in SIGNALS.items()
        if getattr(destination, switch)
    ]


def _state(
    destination: RelayDestination,
    signal: Signal,
    cursor: RelayCursor,
    letters: tuple[int, int],
    moment: datetime,
) -> RelayState:
    window = Window.from_json(cursor.sending) if signal != Signal.METRICS else Window()
    waiting = waiting_of(cursor.position, window) if window.since else Waiting()
    left_count = waiting.left_count
    lag_s = None if signal == Signal.METRICS else waiting.lag_s(moment)
    word = _word(destination, cursor, moment, lag_s=lag_s, left_count=left_count)
    text, mend = _words(word, cursor, letters[0])
    return RelayState(
        destination_id=destination.pk,
        name=destination.name,
        signal=str(signal),
        word=word,
        text=text,
        mend=mend,
        breaker=state_of(cursor.failure_count, cursor.open_until, moment),
        open_until=cursor.open_until,
        lag_s=lag_s,
        waiting_count=waiting.row_count,
        sent_count=cursor.sent_count,
        rejected_count=cursor.rejected_count,
        dead_count=cursor.dead_count,
        expired_count=cursor.expired_count,
        retry_count=cursor.retry_count,
        failure_count=cursor.failure_count,
        letter_count=letters[0],
        letter_bytes=letters[1],
        newest_sent_at=cursor.newest_sent_at,
        last_ok_at=cursor.last_ok_at,
        last_error=cursor.last_error,
        last_error_at=cursor.last_error_at,
        left_count=left_count,
    )


def _word(
    destination: RelayDestination,
    cursor: RelayCursor,
    moment: datetime,
    *,
    lag_s: float | None,
    left_count: int | None,
) -> Word:
    if not wants(destination, cursor.signal):
        return "off"
    if cursor.not_offered_at is not None:
        return "not_offered"
    if cursor.failure_count:
        breaker = state_of(cursor.failure_count, cursor.open_until, moment)
        return "retrying" if breaker == "closed" else "failing"
    if not cursor.pk:
        return "new"
    if left_count:
        return "catching_up"
    return "late" if lag_s is not None and lag_s > LATE_S else "ok"


def _words(word: Word, cursor: RelayCursor, letter_count: int) -> tuple[str, str]:
    mend = ""
    if letter_count:
        mend = _("Look at its dead letters: send them again when the reason is gone.")
    match word:
        case "off":
            return _("Switched off: nothing is sent."), ""
        case "new":
            return _("Nothing was sent yet."), _("A worker begins within seconds.")
        case "not_offered":
            text = cursor.last_error or _("The collector does not take this signal.")
            return text, _("Switch this signal off for it. It is asked again every hour.")
        case "retrying":
            return _("Trying again: %(why)s") % {"why": cursor.last_error}, mend
        case "failing":
            text = _("Nothing gets through (%(count)d tries in a row): %(why)s")
            said = {"count": cursor.failure_count, "why": cursor.last_error}
            return text % said, mend or _("What waits is kept. Mend it, then use the test button.")
        case "catching_up":
            return _("Sends what came in earlier, then goes on."), mend
        case "late":
            return _("Behind, without an error."), _(
                "See that worker (queue relay) and beat run. Is the collector slow?"
            )
        case "ok":
            return _("Keeps up."), mend
