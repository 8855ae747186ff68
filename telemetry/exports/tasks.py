"""Celery: carries exports out, and lets results expire."""

from __future__ import annotations

from celery import shared_task

from telemetry.exports.orders import nudge
from telemetry.exports.retention import expire_erased, expire_results, prune_jobs
from telemetry.exports.run import open_jobs, run_job

MAX_ROUNDS = 20
"""Jobs of one task: then its acknowledgement is due, and the next task goes on."""


@shared_task(name="telemetry.exports.tasks.run_exports", ignore_result=True)
def run_exports() -> str:
    """Give each export that nobody works on its turn. Safe to run twice, in parallel, to kill."""
    expire_erased()
    jobs = [run_job(pk) for pk in open_jobs()[:MAX_ROUNDS]]
    if open_jobs():
        nudge()
    return f"worked on {len(jobs)} exports"


@shared_task(name="telemetry.exports.tasks.expire_exports", ignore_result=True)
def expire_exports() -> str:
    """Remove results whose time is over, and the rows of old ones; safe to run twice."""
    expired = expire_results()
    return f"expired {len(expired)} results, forgot {prune_jobs()} exports"
