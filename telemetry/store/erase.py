"""Erasing all that telemetry holds of an install, so that it can be stopped at any point.

Steps: 1. the tombstone, under the install's lock: from its commit on nothing comes in; 2. the rows
are counted; 3. what waits in the spool goes, then day by day the raw rows, and in the same
transaction the hours they were summed up in are marked to be made again; 4. every other row goes;
5. the first-seen register is put right; 6. a last sweep, the fleet's own rows, the signed report.
A death between any two leaves STARTED: the next run goes on, and what is gone stays gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Final
from uuid import UUID

from django.apps import apps
from django.db import transaction
from django.db.models import Min, Model

from fleet.audit import Actor
from fleet.enroll.erasure import begin_erasure, finish_erasure, fleet_counts
from fleet.lib.clock import floor_hour, now
from fleet.lib.sql import try_session_lock
from fleet.models import Erasure
from telemetry.models import (
    EVENT_MODELS,
    ErrorEvent,
    FillState,
    FirstSeen,
    InstallBoard,
    InstallCell,
    ModelCall,
    Run,
    SpooledBatch,
    ToolCall,
    TouchedHour,
    Unit,
)
from telemetry.store.locks import install_transaction

SWEPT_FOR: Final = timedelta(days=2)
"""After an erasure: a fill that had read its rows before may write an install's cell after it, and
what it saw first: a model or an endpoint that only this install had."""
_SEEN_IN: Final = {
    FirstSeen.Kind.MODEL: (ModelCall, "model"),
    FirstSeen.Kind.PROVIDER: (ModelCall, "provider"),
    FirstSeen.Kind.ENDPOINT: (ModelCall, "base_url"),
    FirstSeen.Kind.TOOL: (ToolCall, "tool_name"),
    FirstSeen.Kind.ERROR_CLASS: (ErrorEvent, "error_class"),
    FirstSeen.Kind.AGENT_VERSION: (Run, "agent_version"),
    FirstSeen.Kind.ENTRYPOINT: (Run, "entrypoint"),
}

type Progress = Callable[[str], None]

_more: dict[str, Callable[[UUID], int]] = {}
"""What holds an install's data without a column that names it; called in step 4."""


def register_erased(name: str, erase: Callable[[UUID], int]) -> None:
    """Let an app erase what it keeps of an install in other forms; may be called many times."""
    _more[name] = erase


def erasable_models() -> tuple[type[Model], ...]:
    """Every model of telemetry whose rows name an install: none has to be listed to be erased."""
    return tuple(
        model
        for model in apps.get_app_config("telemetry").get_models()
        if any(spec.attname == "install_id" for spec in model._meta.concrete_fields)
    )


def count_rows(install_id: UUID) -> dict[str, int]:
    """Rows that telemetry holds of an install, by table."""
    return {model._meta.db_table: _of(model, install_id).count() for model in erasable_models()}


def erase_install(
    install_id: UUID, *, actor: Actor, reason: str, on_step: Progress | None = None
) -> Erasure:
    """Erase an install; safe to run twice, and to run again after a death.

    An erasure that another process works on is returned as it stands.
    Errors: ErasureError.
    """
    erasure = set_tombstone(install_id, actor=actor, reason=reason)
    return run_erasure(erasure, on_step=on_step)


def set_tombstone(install_id: UUID, *, actor: Actor, reason: str) -> Erasure:
    """Step 1: waits for a load that is under way; a later one is refused."""
    with install_transaction(install_id):
        erasure = begin_erasure(install_id, actor=actor, reason=reason)
    _reached("tombstone")
    return erasure


def run_erasure(erasure: Erasure, *, on_step: Progress | None = None) -> Erasure:
    """Steps 2 to 6 of one erasure, from wherever it stands."""
    say = on_step or (lambda _text: None)
    with try_session_lock(f"telemetry-erase-{erasure.pk}") as is_ours:
        erasure.refresh_from_db()
        if erasure.is_done or not is_ours:
            return erasure
        if erasure.counts_before is None:
            erasure.counts_before = count_rows(erasure.pk) | fleet_counts(erasure.pk)
            erasure.save(update_fields=["counts_before"])
        _reached("counted")
        with install_transaction(erasure.pk):  # what waits in the spool must not be stored later
            _of(SpooledBatch, erasure.pk).delete()
        _erase_days(erasure, say)
        with install_transaction(erasure.pk):
            seen = list(FirstSeen.objects.filter(install_id=erasure.pk))
            _erase_others(erasure.pk)
            restore_first_seen(seen)
        _reached("others")
        say("other rows")
        with install_transaction(erasure.pk):
            _erase_others(erasure.pk)
            done = finish_erasure(erasure, count_rows(erasure.pk))
        _reached("finished")
    return done


