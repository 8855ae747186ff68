"""The fleet's periodic tasks: show life, notice silence, forget what is stale."""

from __future__ import annotations

import socket
from datetime import timedelta

from celery import shared_task

from fleet.lib.clock import now
from fleet.models import SEEN_DAYS, STALE_DAYS, EnrollmentRequest, ProcessBeat, ProcessSeen
from fleet.policy import ack
from fleet.watch import life


@shared_task(name="fleet.tasks.heartbeat")
def heartbeat() -> None:
    """A worker shows life by running."""
    note_beat("worker")


def note_beat(kind: str) -> None:
    """Write down that a process of a kind is alive now."""
    ProcessBeat.objects.update_or_create(
        kind=kind, defaults={"at": now(), "hostname": socket.gethostname()[:255]}
    )
    life.show(kind)


@shared_task(name="fleet.tasks.mark_offline")
def mark_offline() -> int:
    """Mark installs that fell silent; how many."""
    return ack.mark_offline(moment=now())


@shared_task(name="fleet.tasks.forget_stale")
def forget_stale() -> int:
    """Drop ended sessions, lapsed enrollment requests, old sign-ins and processes; how many."""
    from axes.models import AccessAttempt, AccessFailureLog, AccessLog
    from django.contrib.sessions.models import Session

    moment = now()
    before = moment - timedelta(days=STALE_DAYS)
    gone = (
        Session.objects.filter(expire_date__lt=moment),
        EnrollmentRequest.objects.filter(expires_at__lt=before),
        ProcessSeen.objects.filter(at__lt=moment - timedelta(days=SEEN_DAYS)),
        *(
            model.objects.filter(attempt_time__lt=before)
            for model in (AccessAttempt, AccessFailureLog, AccessLog)
        ),
    )
    return sum(rows.delete()[0] for rows in gone)
