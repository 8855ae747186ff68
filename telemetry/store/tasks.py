"""Celery: keeps the partitions, and finishes erasures."""

from __future__ import annotations

from celery import shared_task

from telemetry.store.erase import resume_erasures
from telemetry.store.retention import maintain


@shared_task(name="telemetry.store.tasks.maintain_partitions", ignore_result=True)
def maintain_partitions() -> str:
    """Make days ahead, drop expired ones. Safe to run twice; hourly is plenty."""
    done = maintain()
    return f"created {done.created}, dropped {done.dropped}, held {len(done.held_days)} days"


@shared_task(name="telemetry.store.tasks.go_on_erasing", ignore_result=True)
def go_on_erasing() -> int:
    """Go on with erasures that are under way and nobody works on; safe to run twice."""
    return resume_erasures()
