"""feed(): what was committed since the last round gets its place in the order that relays follow.

Ingest only leaves a mark on the ledger row (``is_fed``); numbering happens here, after the commit,
so that it costs no batch anything. Relays wait for nothing but this.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final

from django.db.models import Max, Min

from fleet.lib.clock import now
from telemetry.models import FeedEntry, RelayCursor, Signal
from telemetry.store.bounds import ledger_kept_from
from telemetry.store.feed import number_batches

ROUND_BATCHES: Final = 2_000
"""Locks of one transaction; a backlog (the first start after an upgrade) takes several."""
BUDGET_S: Final = 10.0
PRUNE_CHUNK: Final = 10_000
FED_SIGNALS: Final = (Signal.TRACES, Signal.LOGS)
"""Signals whose cursors count feed entries."""


def feed(*, budget_s: float = BUDGET_S) -> int:
    """Number what waits, for at most so long; how many batches."""
    ends_at_s = time.monotonic() + budget_s
    total = 0
    while True:
        done = number_batches(ROUND_BATCHES)
        total += done
        if done < ROUND_BATCHES or time.monotonic() >= ends_at_s:
            return total


def first_entry_since(moment: datetime) -> int:
    """The lowest number of what came in at or after a time; one past the newest when none did."""
    found = FeedEntry.objects.filter(received_at__gte=moment).aggregate(first=Min("pk"))["first"]
    return int(found) if found is not None else newest_entry() + 1


def newest_entry() -> int:
    """The highest number, 0 for an empty feed."""
    return int(FeedEntry.objects.aggregate(last=Max("pk"))["last"] or 0)


def prune_feed(*, budget_s: float = BUDGET_S) -> int:
    """Drop entries that the ledger forgot and every enabled relay has passed; how many.

    A disabled collector holds nothing: when it is enabled again it goes on with what is there.
    """
    ends_at_s = time.monotonic() + budget_s
    cursors = RelayCursor.objects.filter(destination__is_enabled=True, signal__in=FED_SIGNALS)
    passed = cursors.aggregate(lowest=Min("position"))["lowest"]
    old = FeedEntry.objects.filter(received_at__lt=ledger_kept_from(now()))
    if passed is not None:
        old = old.filter(pk__lte=passed)
    deleted = 0
    while time.monotonic() < ends_at_s:
        keys = list(old.order_by("pk").values_list("pk", flat=True)[:PRUNE_CHUNK])
        if not keys:
            break
        # Numbers are dense and old ones contiguous: a range is one short statement.
        some = old.filter(pk__gte=keys[0], pk__lte=keys[-1])
        deleted += some._raw_delete(some.db)  # noqa: SLF001 -- one DELETE: nothing points here
    return deleted
