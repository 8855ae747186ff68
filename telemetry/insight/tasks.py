"""Celery: keeps the boards."""

from __future__ import annotations

from celery import shared_task

from fleet.lib.sql import try_session_lock
from telemetry.insight.boards import refresh_boards


@shared_task(name="telemetry.insight.tasks.keep_boards", ignore_result=True)
def keep_boards() -> int:
    """Count the boards that are due; how many windows. A second worker goes home."""
    with try_session_lock("telemetry-boards") as is_ours:
        return refresh_boards() if is_ours else 0
