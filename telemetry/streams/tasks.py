"""Celery: looks for what needs a person, sends the streams on."""

from __future__ import annotations

from celery import shared_task

from fleet.lib.clock import now
from telemetry.streams.alerts import prune_alerts, run_round
from telemetry.streams.send import due_streams, send_stream


@shared_task(name="telemetry.streams.tasks.look_for_alerts", ignore_result=True)
def look_for_alerts() -> str:
    """Write what began and what is over. Safe to run twice, in parallel, and to kill."""
    done = run_round()
    pruned = prune_alerts(now())
    return f"raised {done.raised}, cleared {done.cleared}, pruned {pruned}"


@shared_task(name="telemetry.streams.tasks.send_streams", ignore_result=True)
def send_streams() -> int:
    """Nudge each stream that has something to send, apart: one that hangs holds up no other."""
    due = due_streams(now())
    for pk in due:
        send_one.apply_async((pk,), expires=30)
    return len(due)


@shared_task(name="telemetry.streams.tasks.send_one", ignore_result=True)
def send_one(pk: int) -> str:
    """Send what waits of one stream. Safe to run twice, in parallel, and to kill."""
    done = send_stream(pk)
    return f"sent {done.sent}, set aside {done.dead}"
