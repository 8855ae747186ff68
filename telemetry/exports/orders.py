"""Orders: what may be exported by whom, written down with its audit row; cancelled; tried again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from fleet.audit import Actor, record_change
from fleet.lib.clock import now
from telemetry.exports.choice import Choice, ChoiceRefused, datasets_of
from telemetry.exports.datasets import DATASETS, Dataset
from telemetry.exports.faults import ExportRefused
from telemetry.models import ExportDestination, ExportFormat, ExportJob, ExportSchedule

logger = structlog.get_logger(__name__)
ADD_EXPORT: Final = "telemetry.add_exportjob"
MIN_REASON_CHARS: Final = 10
"""A reason that a reviewer can judge; as for reading content."""
MAX_KEEP_DAYS: Final = 3650
MAX_WINDOW: Final = timedelta(days=3660)
"""Ten years. Days are looked at one by one: all that a calendar has would take longer than a lease,
and whoever took it over would begin again."""
MAX_OPEN: Final = 500
"""Exports that wait or run: a script that orders in a loop must not fill the table."""

type Person = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be exported: rows of ``[start_at, end_at)`` by the row's own time."""

    datasets: tuple[str, ...]
    fmt: str
    start_at: datetime
    end_at: datetime
    choice: Choice = field(default_factory=Choice)
    destination: ExportDestination | None = None
    keep_days: int = 7
    reason: str = ""
    is_gzipped: bool = False


def allowed_datasets(person: Person) -> list[Dataset]:
    """What a person may export now."""
    return [
        dataset
        for dataset in DATASETS.values()
        if _has(person, dataset.permission)
        and (not dataset.is_content or settings.FLEET_TRAJECTORIES)
    ]


def check_order(order: Order, person: Person | None) -> list[Dataset]:
    """The datasets of an order that may be given. ``person`` None: somebody at the shell.

    Errors: ExportRefused, with what is wrong in words.
    """
    try:
        datasets = datasets_of(order.datasets)
        order.choice.check(datasets)
    except ChoiceRefused as error:
        raise ExportRefused(str(error)) from None
    if person is not None:
        _check_person(person, datasets)
    if any(dataset.is_content for dataset in datasets):
        _check_content(order)
    if order.fmt not in ExportFormat.values:
        raise ExportRefused(_("The format is one of %s.") % ", ".join(ExportFormat.values))
    if order.start_at >= order.end_at:
        raise ExportRefused(_("The window is empty: its end lies before its start."))
    if order.end_at - order.start_at > MAX_WINDOW:
        raise ExportRefused(_("A window is at most %s days long.") % MAX_WINDOW.days)
    if not 1 <= order.keep_days <= MAX_KEEP_DAYS:
        raise ExportRefused(_("A result is kept for 1 to %s days.") % MAX_KEEP_DAYS)
    if order.destination is not None and not order.destination.is_enabled:
        raise ExportRefused(_("The destination %s is switched off.") % order.destination.name)
    return datasets


def _check_person(person: Person, datasets: list[Dataset]) -> None:
    if not _has(person, ADD_EXPORT):
        raise ExportRefused(_("You may not order exports."))
    for dataset in datasets:
        if not _has(person, dataset.permission):
            raise ExportRefused(_("You may not export %s.") % dataset.title)


def _check_content(order: Order) -> None:
    if not settings.FLEET_TRAJECTORIES:
        raise ExportRefused(_("This console takes no content in: FLEET_TRAJECTORIES is off."))
    if len(order.reason.strip()) < MIN_REASON_CHARS:
        raise ExportRefused(
            _("Say why content is exported, in %s characters or more.") % MIN_REASON_CHARS
        )


