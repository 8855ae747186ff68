"""Celery: drains the spool, carries out orders on quarantined lines."""

from __future__ import annotations

from celery import shared_task

from telemetry.ingest.drain import drain


@shared_task(name="telemetry.ingest.tasks.drain_spool", ignore_result=True)
def drain_spool() -> str:
    """Store what waits in the spool. Safe to run twice, in parallel, and to kill."""
    done = drain()
    return f"stored {done.batch_count} batches, {done.row_count} rows, failed {done.failed_count}"
