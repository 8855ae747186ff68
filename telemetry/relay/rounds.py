"""run_cursor(): sends what waits for one signal of one collector, in order, until there is no more.

Windows of feed entries are read, encoded and sent body by body; ``cursor.Books`` writes each step
before and after. Ends at the first body that must wait; the breaker says until when.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from django.db import DatabaseError, InterfaceError

from agent_client.contract.tables import EVENT_TABLES, Table
from fleet.lib.clock import datetime_to_ns, now
from telemetry.delivery.breaker import OPEN_AFTER, may_try
from telemetry.delivery.guard import EndpointRefused, check_endpoint
from telemetry.delivery.headers import header_values
from telemetry.delivery.http import Limits, Sender
from telemetry.delivery.lease import held
from telemetry.models import FeedEntry, IngestBatch, RelayCursor, RelayDestination, Signal
from telemetry.relay.cursor import LEASE_S, SIGNALS, Books, LeaseLost
from telemetry.relay.encode import Body, Target, choose, encode_logs, encode_traces
from telemetry.relay.letters import erased_among
from telemetry.relay.metric_rounds import send_metrics
from telemetry.relay.replay import send_letters
from telemetry.relay.send import Outcome, send_body
from telemetry.relay.unfinished import send_unfinished
from telemetry.store.relay_rows import (
    LOG_TABLES,
    TRACE_TABLES,
    EntryRows,
    Place,
    place_of,
    read_entries,
)
from telemetry.store.retention import keep_from

logger = structlog.get_logger(__name__)
BUDGET_S: Final = 20.0
LIMITS: Final = Limits()
WINDOW_ROWS: Final = 10_000
"""A few tens of megabytes in memory, and five bodies between two readings."""
WINDOW_ENTRIES: Final = 400
ASK_AGAIN: Final = timedelta(hours=1)
"""A receiver that did not take a signal may have been upgraded."""
HALF_OPEN_RECORDS: Final = 100
"""What is risked on a receiver that has failed many times in a row."""

_TABLES: Final[dict[str, Sequence[Table]]] = {
    Signal.TRACES: TRACE_TABLES,
    Signal.LOGS: LOG_TABLES,
}


@dataclass(frozen=True, slots=True)
class _Made:
    """The next body, None after the last one, or why there is none."""

    body: Body | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, bodies: Iterator[Body]) -> _Made:
        """Make it."""
        try:
            return cls(next(bodies, None))
        except Exception as error:  # noqa: BLE001 -- raised again when the body before is booked
            return cls(error=error)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did; ``is_idle``: nothing waits any more."""

    record_count: int = 0
    is_idle: bool = False


def run_cursor(pk: int, *, budget_s: float = BUDGET_S, limits: Limits = LIMITS) -> Round:
    """Send for at most about so long (a body that was begun is finished).

    Safe to run twice, in parallel and to kill: the second finds the lease taken.
    """
    with held(RelayCursor, pk, for_s=LEASE_S) as lease:
        if lease is None:
            return Round()
        cursor = RelayCursor.objects.select_related("destination").get(pk=pk)
        if not wants(cursor.destination, cursor.signal) or not may_try(cursor.open_until, now()):
            return Round()
        books = Books(lease, cursor)
        try:
            return _relay(books, time.monotonic() + budget_s, limits)
        except LeaseLost:
            return Round()


def wants(destination: RelayDestination, signal: str) -> bool:
    """Whether a collector is enabled and gets a signal."""
    return destination.is_enabled and bool(getattr(destination, SIGNALS[Signal(signal)]))


def _relay(books: Books, ends_at_s: float, limits: Limits) -> Round:
    destination = books.cursor.destination
    values, faults = header_values(destination.headers_env)
    if faults:
        books.pause(Outcome("stop", " ".join(faults)))
        return Round()
    try:
        endpoint = check_endpoint(destination.endpoint)
    except EndpointRefused as error:
        books.pause(Outcome("stop", str(error)))
        return Round()
    with Sender(endpoint, values, limits=limits) as sender:
        if books.cursor.signal == Signal.METRICS:
            refused_at = books.cursor.not_offered_at
            is_refused = refused_at is not None and now() < refused_at + ASK_AGAIN
            return Round(send_metrics(books, sender, is_refused=is_refused), is_idle=True)
        if not send_letters(books, sender, ends_at_s):
            return Round()
        return _Relay(books, sender, ends_at_s).run()


