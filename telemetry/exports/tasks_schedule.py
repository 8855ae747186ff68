"""Celery: orders what is due by schedules."""

from __future__ import annotations

from celery import shared_task

from fleet.lib.clock import now
from telemetry.exports.schedules import order_due


@shared_task(name="telemetry.exports.tasks_schedule.order_scheduled", ignore_result=True)
def order_scheduled() -> str:
    """Order the exports that are due. Safe to run twice, in parallel, and to kill."""
    done = order_due(now())
    return (
        f"ordered {done.job_count} exports, left out {done.left_out_count} times, "
        f"refused {done.refused_count} schedules"
    )
