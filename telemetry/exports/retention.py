"""Results that go: when their time is over, when an install in them is erased; and old rows.

The console removes what it keeps itself. A result in a folder or an object store is the operator's:
the console forgets it at the same time and no longer hands it out, but leaves the files where they
are; their life is a rule of that store. What a cancelled export wrote, and what may hold rows of an
erased install, is removed everywhere; a place that is away then is named in the audit trail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from fleet.audit import record_change
from fleet.lib.clock import now
from fleet.models import Erasure
from telemetry.exports.datasets import DATASETS
from telemetry.exports.faults import ExportFault
from telemetry.exports.run import remove_files
from telemetry.models import ExportJob

logger = structlog.get_logger(__name__)
MAX_A_ROUND: Final = 1_000
ACTOR: Final = "retention"
_HELD: Final = (ExportJob.State.DONE, ExportJob.State.FAILED, ExportJob.State.CANCELLED)


@dataclass(frozen=True, slots=True)
class Going:
    """A result whose time is over: what of it lies in the console's own store."""

    job_id: int
    expired_at: datetime
    file_count: int
    size_bytes: int
    is_own: bool


def going(moment: datetime | None = None) -> list[Going]:
    """What ``expire_results`` would let go; changes nothing."""
    return [
        Going(
            job.pk,
            job.expires_at or job.created_at,
            job.files.count(),
            job.done_bytes,
            job.destination_id is None,
        )
        for job in _due(moment or now())
    ]


def expire_results(moment: datetime | None = None) -> list[int]:
    """Let results go whose time is over; the jobs. A place that is away is tried again later."""
    return [job.pk for job in _due(moment or now()) if _expire(job, _("Its time was over."))]


def expire_erased() -> list[int]:
    """Let results go that may hold rows of an install that was erased after they were ordered."""
    # Long enough for an erasure that was under way while an export of its rows was.
    moment = now()
    is_young = Q(finished_at=None) | Q(finished_at__gte=moment - timedelta(days=30))
    # Rows are there until it is finished, for an export ordered meanwhile as well.
    erased = [
        (pk, finished_at or moment)
        for pk, finished_at in Erasure.objects.filter(is_young).values_list("pk", "finished_at")
    ]
    if not erased:
        return []
    jobs = ExportJob.objects.filter(state__in=_HELD, created_at__lte=max(at for _, at in erased))
    found = []
    for job in jobs.select_related("destination"):
        hit = [pk for pk, at in erased if at >= job.created_at and _may_hold(job, pk)]
        words = _("It may have held rows of an install that was erased.")
        if hit and _expire(job, words, is_everywhere=True):
            found.append(job.pk)
    return found


def _may_hold(job: ExportJob, install_id: UUID) -> bool:
    chosen = job.chosen.get("installs") or []
    names_installs = any(
        column.name == "install_id" or name == "installs"
        for name in job.datasets
        if name in DATASETS
        for column in DATASETS[name].columns
    )
    return names_installs and (not chosen or str(install_id) in chosen)


def prune_jobs(moment: datetime | None = None) -> int:
    """Forget exports whose result went FLEET_RETENTION_DAYS ago; how many."""
    before = (moment or now()) - timedelta(days=settings.FLEET_RETENTION_DAYS)
    old = ExportJob.objects.filter(state=ExportJob.State.EXPIRED, expires_at__lt=before)
    ids = list(old.values_list("pk", flat=True)[:MAX_A_ROUND])
    ExportJob.objects.filter(pk__in=ids).delete()
    return len(ids)


def _due(moment: datetime) -> Iterator[ExportJob]:
    jobs: QuerySet[ExportJob] = ExportJob.objects.filter(state__in=_HELD, expires_at__lte=moment)
    yield from jobs.select_related("destination").order_by("expires_at")[:MAX_A_ROUND]


def _expire(job: ExportJob, words: str, *, is_everywhere: bool = False) -> bool:
    """Files first, then the row: a death in between is taken up by the next round."""
    is_own = job.destination_id is None
    removed: list[str] = []
    try:
        if is_own or is_everywhere:
            removed = remove_files(job)
    except ExportFault as fault:
        logger.warning("export_not_removed", job=job.pk, words=fault.words)
        if is_own:
            return False
        # Handed out no more, whether its place comes back or not; a person has to look there.
        words = f"{words} " + _("Its files could not be removed: %s") % fault.words
    else:
        if not is_own:
            words = f"{words} " + (
                _("Its files were removed there as well.")
                if is_everywhere
                else _("Its files are the operator's, and were left where they are.")
            )
    with transaction.atomic():
        expired = ExportJob.objects.filter(pk=job.pk, state=job.state).update(
            state=ExportJob.State.EXPIRED, expires_at=min(job.expires_at or now(), now())
        )
        if expired:
            record_change(
                actor=ACTOR,
                action="export.expire",
                target=job,
                pre={"state": job.state, "files": len(removed)},
                post={"state": "expired"},
                reason=words,
            )
    return bool(expired)