def resume_erasures() -> int:
    """Go on with erasures that a dead process left, and sweep behind the young ones; how many."""
    started = list(Erasure.objects.filter(state=Erasure.State.STARTED))
    for erasure in started:
        run_erasure(erasure)
    young = Erasure.objects.filter(finished_at__gte=now() - SWEPT_FOR)
    for install_id in young.values_list("pk", flat=True):
        _of(InstallCell, install_id).delete()
        for erase in _more.values():
            erase(install_id)
        with transaction.atomic():
            seen = list(_of(FirstSeen, install_id))
            _of(FirstSeen, install_id).delete()
            restore_first_seen(seen)
    return len(started)


def _erase_days(erasure: Erasure, say: Progress) -> None:
    """Step 3, a transaction a day: rows and the mark that their sums are stale go together."""
    hours = sorted(_hours_of(erasure.pk))
    for day, of_day in groupby(hours, key=lambda hour: hour.date()):
        with install_transaction(erasure.pk):
            _erase_day(erasure, day, list(of_day))
        say(f"rows of {day.isoformat()}")
        _reached(f"day {day.isoformat()}")


def _hours_of(install_id: UUID) -> set[datetime]:
    """The UTC hours in which the install has rows, or has left a part of a sum."""
    found: set[datetime] = set()
    for model in EVENT_MODELS:
        rows = model.objects.filter(install_id=install_id)
        found.update(rows.datetimes("start_at", "hour", tzinfo=UTC))
    found.update(_of(TouchedHour, install_id).values_list("hour", flat=True))
    cells = InstallCell.objects.filter(install_id=install_id, unit=Unit.HOUR)
    found.update(cells.values_list("at", flat=True))
    return {floor_hour(hour) for hour in found}


def _erase_day(erasure: Erasure, day: date, hours: list[datetime]) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    frozen = set(
        FillState.objects.filter(hour__in=hours, state=FillState.State.EXPIRED).values_list(
            "hour", flat=True
        )
    )
    open_hours = [hour for hour in hours if hour not in frozen]
    moment = now()
    _of(TouchedHour, erasure.pk).filter(hour__gte=start, hour__lt=end).delete()
    TouchedHour.objects.bulk_create(
        TouchedHour(hour=hour, touched_at=moment, batch_id=None) for hour in open_hours
    )
    for model in EVENT_MODELS:
        rows = model.objects.filter(install_id=erasure.pk, start_at__gte=start, start_at__lt=end)
        rows._raw_delete(rows.db)  # noqa: SLF001 -- one DELETE: no cascade, no signals
    _of(InstallCell, erasure.pk).filter(unit=Unit.HOUR, at__gte=start, at__lt=end).delete()
    erasure.hours = sorted({*erasure.hours, *_seconds(open_hours)})
    erasure.frozen_hours = sorted({*erasure.frozen_hours, *_seconds(frozen)})
    erasure.save(update_fields=["hours", "frozen_hours"])


def _seconds(hours: Iterable[datetime]) -> set[int]:
    return {int(hour.timestamp()) for hour in hours}


def _erase_others(install_id: UUID) -> None:
    """Step 4: everything that names the install, whatever models there are by then."""
    _forget_boards()
    for model in erasable_models():
        rows = _of(model, install_id)
        rows._raw_delete(rows.db)  # noqa: SLF001 -- telemetry has no foreign keys: nothing cascades
    for erase in _more.values():
        erase(install_id)
    # Boards name installs inside their lists; they are counted again within seconds.
    InstallBoard.objects.all().delete()


def _forget_boards() -> None:
    """Boards name the top installs; they are counted again when somebody looks."""
    InstallBoard.objects.all().delete()


def restore_first_seen(seen: Iterable[FirstSeen]) -> None:
    """Step 5: what only the erased install had is forgotten; else the next one was the first."""
    for kind, group in groupby(sorted(seen, key=lambda row: row.kind), key=lambda row: row.kind):
        model, column = _SEEN_IN[FirstSeen.Kind(kind)]
        values = [row.value for row in group]
        left = model._default_manager.filter(**{f"{column}__in": values})  # noqa: SLF001 -- the documented way from a model class
        for value, first_at in left.values_list(column).annotate(first=Min("start_at")):
            first = left.filter(**{column: value}, start_at=first_at)
            FirstSeen.objects.get_or_create(
                kind=kind,
                value=value,
                defaults={
                    "first_at": first_at,
                    "install_id": first.values_list("install_id", flat=True)[0],
                },
            )


def _of(model: type[Model], install_id: UUID):  # type: ignore[no-untyped-def]  # noqa: ANN202 -- a QuerySet of that model
    return model._default_manager.filter(install_id=install_id)  # noqa: SLF001 -- the documented way from a model class


def _reached(_point: str) -> None:
    """Does nothing: the places between two commits, where tests end the process."""