def order_job(
    order: Order,
    *,
    actor: Actor,
    schedule: ExportSchedule | None = None,
    slot_at: datetime | None = None,
) -> ExportJob:
    """Write down an order and its audit row, and nudge a worker once they are committed.

    ``actor`` a person: asked for permissions; a text: somebody at the shell or a schedule, whose
    order was checked when it was made. The same slot of a schedule twice is one job.
    Errors: ExportRefused.
    """
    check_order(order, None if isinstance(actor, str) else actor)
    if ExportJob.objects.filter(state__in=ExportJob.OPEN).count() >= MAX_OPEN:
        raise ExportRefused(_("%s exports wait already. Cancel some first.") % MAX_OPEN)
    moment = now()
    try:
        with transaction.atomic():
            job = ExportJob.objects.create(
                datasets=list(dict.fromkeys(order.datasets)),
                fmt=order.fmt,
                is_gzipped=order.is_gzipped,
                chosen=order.choice.to_dict(),
                destination=order.destination,
                keep_days=order.keep_days,
                reason=order.reason.strip()[:300],
                start_at=order.start_at,
                end_at=order.end_at,
                actor=str(actor)[:200],
                schedule=schedule,
                slot_at=slot_at,
                created_at=moment,
            )
            transaction.on_commit(nudge)
            record_change(
                actor=actor,
                action="export.order",
                target=job,
                pre=None,
                post=described(job),
                reason=job.reason,
            )
    except IntegrityError:
        if schedule is None:
            raise
        return ExportJob.objects.get(schedule=schedule, slot_at=slot_at)
    return job


def described(job: ExportJob) -> dict[str, object]:
    """An order as its audit row and its manifest tell it."""
    return {
        "datasets": job.datasets,
        "format": job.fmt,
        "is_gzipped": job.is_gzipped,
        "filter": job.chosen,
        "from": job.start_at.isoformat(),
        "to": job.end_at.isoformat(),
        "destination": job.destination.name if job.destination else None,
        "keep_days": job.keep_days,
    }


def cancel_job(pk: int, actor: Actor) -> bool:
    """Ask an export to stop; whether it was still open.

    One that has written nothing is cancelled now, one that runs within a page of its worker.
    """
    moment = now()
    with transaction.atomic():
        job = ExportJob.objects.select_for_update().filter(pk=pk).first()
        if job is None or not job.is_open or job.cancel_asked_at is not None:
            return False
        before = {"state": job.state, "rows": job.done_count}
        job.cancel_asked_at = moment
        job.not_before = None
        if job.state == ExportJob.State.WAITING and not job.files.exists():
            job.state = ExportJob.State.CANCELLED
            job.finished_at = job.expires_at = moment
        else:  # whoever works on it, or takes it next, removes what was written
            transaction.on_commit(nudge)
        job.save(
            update_fields=["cancel_asked_at", "not_before", "state", "finished_at", "expires_at"]
        )
        record_change(
            actor=actor,
            action="export.cancel",
            target=job,
            pre=before,
            post={"state": "cancelled"},
        )
    return True


def retry_job(pk: int, actor: Actor) -> bool:
    """Let an export that failed go on where it stopped; whether it had failed."""
    with transaction.atomic():
        job = ExportJob.objects.select_for_update().filter(pk=pk).first()
        if job is None or job.state != ExportJob.State.FAILED:
            return False
        job.state = ExportJob.State.WAITING
        job.attempt_count, job.not_before = 0, None
        # Whoever asked for an end while it was failing is overruled by who wants it now.
        job.finished_at = job.expires_at = job.cancel_asked_at = None
        job.save(
            update_fields=[
                *("state", "attempt_count", "not_before", "finished_at", "expires_at"),
                "cancel_asked_at",
            ]
        )
        transaction.on_commit(nudge)
        record_change(
            actor=actor,
            action="export.retry",
            target=job,
            pre={"state": "failed", "error": job.last_error},
            post={"state": "waiting"},
        )
    return True


def open_jobs() -> list[int]:
    """Exports that can be worked on and are not: new ones, and those whose worker died."""
    moment = now()
    is_due = Q(not_before__isnull=True) | Q(not_before__lte=moment)
    waits = Q(state=ExportJob.State.WAITING) & is_due
    lapsed = Q(state=ExportJob.State.RUNNING, lease_until__lte=moment)
    return list(
        ExportJob.objects.filter(waits | lapsed).order_by("pk").values_list("pk", flat=True)
    )


def nudge() -> None:
    """Tell a worker that there is something to do; the minute's tick does it anyway."""
    from telemetry.exports.tasks import run_exports

    try:
        run_exports.apply_async(expires=60, retry=False)
    except Exception as error:  # noqa: BLE001 -- kombu raises whatever its transport raises
        logger.info("export_nudge_failed", kind=type(error).__name__)


def _has(person: Person, permission: str) -> bool:
    return isinstance(person, PermissionsMixin | AnonymousUser) and person.has_perm(permission)
