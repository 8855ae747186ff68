"""The periodic tasks in words: what each is for, how it went last, and whether it is late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from celery import current_app
from django.utils.translation import gettext_lazy as _

from fleet.models import TaskRun

WORDS: Final[Mapping[str, object]] = {
    "heartbeat": _("Shows that a worker takes work"),
    "mark-offline": _("Marks installs that fell silent"),
    "fill-touched": _("Adds new batches to the sums that pages show"),
    "forget-stale": _("Drops ended sessions, lapsed enrollments and old sign-ins"),
    "go-on-erasing": _("Goes on erasing what an erased install left"),
    "drain-spool": _("Stores what waits in the overload spool"),
    "number-feed": _("Gives new batches their place in the relays' order"),
    "relay": _("Sends telemetry on to collectors"),
    "keep-relay-books": _("Drops feed entries and dead letters that are due"),
    "run-quarantine-jobs": _("Takes refused lines in again, or discards them"),
    "look-for-alerts": _("Looks for what needs a person"),
    "send-streams": _("Sends audit rows and alerts to streams"),
    "run-exports": _("Goes on with exports that nobody works on"),
    "expire-exports": _("Removes results whose time is over"),
    "order-scheduled-exports": _("Orders the exports that are due"),
    "maintain-partitions": _("Makes day partitions ahead and drops expired ones"),
}
"""By the entry of the beat schedule; a test holds the two together."""
LATE_INTERVALS: Final = 3
LATE_LEAST_S: Final = 180.0
"""Below this a worker is busy, not late."""

State = Literal["ok", "late", "failed", "waiting"]


@dataclass(frozen=True, slots=True)
class Periodic:
    """One entry of the schedule with its last run; ``run`` is None before the first."""

    name: str
    words: str
    every_s: float
    run: TaskRun | None
    state: State


def periodic_tasks(moment: datetime) -> list[Periodic]:
    """All of them, in the order of the schedule. Errors: DatabaseError."""
    runs = {run.task: run for run in TaskRun.objects.all()}
    found = []
    for name, entry in current_app.conf.beat_schedule.items():
        every_s, run = float(entry["schedule"]), runs.get(entry["task"])
        state = judge(run, every_s, moment)
        found.append(Periodic(name, str(WORDS.get(name, "")), every_s, run, state))
    return found


def judge(run: TaskRun | None, every_s: float, moment: datetime) -> State:
    """How a task stands. Pure."""
    if run is None:
        return "waiting"
    if run.has_failed:
        return "failed"
    silent_s = (moment - run.ended_at).total_seconds()
    return "late" if silent_s > max(LATE_INTERVALS * every_s, LATE_LEAST_S) else "ok"
