"""The fleet's periodic tasks: show life, notice silence."""

from __future__ import annotations

import socket

from celery import shared_task

from fleet.lib.clock import now
from fleet.models import ProcessBeat
from fleet.policy import ack


@shared_task(name="fleet.tasks.heartbeat")
def heartbeat() -> None:
    """A worker shows life by running."""
    note_beat("worker")


def note_beat(kind: str) -> None:
    """Write down that a process of a kind is alive now."""
    ProcessBeat.objects.update_or_create(
        kind=kind, defaults={"at": now(), "hostname": socket.gethostname()[:255]}
    )


@shared_task(name="fleet.tasks.mark_offline")
def mark_offline() -> int:
    """Mark installs that fell silent; how many."""
    return ack.mark_offline(moment=now())
