"""send_unfinished(): runs that nobody ended, once an hour, when all else of a collector is sent.

As careful as the rest: which runs go out is written first, a body holds the first of them, and what
is acknowledged leaves the list in the UPDATE that counts it. A death in between repeats the same
runs under the same ids.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from fleet.lib.clock import datetime_to_ns, now
from telemetry.delivery.http import Sender
from telemetry.models import RelayCursor, RelayDestination
from telemetry.relay.cursor import Books, Lost
from telemetry.relay.encode import Body, Target, choose, encode_traces
from telemetry.relay.letters import erased_among
from telemetry.relay.send import send_body
from telemetry.store.relay_open import UNFINISHED_AFTER, find_unfinished, read_open

EVERY: Final = timedelta(hours=1)
MAX_ALIVE: Final = 1_000
"""Open runs that are looked at again and stand in the cursor; of more the oldest count as lost."""
MAX_RUNS: Final = 500
"""Of one body, and of one reading."""


@dataclass(frozen=True, slots=True)
class Sent:
    """``is_idle``: all were looked at, and what was found is sent."""

    record_count: int = 0
    is_idle: bool = True


def is_look_due(cursor: RelayCursor, moment: datetime) -> bool:
    """Whether it is time to look for runs that nobody ended, or some are on their way."""
    lost = cursor.sending.get("lost")
    return isinstance(lost, dict) and _is_due(Lost.from_json(lost), moment)


def _is_due(lost: Lost, moment: datetime) -> bool:
    if lost.due or len(lost.ranges) > 1 or not lost.looked:
        return True
    return datetime.fromisoformat(lost.looked) + EVERY <= moment


def send_unfinished(books: Books, sender: Sender, ends_at_s: float) -> Sent:
    """Look for runs and send what is found, for at most so long. Errors: LeaseLost."""
    record_count = 0
    if not books.window.lost.ranges or not _is_due(books.window.lost, now()):
        return Sent()
    while True:
        if books.window.lost.due:
            count = _send(books, sender)
            if count is None:
                return Sent(record_count, is_idle=False)
            record_count += count
        elif not _look(books):
            return Sent(record_count)
        if time.monotonic() >= ends_at_s:
            return Sent(record_count, is_idle=False)


def _look(books: Books) -> bool:
    """Find the next runs; False: there are none any more for now."""
    lost = books.window.lost
    after, upto = lost.ranges[0]
    begins = datetime.fromisoformat(after)
    quiet_since = now() - UNFINISHED_AFTER
    until = min(quiet_since, datetime.fromisoformat(upto)) if upto else quiet_since
    if until <= begins and not upto and not lost.alive:
        books.write_lost(replace(lost, looked=now().isoformat()))
        return False
    found = find_unfinished(
        begins, max(begins, until), quiet_since=quiet_since, alive=lost.alive, limit=MAX_RUNS
    )
    dropped = max(0, len(found.alive) - MAX_ALIVE)
    alive = sorted(found.alive, key=lambda one: one.start_at)
    due, alive = found.due + alive[:dropped], alive[dropped:]
    is_over = found.until >= until
    ranges = [(found.until.isoformat(), upto), *lost.ranges[1:]]
    if is_over and upto and until < quiet_since:
        ranges = lost.ranges[1:]
    is_last = is_over and len(ranges) == 1
    looked = now().isoformat() if is_last else lost.looked
    books.write_lost(replace(lost, ranges=ranges, due=due, alive=alive, looked=looked))
    return bool(due) or not is_last


def _send(books: Books, sender: Sender) -> int | None:
    """Send the first of what is due; how many were taken, None: the rest has to wait."""
    lost, destination = books.window.lost, books.cursor.destination
    some = lost.due[: min(MAX_RUNS, books.window.max_records)]
    if not _is_wanted(destination.pk):
        return None
    erased = erased_among({one.install_id for one in some})
    entries = [entry for entry in read_open(some) if entry.install_id not in erased]
    age_h = destination.max_age_h
    oldest_ns = datetime_to_ns(now() - timedelta(hours=age_h)) if age_h else 0
    chosen = choose(entries, group_ids=destination.group_ids, oldest_ns=oldest_ns)
    target = replace(Target.of(destination), max_records=books.window.max_records)
    body: Body | None = next(encode_traces(chosen.entries, target), None)
    if body is None:  # all have ended, are too old or nobody's
        books.write_lost(
            replace(lost, due=lost.due[len(some) :]), expired_count=chosen.expired_count
        )
        return 0
    data = body.compressed()
    books.write()  # the lease lasts for the exchange
    outcome = send_body(
        sender,
        books.cursor.signal,
        data,
        record_count=body.record_count,
        headers_env=destination.headers_env,
    )
    count = body.record_count
    left = replace(lost, due=lost.due[body.last.position :])
    if outcome.kind == "taken":
        passed = [entry for entry in entries if entry.position <= body.last.position]
        books.take_lost(
            left,
            outcome,
            count=count,
            newest_at=body.newest_at,
            expired_count=choose(
                passed, group_ids=destination.group_ids, oldest_ns=oldest_ns
            ).expired_count,
        )
        return count
    if outcome.kind == "too_large" and count > 1:
        books.halve(count // 2)
        return 0
    if outcome.kind in {"dead", "too_large"}:
        books.set_lost_aside(left, outcome, data, count=count)
        return None
    books.pause(outcome)
    return None


def _is_wanted(pk: int) -> bool:
    return RelayDestination.objects.filter(pk=pk, is_enabled=True, sends_traces=True).exists()