class _Relay:
    """One round of traces or logs."""

    def __init__(self, books: Books, sender: Sender, ends_at_s: float) -> None:
        self._books, self._sender, self._ends_at_s = books, sender, ends_at_s
        self._destination = books.cursor.destination
        self._signal = books.cursor.signal
        self._tables = _TABLES[self._signal]
        self._record_count = 0
        self._asks_again_at = (books.cursor.not_offered_at or now()) + ASK_AGAIN
        self._is_refused = books.cursor.not_offered_at is not None and now() < self._asks_again_at

    def run(self) -> Round:
        with ThreadPoolExecutor(1, thread_name_prefix="relay-post") as self._post:
            return self._run()

    def _run(self) -> Round:
        self._books.settle_start()
        is_idle = False
        while time.monotonic() < self._ends_at_s:
            if not self._books.window.is_open and not self._open():
                is_idle = True
                break
            if not self._send_window():
                break
        if is_idle and self._signal == Signal.TRACES:
            sent = send_unfinished(self._books, self._sender, self._ends_at_s)
            self._record_count += sent.record_count
            is_idle = sent.is_idle
        self._books.note_lag()
        return Round(self._record_count, is_idle)

    def _open(self) -> bool:
        """Open the next window; False when nothing waits."""
        books = self._books
        jump = books.window.jump
        waiting = FeedEntry.objects.filter(pk__gt=books.position).order_by("pk")
        if jump is not None:
            waiting = waiting.filter(pk__lte=jump[0])
        last, row_count = 0, 0
        for pk, count in waiting.values_list("pk", "row_count")[:WINDOW_ENTRIES]:
            if last and row_count + count > WINDOW_ROWS:
                break
            last, row_count = pk, row_count + count
        if not last:
            if jump is None:
                return False
            books.end_jump()
            return self._open()
        age_h = self._destination.max_age_h
        oldest_ns = datetime_to_ns(now() - timedelta(hours=age_h)) if age_h else 0
        books.open_window(last, oldest_ns)
        return True

    def _send_window(self) -> bool:
        """Send an open window to its end; False when the rest has to wait."""
        books = self._books
        entries = list(
            FeedEntry.objects.filter(pk__gt=books.position, pk__lte=books.window.last).order_by(
                "pk"
            )
        )
        found = read_entries(entries, self._tables)
        erased = erased_among({entry.install_id for entry in found})
        found = [entry for entry in found if entry.install_id not in erased]
        chosen = choose(
            found, group_ids=self._destination.group_ids, oldest_ns=books.window.oldest_ns
        )
        expired = chosen.expired_count + self._vanished(entries)
        if self._is_refused:
            books.close_window(
                expired_count=expired, rejected_count=sum(e.count() for e in chosen.entries)
            )
            return True
        while True:
            step = self._send_bodies(chosen.entries)
            if step != "again":
                break
        if step == "done":
            books.close_window(expired_count=expired)
            return True
        return step == "reread"

    def _send_bodies(self, entries: list[EntryRows]) -> str:
        """done; again: in smaller bodies; reread: rows were erased; wait."""
        books = self._books
        installs = {entry.install_id for entry in entries}
        was_failing = books.failure_count >= OPEN_AFTER
        bodies = self._bodies(entries)
        body = next(bodies, None)
        if body is not None:
            books.begin_body(body.last)
        while body is not None:
            # The last look before it leaves: who is erased or switched off meanwhile is not sent.
            if erased_among(installs):
                books.forget_body()
                return "reread"
            if not self._is_wanted():
                return "wait"
            sending = self._post.submit(self._sent, body)
            # While it is on its way the next one is made; what goes wrong there waits its turn.
            made = _Made.of(bodies)
            data, outcome = sending.result()
            is_late = time.monotonic() >= self._ends_at_s
            goes_on = not is_late and not was_failing and made.error is None
            following = made.body if goes_on else None
            step = self._account(body, data, outcome, following)
            if step != "next":
                return step
            if made.error is not None:
                raise made.error
            if is_late:
                return "wait"
            if was_failing:  # it takes bodies again: whole ones from here on
                return "again"
            body = following
        return "done"

    def _sent(self, body: Body) -> tuple[bytes, Outcome]:
        """In the thread that sends; no database there."""
        data = body.compressed()
        outcome = send_body(
            self._sender,
            self._signal,
            data,
            record_count=body.record_count,
            headers_env=self._destination.headers_env,
        )
        return data, outcome

    def _account(self, body: Body, data: bytes, outcome: Outcome, following: Body | None) -> str:
        """Write what became of a body, and that ``following`` begins; next, again or wait."""
        books = self._books
        if outcome.kind == "taken":
            books.take_body(
                body.last,
                outcome,
                count=body.record_count,
                newest_at=body.newest_at,
                begins=following.last if following else None,
            )
            self._record_count += body.record_count
            return "next"
        if outcome.kind == "too_large" and body.record_count > 1:
            books.halve(body.record_count // 2)
            return "again"
        if outcome.kind in {"dead", "too_large"}:
            books.set_aside(body.last, outcome, data, count=body.record_count)
            return "wait"
        if outcome.kind == "not_offered":
            books.not_offered(outcome)
            self._is_refused = True
            return "reread"
        books.pause(outcome)
        return "wait"

    def _bodies(self, entries: list[EntryRows]) -> Iterator[Body]:
        """The bodies of a window that are not accounted for; first the one that may have been sent.

        A repeat ends at the same record as the body it repeats, whatever the limits are by now.
        """
        window = self._books.window
        encode = encode_traces if self._signal == Signal.TRACES else encode_logs
        most = window.max_records
        if self._books.failure_count >= OPEN_AFTER:
            most = min(most, HALF_OPEN_RECORDS)
        target = replace(Target.of(self._destination), max_records=most)
        after = window.after
        if window.upto is not None:
            for body in encode(self._until(entries, window.upto), target, after=after):
                yield body
                after = body.last
        yield from encode(entries, target, after=after)

    def _until(self, entries: list[EntryRows], upto: Place) -> list[EntryRows]:
        kept = []
        for entry in entries:
            if entry.position > upto.position:
                break
            rows = {
                table.name: [
                    row
                    for row in entry.rows.get(table.name, ())
                    if place_of(entry, table_no, table, row) <= upto
                ]
                for table_no, table in enumerate(self._tables)
            }
            kept.append(replace(entry, rows=rows))
        return kept

    def _is_wanted(self) -> bool:
        switch = {SIGNALS[Signal(self._signal)]: True}
        return RelayDestination.objects.filter(
            pk=self._destination.pk, is_enabled=True, **switch
        ).exists()

    def _vanished(self, entries: Sequence[FeedEntry]) -> int:
        """Rows that retention dropped before they were sent.

        Counted once for a collector, with its first signal. Only entries that reach back to a
        dropped day are looked at: a run that came again moved to a later entry and is not missing.
        """
        if self._signal == Signal.LOGS and self._destination.sends_traces:
            return 0
        day = keep_from(now())
        oldest = datetime(day.year, day.month, day.day, tzinfo=UTC)
        young = set(
            IngestBatch.objects.filter(
                batch_id__in=[entry.batch_id for entry in entries], first_hour__gte=oldest
            ).values_list("install_id", "batch_id")
        )
        old = [entry for entry in entries if (entry.install_id, entry.batch_id) not in young]
        old = [entry for entry in old if entry.received_at < now() - timedelta(days=1)]
        if not old:
            return 0
        left = {found.position: found.count() for found in read_entries(old, EVENT_TABLES)}
        return sum(max(0, entry.row_count - left.get(entry.pk, 0)) for entry in old)


def run_quietly(pk: int, *, budget_s: float = BUDGET_S) -> Round:
    """``run_cursor`` for a thread: what goes wrong is logged, the next round tries again."""
    try:
        return run_cursor(pk, budget_s=budget_s)
    except RelayCursor.DoesNotExist:
        return Round()
    except (DatabaseError, InterfaceError) as error:
        logger.warning("relay_failed", cursor=pk, error=type(error).__name__)
        return Round()
