"""Celery: folds what came in."""

from __future__ import annotations

from celery import shared_task

from fleet.lib.sql import try_session_lock
from telemetry.rollup.fill import fill_round
from telemetry.rollup.fold import LOCK
from telemetry.rollup.hooks import run_after_fill


@shared_task(name="telemetry.rollup.tasks.fill_touched", ignore_result=True)
def fill_touched() -> int:
    """Bring touched hours up to date; how many. A second worker finds the lock and goes home."""
    with try_session_lock(LOCK) as is_ours:
        filled = fill_round() if is_ours else 0
    run_after_fill()
    return filled
