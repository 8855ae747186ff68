"""Celery: drains the spool, carries out orders on quarantined lines."""

from __future__ import annotations

from celery import shared_task

from telemetry.ingest.drain import drain
from telemetry.ingest.quarantine import open_jobs, run_job


@shared_task(name="telemetry.ingest.tasks.drain_spool", ignore_result=True)
def drain_spool() -> str:
    """Store what waits in the spool. Safe to run twice, in parallel, and to kill."""
    done = drain()
    return f"stored {done.batch_count} batches, {done.row_count} rows, failed {done.failed_count}"


@shared_task(name="telemetry.ingest.tasks.run_quarantine_jobs", ignore_result=True)
def run_quarantine_jobs() -> str:
    """Carry out the orders that nobody works on. Safe to run twice, in parallel, and to kill."""
    jobs = [run_job(pk) for pk in open_jobs()]
    return f"worked on {len(jobs)} orders"
