"""Schedules: jobs for the times that are due, each time once, and what was left out said.

A schedule's ``next_at`` is moved on, its jobs are written and their audit rows with them in one
transaction, so whoever is killed has done all of it or nothing, and whoever comes second finds
nothing due. A job is ordered ``settle_minutes`` after its time: agents send every few minutes, and
what had not arrived when the job was ordered is in no other window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.db.models import F
from django.utils.translation import gettext as _

from fleet.audit import Actor, record_change, snapshot
from telemetry.exports.allowed import ADD, lacking_for, permission_names
from telemetry.exports.choice import Choice, ChoiceRefused
from telemetry.exports.faults import ExportRefused
from telemetry.exports.orders import Order, order_job
from telemetry.exports.slots import slot_before, slots_after, slots_between, window_of
from telemetry.models.exports import ExportJob, ExportSchedule

logger = structlog.get_logger(__name__)
MAX_AT_ONCE: Final = 100
"""Jobs that one schedule gets for times it missed: an hourly one after four days. More would fill
the queue before anybody could look; the older ones are left out, and said."""
LATE: Final = timedelta(minutes=10)
"""A time is missed when nothing ran for so long after it was due: twenty rounds of the task."""
CONSOLE: Final = "console"
"""Who acts when nobody does."""
CatchUp: Final = ExportSchedule.CatchUp
RHYTHM: Final = ("every", "at_minute", "at_hour", "weekday", "day_of_month", "time_zone")
WATCHED: Final = (
    *("name", *RHYTHM, "settle_minutes", "catch_up", "is_enabled", "datasets", "fmt"),
    *("is_gzipped", "chosen", "destination", "keep_days", "reason", "owner"),
)
"""What an audit row of a change holds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due: slots that get a job, and those that are left out."""

    slots: tuple[datetime, ...] = ()
    left_out_count: int = 0
    first_left_out: datetime | None = None
    last_left_out: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a round did."""

    job_count: int = 0
    left_out_count: int = 0
    refused_count: int = 0

    def __add__(self, other: Ordered) -> Ordered:
        """Both together."""
        return Ordered(
            self.job_count + other.job_count,
            self.left_out_count + other.left_out_count,
            self.refused_count + other.refused_count,
        )


def plan_due(schedule: ExportSchedule, moment: datetime) -> Plan:
    """Which times get a job now, and which are left out. Pure.

    Of ``all`` the newest MAX_AT_ONCE; of ``last`` the newest; of ``none`` the newest when it is not
    late.
    """
    if schedule.next_at is None:
        return Plan()
    until = moment - timedelta(minutes=schedule.settle_minutes)
    most = MAX_AT_ONCE if schedule.catch_up == CatchUp.ALL else 1
    kept: deque[datetime] = deque()
    left_out, first, last = 0, None, None
    start = schedule.next_at - timedelta(microseconds=1)
    for slot in slots_between(schedule, start, until):
        kept.append(slot)
        if len(kept) > most:
            last = kept.popleft()
            first, left_out = first or last, left_out + 1
    if kept and schedule.catch_up == CatchUp.NONE and until - kept[0] > LATE:
        last = kept.popleft()
        first, left_out = first or last, left_out + 1
    return Plan(tuple(kept), left_out, first, last)


def order_due(moment: datetime) -> Ordered:
    """Order what is due in every schedule. Safe to run twice, in parallel, and to kill."""
    due = ExportSchedule.objects.filter(is_enabled=True, next_at__lte=moment).order_by("next_at")
    done = Ordered()
    for schedule in due.select_related("destination"):
        try:
            done += _order_one(schedule, moment)
        except (OperationalError, InterfaceError):
            raise  # the database is away: the next round does it
        except DatabaseError as error:
            # One schedule that cannot be stored holds up no other.
            logger.warning(
                "export_schedule_failed", schedule=schedule.pk, kind=type(error).__name__
            )
            done += Ordered(refused_count=1)
    return done


