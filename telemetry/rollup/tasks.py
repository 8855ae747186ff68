"""Celery: fills touched hours."""

from __future__ import annotations

from typing import Final

from celery import shared_task

from fleet.lib.sql import try_session_lock
from telemetry.rollup.fill import fill_pending

HOURS_A_ROUND: Final = 200
"""A backfill of months must not hold a worker for minutes; the next round goes on."""


@shared_task(name="telemetry.rollup.tasks.fill_touched", ignore_result=True)
def fill_touched() -> int:
    """Fill the hours that were touched; how many. A second worker finds the lock and goes home."""
    with try_session_lock("telemetry-fill") as is_ours:
        return fill_pending(limit=HOURS_A_ROUND) if is_ours else 0
