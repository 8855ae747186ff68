"""Celery: keeps the partitions."""

from __future__ import annotations

from celery import shared_task

from telemetry.store.retention import maintain


@shared_task(name="telemetry.store.tasks.maintain_partitions", ignore_result=True)
def maintain_partitions() -> str:
    """Make days ahead, drop expired ones. Safe to run twice; hourly is plenty."""
    done = maintain()
    return f"created {done.created}, dropped {done.dropped}, held {len(done.held_days)} days"
