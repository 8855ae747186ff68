"""Celery: numbers the feed, sends what waits, forgets what nobody needs."""

from __future__ import annotations

from celery import shared_task

from fleet.lib.sql import try_session_lock
from telemetry.relay.dispatch import relay_all
from telemetry.relay.feed import feed, prune_feed
from telemetry.relay.letters import forget_letters


@shared_task(name="telemetry.relay.tasks.number_feed", ignore_result=True)
def number_feed() -> int:
    """Number what was committed; how many batches. A second worker finds the lock and goes home."""
    with try_session_lock("telemetry-feed-round") as is_ours:
        return feed() if is_ours else 0


@shared_task(name="telemetry.relay.tasks.relay", ignore_result=True)
def relay() -> str:
    """Send what waits. Safe to run twice, in parallel, and to kill.

    Leases part the work; this lock only keeps a second worker process free for other tasks.
    """
    with try_session_lock("telemetry-relay-round") as is_ours:
        return f"sent {relay_all().record_count} records" if is_ours else "another is at it"


@shared_task(name="telemetry.relay.tasks.keep_relay_books", ignore_result=True)
def keep_relay_books() -> str:
    """Drop feed entries that all have passed and letters past their time; hourly is plenty."""
    return f"dropped {prune_feed()} feed entries, {forget_letters()} letters"
