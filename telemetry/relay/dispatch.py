"""relay_all(): every cursor that has something to do, each in a thread of its own.

A collector that hangs holds its own thread for as long as an exchange may take and nothing else:
the others are looked at again twice a second, also while this one is waited for.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Final

from django.db import connections
from django.db.models import Q

from fleet.lib.clock import now
from telemetry.delivery.http import TOTAL_S
from telemetry.models import DeadLetter, RelayCursor, Signal
from telemetry.relay.cursor import make_cursors
from telemetry.relay.feed import newest_entry
from telemetry.relay.metric_rounds import is_metrics_due
from telemetry.relay.rounds import BUDGET_S, Round, run_quietly, wants
from telemetry.relay.unfinished import is_look_due

MAX_THREADS: Final = 16
"""Database connections of one task; more cursors take turns."""
LOOK_EVERY_S: Final = 0.5


def due_cursors(moment: datetime) -> list[int]:
    """Cursors that are free, may try now and have something to send; furthest behind first."""
    newest = newest_entry()
    free = Q(lease_until=None) | Q(lease_until__lt=moment)
    may = Q(open_until=None) | Q(open_until__lte=moment)
    asked = set(
        DeadLetter.objects.filter(
            destination__isnull=False, replay_asked_at__isnull=False, replayed_at=None
        ).values_list("destination_id", "signal")
    )
    found = RelayCursor.objects.filter(free, may, destination__is_enabled=True)
    return [
        cursor.pk
        for cursor in found.select_related("destination").order_by("position", "pk")
        if wants(cursor.destination, cursor.signal)
        and (
            (cursor.destination_id, cursor.signal) in asked
            or is_due(cursor, newest=newest, moment=moment)
        )
    ]


def is_due(cursor: RelayCursor, *, newest: int, moment: datetime) -> bool:
    """Whether a cursor has something to send, or to catch up since a person said so."""
    if cursor.signal == Signal.METRICS:
        return is_metrics_due(cursor, moment)
    since = cursor.destination.since_at.isoformat()
    if cursor.position < newest or cursor.sending.get("since") != since:
        return True
    return cursor.signal == Signal.TRACES and is_look_due(cursor, moment)


def relay_all(*, budget_s: float = BUDGET_S, stop: threading.Event | None = None) -> Round:
    """Send what waits everywhere, for at most about so long; safe to run twice and in parallel."""
    make_cursors()
    ends_at_s = time.monotonic() + budget_s
    gives_up_at_s = ends_at_s + TOTAL_S
    running: dict[int, Future[Round]] = {}
    record_count = 0
    with ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="relay") as pool:
        while True:
            moment_s = time.monotonic()
            may_start = moment_s < ends_at_s or (bool(running) and moment_s < gives_up_at_s)
            if may_start and not (stop is not None and stop.is_set()):
                left_s = max(1.0, ends_at_s - moment_s)
                for pk in due_cursors(now()):
                    if pk not in running and len(running) < MAX_THREADS:
                        running[pk] = pool.submit(_in_thread, pk, left_s)
            if not running:
                break
            wait(running.values(), timeout=LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for pk in [pk for pk, future in running.items() if future.done()]:
                record_count += running.pop(pk).result().record_count
    return Round(record_count, is_idle=True)


def _in_thread(pk: int, budget_s: float) -> Round:
    try:
        return run_quietly(pk, budget_s=budget_s)
    finally:
        connections.close_all()