def _order_one(seen: ExportSchedule, moment: datetime) -> Ordered:
    """One schedule's due times, in one transaction.

    1. Its ``next_at`` is moved on, on condition that it is still what was seen: whoever comes
       second waits here and then finds nothing to do.
    2. The jobs are written, and what was left out.
    3. Audit rows come last: they hold the chain's lock.
    """
    try:
        plan = plan_due(seen, moment)
    except (KeyError, ValueError):
        return _refuse(seen, _("There is no time zone %s on this machine.") % seen.time_zone)
    if not plan.slots and not plan.left_out_count:
        return Ordered()
    owner = owner_of(seen)
    problem = problem_of(seen, owner)
    if problem or owner is None:
        return _refuse(seen, problem)
    try:
        with transaction.atomic():
            return _take(seen, plan, owner, moment)
    except ExportRefused as error:
        return _refuse(seen, str(error))


def _take(seen: ExportSchedule, plan: Plan, owner: AbstractBaseUser, moment: datetime) -> Ordered:
    until = moment - timedelta(minutes=seen.settle_minutes)
    moved: dict[str, object] = {"next_at": next(slots_after(seen, until)), "last_error": ""}
    if plan.left_out_count:
        moved["left_out_count"] = F("left_out_count") + plan.left_out_count
        moved["left_out_at"] = plan.last_left_out
    mine = ExportSchedule.objects.filter(pk=seen.pk, is_enabled=True, next_at=seen.next_at)
    if not mine.update(**moved):
        return Ordered()
    # A time that was ordered before next_at was set back by hand has its job.
    there = set(
        ExportJob.objects.filter(schedule=seen, slot_at__in=plan.slots).values_list(
            "slot_at", flat=True
        )
    )
    slots = [slot for slot in plan.slots if slot not in there]
    for slot in slots:
        start_at, end_at = window_of(seen, slot)
        _order(seen, start_at, end_at, actor=owner, slot_at=slot)
    if plan.left_out_count:
        record_change(
            actor=CONSOLE,
            action="exportschedule.left_out",
            target=seen,
            pre={"catch_up": seen.catch_up},
            post={
                "times": plan.left_out_count,
                "first": _iso(plan.first_left_out),
                "last": _iso(plan.last_left_out),
            },
        )
    return Ordered(len(slots), plan.left_out_count)


def _order(
    schedule: ExportSchedule,
    start_at: datetime,
    end_at: datetime,
    *,
    actor: AbstractBaseUser,
    slot_at: datetime | None,
) -> ExportJob:
    """Errors: ExportRefused."""
    try:
        choice = Choice.from_dict(schedule.chosen)
    except ChoiceRefused as error:
        raise ExportRefused(str(error)) from None
    order = Order(
        datasets=tuple(schedule.datasets),
        fmt=schedule.fmt,
        start_at=start_at,
        end_at=end_at,
        choice=choice,
        destination=schedule.destination,
        keep_days=schedule.keep_days,
        reason=schedule.reason,
        is_gzipped=schedule.is_gzipped,
    )
    return order_job(order, actor=actor, schedule=schedule, slot_at=slot_at)


def _refuse(schedule: ExportSchedule, problem: str) -> Ordered:
    """Say why nothing is ordered, once: the times stay due until somebody mends it."""
    problem = problem[:300]
    with transaction.atomic():
        mine = ExportSchedule.objects.filter(pk=schedule.pk).exclude(last_error=problem)
        if mine.update(last_error=problem):
            record_change(
                actor=CONSOLE,
                action="exportschedule.refused",
                target=schedule,
                pre={"last_error": schedule.last_error},
                post={"last_error": problem},
            )
    return Ordered(refused_count=1)


def owner_of(schedule: ExportSchedule) -> AbstractBaseUser | None:
    """Who answers for a schedule; its jobs are ordered with this person's permissions."""
    model = get_user_model()
    return model.objects.filter(**{model.USERNAME_FIELD: schedule.owner}).first()


def problem_of(schedule: ExportSchedule, owner: AbstractBaseUser | None) -> str:
    """Why a schedule cannot order now, with what to do; "" when it can."""
    mend = _("Somebody who may order this can save the schedule, and answers for it from then on.")
    if owner is None:
        return f"{_('Its owner %s is not a user any more.') % schedule.owner} {mend}"
    if not owner.is_active:
        return f"{_('Its owner %s may not sign in any more.') % schedule.owner} {mend}"
    missing = lacking_for(owner, schedule.datasets, also=ADD)
    if missing:
        said = _("Its owner %(owner)s lacks: %(permissions)s.") % {
            "owner": schedule.owner,
            "permissions": ", ".join(permission_names(missing)),
        }
        return f"{said} {mend}"
    if schedule.destination is not None and not schedule.destination.is_enabled:
        said = _("Its destination %s is switched off.") % schedule.destination
        return f"{said} {_('Switch it on, or choose another.')}"
    return ""


