"""Where a signal of a collector stands, and each step of it as one conditional UPDATE.

Every write here is made under a lease and changes nothing when the lease is another's by now: what
a late worker knows is old. Steps of a body: 1. ``begin_body`` writes what is about to go out, 2. it
is sent, 3. ``take_body`` or ``set_aside`` writes what became of it. A death between 1 and 3 repeats
the same records under the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import F, QuerySet, Sum

from fleet.lib.clock import now
from telemetry.delivery.breaker import CLOSED, after_failure
from telemetry.delivery.http import TOTAL_S
from telemetry.delivery.lease import Lease
from telemetry.models import FeedEntry, RelayCursor, RelayDestination, Signal
from telemetry.relay.feed import first_entry_since
from telemetry.relay.letters import keep_letter
from telemetry.relay.send import Outcome
from telemetry.store.relay_open import OpenRun
from telemetry.store.relay_rows import Place

LEASE_S: Final = TOTAL_S + 30.0
"""Longer than one exchange: renewed before each body."""
MAX_ERROR_CHARS: Final = 300
MAX_RECORDS: Final = 2_000
SIGNALS: Final = {
    Signal.TRACES: "sends_traces",
    Signal.METRICS: "sends_metrics",
    Signal.LOGS: "sends_logs",
}


type Ranges = list[tuple[str, str]]
"""Stretches of time as ISO texts, the oldest first; "" for: to no end."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Runs that nobody ended: which were looked for, and which of them are on their way.

    ``ranges``: when the runs came in that are still to be looked at, (after, until]. ``due``: runs
    that go out now, in this order; what was acknowledged leaves it. ``alive``: open runs that still
    got children. ``looked``: when the last look was over.
    """

    ranges: Ranges = field(default_factory=list)
    due: list[OpenRun] = field(default_factory=list)
    alive: list[OpenRun] = field(default_factory=list)
    first: str = ""
    looked: str = ""

    def to_json(self) -> dict[str, object]:
        """What the cursor's row holds."""
        return {
            "ranges": [list(one) for one in self.ranges],
            "due": [one.to_json() for one in self.due],
            "alive": [one.to_json() for one in self.alive],
            "first": self.first,
            "looked": self.looked,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lost:  # Any: JSON
        """The same from the cursor's row."""
        return cls(
            [(str(after), str(until)) for after, until in data["ranges"]],
            [OpenRun.from_json(one) for one in data["due"]],
            [OpenRun.from_json(one) for one in data["alive"]],
            data["first"],
            data["looked"],
        )

    def since(self, moment: datetime) -> Lost:
        """The same for a collector that gets what came in after a time; what was looked at is over.

        A time set back adds what lies between; one set forward drops what lies before.
        """
        start = moment.isoformat()
        if not self.first:
            return replace(self, ranges=[(start, "")], first=start)
        if moment < datetime.fromisoformat(self.first):
            ranges = [(start, self.first), *self.ranges]
            if self.ranges[0][0] == self.first:  # nothing of it was looked at yet
                ranges = [(start, self.ranges[0][1]), *self.ranges[1:]]
            return replace(self, ranges=ranges, first=start)
        kept = [
            (max(after, start, key=datetime.fromisoformat), until)
            for after, until in self.ranges
            if not until or datetime.fromisoformat(until) > moment
        ]
        return replace(self, ranges=kept, first=start)


class LeaseLost(Exception):
    """Somebody else has the cursor, or it is gone with its collector."""


@dataclass(frozen=True, slots=True)
class Window:
    """The feed entries that are being sent: those after the cursor's position up to ``last``.

    ``after``: the place of the last record that is accounted for; ``upto``: of the last record of
    the body that may be on its way. ``oldest_ns`` was fixed when the window was opened, so that a
    repeat leaves out the same rows as too old. ``max_records``: what the receiver takes at once.
    ``first``: the lowest entry that is meant at all, and ``since`` the time it came from; while
    ``jump`` is set older entries are caught up: behind the first of its numbers the position goes
    on at the second.
    """

    last: int = 0
    after: Place | None = None
    upto: Place | None = None
    oldest_ns: int = 0
    max_records: int = field(default_factory=lambda: MAX_RECORDS)
    first: int = 0
    since: str = ""
    jump: tuple[int, int] | None = None
    lost: Lost = field(default_factory=Lost)

    @property
    def is_open(self) -> bool:
        """Whether entries are being sent."""
        return self.last > 0

    def to_json(self) -> dict[str, object]:
        """What the cursor's row holds."""
        held = {
            name: list(value) if isinstance(value, tuple) else value
            for name in self.__slots__
            if (value := getattr(self, name)) not in (None, "", 0, Lost())
        }
        return held | ({"lost": self.lost.to_json()} if "lost" in held else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Window:  # Any: JSON
        """A window from the cursor's row; what is not there has its default."""
        known: dict[str, Any] = {name: data[name] for name in cls.__slots__ if name in data}
        for name in ("after", "upto"):
            if name in known:
                known[name] = Place(*known[name])
        if "lost" in known:
            known["lost"] = Lost.from_json(known["lost"])
        if "jump" in known:
            known["jump"] = (int(known["jump"][0]), int(known["jump"][1]))
        return cls(**known)

    def closed(self) -> Window:
        """The same without entries: what lasts from window to window."""
        grown = min(MAX_RECORDS, self.max_records * 2)
        return replace(self, last=0, after=None, upto=None, oldest_ns=0, max_records=grown)


def make_cursors() -> int:
    """A cursor for each signal that an enabled collector wants; how many were new."""
    made = 0
    have = set(RelayCursor.objects.values_list("destination_id", "signal"))
    for destination in RelayDestination.objects.filter(is_enabled=True):
        for signal, switch in SIGNALS.items():
            if getattr(destination, switch) and (destination.pk, signal) not in have:
                _, is_new = RelayCursor.objects.get_or_create(
                    destination=destination, signal=signal
                )
                made += is_new
    return made


class Books:
    """The writing half of a cursor, for whoever holds its lease."""

    def __init__(self, lease: Lease, cursor: RelayCursor) -> None:
        self._lease = lease
        self.cursor = cursor
        self.window = Window.from_json(cursor.sending)
        self.position = cursor.position
        self.failure_count = cursor.failure_count

    def write(self, **values: Any) -> None:  # noqa: ANN401 -- whatever the model's fields hold
        """One UPDATE that also renews the lease. Errors: LeaseLost."""
        until = now() + timedelta(seconds=self._lease.for_s)
        if not self._lease.update(lease_until=until, **values):
            raise LeaseLost

    def _write_window(self, window: Window, **values: Any) -> None:  # noqa: ANN401 -- as above
        self.write(sending=window.to_json(), **values)
        self.window = window

    # ------------------------------------------------------------------------------- the window

    def settle_start(self) -> None:
        """Begin where ``since_at`` says, or catch up when a person set it back."""
        since_at = self.cursor.destination.since_at
        window, since = self.window, since_at.isoformat()
        if window.since == since:
            return
        first = first_entry_since(since_at)
        changed = replace(window.closed(), first=first, since=since)
        if self.cursor.signal == Signal.TRACES:
            changed = replace(changed, lost=window.lost.since(since_at))
        if window.first == 0:  # the first time
            position = first - 1
        elif first < window.first and window.jump is None:
            # Only what lies before is caught up: the rest was accounted for already.
            changed = replace(
                changed, jump=(window.first - 1, max(self.position, window.first - 1))
            )
            position = first - 1
        elif first < window.first:
            changed = replace(changed, jump=window.jump)
            position = min(self.position, first - 1)
        else:
            changed = replace(changed, jump=None)
            position = max(self.position, first - 1)
        # A window that was open is opened again: what it had sent goes out once more, by its ids
        # the same records.
        self._write_window(changed, position=position)
        self.position = position

    def open_window(self, last: int, oldest_ns: int) -> None:
        """Begin with the entries up to ``last``."""
        self._write_window(replace(self.window, last=last, oldest_ns=oldest_ns))

    def close_window(self, *, expired_count: int = 0, rejected_count: int = 0) -> None:
        """All of the window's entries are accounted for."""
        window, position = self.window.closed(), self.window.last
        self._write_window(
            window,
            position=position,
            expired_count=F("expired_count") + expired_count,
            rejected_count=F("rejected_count") + rejected_count,
        )
        self.position = position

    def end_jump(self) -> None:
        """What was older is caught up; go on where the relay was."""
        if self.window.jump is not None:
            position = self.window.jump[1]
            self._write_window(replace(self.window, jump=None), position=position)
            self.position = position

    # --------------------------------------------------------------------------------- the body

    def begin_body(self, upto: Place) -> None:
        """Step 1."""
        self._write_window(replace(self.window, upto=upto))

    def take_body(
        self,
        upto: Place,
        outcome: Outcome,
        *,
        count: int,
        newest_at: datetime,
        begins: Place | None = None,
    ) -> None:
        """Step 3 of a body that was taken, but for the records that were rejected.

        ``begins``: step 1 of the next one, in the same UPDATE.
        """
        window = replace(self.window, after=upto, upto=begins)
        self._write_window(window, **_taken_values(outcome, count, newest_at))
        self.failure_count = 0

    def take_lost(
        self, lost: Lost, outcome: Outcome, *, count: int, newest_at: datetime, expired_count: int
    ) -> None:
        """Step 3 of a body of runs that nobody ended; ``lost``: without them."""
        window, values = replace(self.window, lost=lost), _taken_values(outcome, count, newest_at)
        self._write_window(window, **values, expired_count=F("expired_count") + expired_count)
        self.failure_count = 0

    def write_lost(self, lost: Lost, *, expired_count: int = 0) -> None:
        """Step 1 of bodies of runs that nobody ended: which they are."""
        expired = F("expired_count") + expired_count
        self._write_window(replace(self.window, lost=lost), expired_count=expired)

    def set_aside(self, upto: Place, outcome: Outcome, data: bytes, *, count: int) -> None:
        """Step 3 of a body that was refused for good."""
        self._keep_letter(replace(self.window, after=upto, upto=None), outcome, data, count)

    def set_lost_aside(self, lost: Lost, outcome: Outcome, data: bytes, *, count: int) -> None:
        """The same of runs that nobody ended; ``lost``: without them."""
        self._keep_letter(replace(self.window, lost=lost), outcome, data, count)

    def _keep_letter(self, window: Window, outcome: Outcome, data: bytes, count: int) -> None:
        """The letter and the step share a transaction.

        It counts as a failure: a receiver that refuses everything is not emptied into the letters
        at full speed.
        """
        cursor = self.cursor
        pause = after_failure(self.failure_count, now())
        with transaction.atomic():
            keep_letter(
                cursor.destination,
                cursor.signal,
                data,
                record_count=count,
                status=outcome.status,
                error=outcome.text,
            )
            self._write_window(
                window,
                dead_count=F("dead_count") + count,
                failure_count=pause.failure_count,
                open_until=pause.open_until,
                **error_values(outcome.text),
            )
        self.failure_count = pause.failure_count

    def forget_body(self) -> None:
        """The body that was begun holds what must not go out any more."""
        self._write_window(replace(self.window, upto=None))

    def halve(self, max_records: int) -> None:
        """Send fewer records at once from here on."""
        self._write_window(replace(self.window, upto=None, max_records=max(1, max_records)))

    def pause(self, outcome: Outcome) -> None:
        """Try the same again later."""
        pause = after_failure(self.failure_count, now(), retry_after_s=outcome.retry_after_s)
        self.write(
            failure_count=pause.failure_count,
            open_until=pause.open_until,
            retry_count=F("retry_count") + 1,
            **error_values(outcome.text),
        )
        self.failure_count = pause.failure_count

    def not_offered(self, outcome: Outcome) -> None:
        """The receiver does not take this signal."""
        self._write_window(
            replace(self.window, upto=None),
            not_offered_at=now(),
            failure_count=0,
            open_until=None,
            **error_values(outcome.text),
        )

    def note_lag(self) -> None:
        """How much waits, and how old the oldest of it is."""
        found = waiting_of(self.position, self.window)
        self.write(waiting_count=found.row_count, lag_s=found.lag_s(now()))


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a cursor has before it. ``left_count``: of that, what a back-fill still has to send."""

    row_count: int = 0
    oldest_at: datetime | None = None
    left_count: int | None = None

    def lag_s(self, moment: datetime) -> float:
        """The age of the oldest row that waits; 0 when none does."""
        return max(0.0, (moment - self.oldest_at).total_seconds()) if self.oldest_at else 0.0


def waiting_of(position: int, window: Window) -> Waiting:
    """What waits behind a position, by the feed."""
    jump = window.jump
    newer = FeedEntry.objects.filter(pk__gt=jump[1] if jump else position)
    found = _sum_of(newer)
    if jump is None:
        return found
    older = _sum_of(FeedEntry.objects.filter(pk__gt=position, pk__lte=jump[0]))
    count = found.row_count + older.row_count
    return Waiting(count, older.oldest_at or found.oldest_at, older.row_count)


def _sum_of(entries: QuerySet[FeedEntry]) -> Waiting:
    count = entries.aggregate(all=Sum("row_count"))["all"] or 0
    oldest_at = entries.order_by("pk").values_list("received_at", flat=True).first()
    return Waiting(count, oldest_at)


def _taken_values(outcome: Outcome, count: int, newest_at: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {  # Any: fields
        "sent_count": F("sent_count") + count - outcome.rejected_count,
        "rejected_count": F("rejected_count") + outcome.rejected_count,
        "newest_sent_at": newest_at,
        "failure_count": CLOSED.failure_count,
        "open_until": CLOSED.open_until,
        "not_offered_at": None,
        "last_ok_at": now(),
    }
    return values | error_values(outcome.text) if outcome.text else values


def error_values(text: str) -> dict[str, Any]:  # Any: fields
    """What to write for an operator to read."""
    return {"last_error": text[:MAX_ERROR_CHARS], "last_error_at": now()}
