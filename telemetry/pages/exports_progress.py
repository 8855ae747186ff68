"""How an export is told: its state, how far it is, what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from fleet.health import process_probes
from fleet.models import Install, InstallGroup
from fleet.templatetags.fleet_format import exact, moment
from telemetry.exports.datasets import DATASETS
from telemetry.models.exports import ExportJob, ExportOrder
from telemetry.models.rollups import NO_GROUP

State: Final = ExportJob.State
TONES: Final[Mapping[str, str]] = {
    State.WAITING: "info",
    State.RUNNING: "info",
    State.DONE: "good",
    State.FAILED: "bad",
    State.CANCELLED: "quiet",
    State.EXPIRED: "quiet",
}
PATIENCE: Final = timedelta(seconds=60)
"""So long a job may wait before the page asks whether there is a worker: two rounds of the task."""
MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. ``share`` of one, None when nobody knows; ``notes``: (tone, sentence)."""

    share: float | None
    per_s: float | None
    left_s: float | None
    worker: str
    notes: tuple[tuple[str, str], ...] = ()


def progress_of(job: ExportJob, at: datetime) -> Progress:
    """How far a job is, in numbers that promise nothing: a total is an estimate until the end."""
    took_s = _took_s(job, at)
    per_s = job.done_count / took_s if took_s and job.done_count else None
    share = None
    if job.state == State.DONE:
        share = 1.0
    elif job.total_count:
        share = min(job.done_count / job.total_count, 0.99)
    left_s = None
    if job.state == State.RUNNING and per_s and job.total_count:
        left_s = max(job.total_count - job.done_count, 0) / per_s
    return Progress(share, per_s, left_s, _worker(job, at), tuple(_notes(job, at)))


def _took_s(job: ExportJob, at: datetime) -> float | None:
    if job.started_at is None:
        return None
    return max(((job.finished_at or at) - job.started_at).total_seconds(), 0.001)


def _worker(job: ExportJob, at: datetime) -> str:
    if not job.is_open:
        return ""
    if job.lease_until is None or not job.lease_owner:
        return _("nobody yet")
    if job.lease_until < at:
        said = _("%(name)s, not heard of since %(moment)s")
        return said % {"name": job.lease_owner, "moment": moment(job.lease_until)}
    return job.lease_owner


def _notes(job: ExportJob, at: datetime) -> list[tuple[str, str]]:
    notes: list[tuple[str, str]] = []
    if job.last_error:
        notes.append(("bad" if job.state == State.FAILED else "warn", job.last_error))
    if job.state == State.FAILED:
        notes.append(
            (
                "info",
                _("Mend the cause, then order it again: the button keeps all that was chosen."),
            )
        )
    if not job.is_open:
        return notes
    if job.cancel_asked_at:
        notes.append(("info", _("It is being cancelled; the worker stops at the next step.")))
    if job.not_before and job.not_before > at:
        notes.append(("info", _("It is tried again at %s.") % moment(job.not_before)))
    if job.state == State.RUNNING and job.lease_until and job.lease_until < at:
        notes.append(
            ("warn", _("Its worker stopped. Another goes on after the last whole part by itself."))
        )
    if _waits_long(job, at):
        worker = process_probes(at)[0]
        if worker.state != "ok":
            notes.append(("bad", f"{_('No worker is running, so nothing goes on.')} {worker.mend}"))
    return notes


def _waits_long(job: ExportJob, at: datetime) -> bool:
    since = max(filter(None, (job.created_at, job.lease_until, job.not_before)))
    return at - since > PATIENCE


def kept_words(job: ExportJob) -> str:
    """Until when the files are there."""
    if job.state == State.EXPIRED:
        return _("The files were deleted after %s days, as ordered.") % job.keep_days
    if job.expires_at is None:
        return ngettext("%s day after it is done", "%s days after it is done", job.keep_days) % (
            job.keep_days
        )
    return _("until %s") % moment(job.expires_at)


def datasets_words(order: ExportOrder) -> str:
    """The titles of what is exported; a name that is no more stands as it is."""
    return ", ".join(
        str(DATASETS[name].title) if name in DATASETS else str(name) for name in order.datasets
    )


def filter_words(order: ExportOrder) -> list[tuple[str, str]]:
    """The filter by dimension, names instead of ids as far as they are known."""
    chosen = order.chosen if isinstance(order.chosen, dict) else {}
    titles = {
        "groups": _("Groups"),
        "installs": _("Installs"),
        "models": _("Models"),
        "tools": _("Tools"),
        "results": _("Results"),
    }
    found = []
    for name, title in titles.items():
        values = chosen.get(name)
        if isinstance(values, list) and values:
            known = _names(name, values[:MAX_NAMED])
            more = len(values) - MAX_NAMED
            if more > 0:
                known.append(_("%s more") % exact(more))
            found.append((title, ", ".join(known)))
    return found


def _names(dimension: str, values: list[Any]) -> list[str]:  # Any: JSON, ours
    if dimension == "groups":
        groups = dict(InstallGroup.objects.filter(pk__in=values).values_list("pk", "name"))
        return [
            _("no group") if value == NO_GROUP else groups.get(value, _("group %s, gone") % value)
            for value in values
        ]
    if dimension == "installs":
        installs = {str(pk): str(item) for pk, item in Install.objects.in_bulk(values).items()}
        return [installs.get(str(value), str(value)) for value in values]
    return [str(value) for value in values]