def order_now(schedule: ExportSchedule, *, actor: AbstractBaseUser, moment: datetime) -> ExportJob:
    """One job beside the times: the last window that is over, for the person who asks.

    Errors: ExportRefused when it cannot be ordered.
    """
    start_at, end_at = window_of(schedule, slot_before(schedule, moment))
    return _order(schedule, start_at, end_at, actor=actor, slot_at=None)


def save_schedule(
    schedule: ExportSchedule, *, actor: AbstractBaseUser, moment: datetime
) -> ExportSchedule:
    """Write a new or changed schedule; whoever saves it answers for it. Audited.

    Times that are due already stay due when only other things were changed; another rhythm, and
    a schedule that was off, begin with their next time.
    """
    with transaction.atomic():
        # Locked: a round that moves next_at on meanwhile must not be undone by an older read.
        held = ExportSchedule.objects.select_for_update(of=("self",))
        before = held.filter(pk=schedule.pk).first() if schedule.pk else None
        schedule.owner = actor.get_username()
        schedule.last_error = ""
        schedule.next_at = _next_of(schedule, before, moment)
        schedule.save(update_fields=[*WATCHED, "last_error", "next_at"] if before else None)
        record_change(
            actor=actor,
            action="update" if before else "create",
            target=schedule,
            pre=snapshot(before, WATCHED) if before else {},
            post=snapshot(schedule, WATCHED),
        )
    return schedule


def _next_of(
    schedule: ExportSchedule, before: ExportSchedule | None, moment: datetime
) -> datetime | None:
    if not schedule.is_enabled:
        return None
    if (
        before is not None
        and before.next_at is not None
        and all(getattr(before, name) == getattr(schedule, name) for name in RHYTHM)
    ):
        return before.next_at
    return next(slots_after(schedule, moment))


def switch_schedule(
    schedule: ExportSchedule, *, is_enabled: bool, actor: Actor, moment: datetime, reason: str = ""
) -> bool:
    """Switch on or off; whether anything changed. What passed while it was off is not missed."""
    next_at = next(slots_after(schedule, moment)) if is_enabled else None
    with transaction.atomic():
        mine = ExportSchedule.objects.filter(pk=schedule.pk, is_enabled=not is_enabled)
        if not mine.update(is_enabled=is_enabled, next_at=next_at, last_error=""):
            return False
        record_change(
            actor=actor,
            action="exportschedule.on" if is_enabled else "exportschedule.off",
            target=schedule,
            pre={"is_enabled": not is_enabled},
            post={"is_enabled": is_enabled},
            reason=reason,
        )
    schedule.refresh_from_db()
    return True


def delete_schedule(schedule: ExportSchedule, *, actor: Actor, reason: str) -> None:
    """Delete it; its exports stay. Audited."""
    with transaction.atomic():
        held = snapshot(schedule, WATCHED)
        gone = ExportSchedule(pk=schedule.pk, name=schedule.name)
        ExportSchedule.objects.filter(pk=schedule.pk).delete()
        record_change(actor=actor, action="delete", target=gone, pre=held, post={}, reason=reason)


def upcoming(schedule: ExportSchedule, moment: datetime, count: int) -> Iterator[Run]:
    """The next times with their windows, for a preview.

    Errors: as ``slots_after``.
    """
    slots = slots_after(schedule, moment)
    settle = timedelta(minutes=schedule.settle_minutes)
    start = None
    for _number in range(count):
        slot = next(slots)
        start = start or slot_before(schedule, slot)
        yield Run(slot, slot + settle, start)
        start = slot


@dataclass(frozen=True, slots=True)
class Run:
    """A time to come: its window ``[start_at, slot_at)`` is ordered at ``order_at``."""

    slot_at: datetime
    order_at: datetime
    start_at: datetime


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
