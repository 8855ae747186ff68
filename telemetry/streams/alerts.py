"""Alerts: a row when something begins to need a person, another when it is over.

A round looks at everything and writes what changed. A state has to hold for two rounds before it
is raised, and be gone for two before it is cleared, so that what flickers tells nobody. All that is
known lies in rows: the last AlertEvent of a key says how it stands, an AlertWatch since when it
differs. A worker that starts anew doubles nothing, and of two at once one writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Max
from django.utils import translation
from django.utils.translation import gettext as _

from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from telemetry.models import AlertEvent, AlertWatch
from telemetry.streams.states import Found, look

ROUND_S: Final = 60.0
SAME_ROUND: Final = timedelta(seconds=45)
"""Two looks within this time are one round: two workers at once, or a task that came twice."""
ALERT_LOCK: Final = "telemetry.alerts"
MAX_KEY_CHARS: Final = 80
MAX_TEXT_CHARS: Final = 300

State = AlertEvent.State


@dataclass(frozen=True, slots=True)
class Round:
    """What one round wrote."""

    raised: int
    cleared: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a round decides about one key: rows to write, and whether to go on watching."""

    events: tuple[State, ...] = ()
    watch: bool | None = None
    """Begin to watch (whether the state is there), or None: nothing to begin."""
    is_settled: bool = False


def decide(
    *,
    stands: str,
    found: str,
    watch_present: bool | None,
    watched_since: datetime | None,
    moment: datetime,
) -> Step:
    """What to do about one key. Pure.

    ``stands``: the severity of its last alert, "" when it is not raised; ``found``: what is there
    now, "" for nothing. A state that became worse or better is cleared and raised again.
    """
    if stands == found:
        return Step(is_settled=True)
    is_present = bool(found)
    if watch_present is not is_present or watched_since is None:
        return Step(watch=is_present)
    if moment - watched_since < SAME_ROUND:
        return Step()
    cleared = (State.CLEARED,) if stands else ()
    raised = (State.RAISED,) if found else ()
    return Step((*cleared, *raised), is_settled=True)


def run_round() -> Round:
    """Look at everything, write what changed. Safe to run twice, in parallel, and to kill.

    Looking may take seconds (a broker that hangs), so it is done before the lock. Whoever looks
    and fails raises: a round that saw half of it must clear nothing.
    """
    moment = now()
    # Texts are kept and sent on: they are in the deployment's language, not in a reader's.
    with translation.override(settings.LANGUAGE_CODE):
        found = {each.key[:MAX_KEY_CHARS]: each for each in look(moment, raised_keys())}
        return settle(found, moment)


def settle(found: Mapping[str, Found], moment: datetime) -> Round:
    """Write what follows from what was found, in one transaction.

    The lock is held to the commit, as the audit trail's is: ids are in the order of commits, so
    that whoever reads on from an id misses none.
    """
    counts = {State.RAISED: 0, State.CLEARED: 0}
    with transaction_lock(ALERT_LOCK):
        stands = standing()
        watches = {watch.key: watch for watch in AlertWatch.objects.all()}
        for key in sorted({*found, *stands, *watches}):
            last, here, watch = stands.get(key), found.get(key), watches.get(key)
            step = decide(
                stands=last.severity if last else "",
                found=here.severity if here else "",
                watch_present=watch.is_present if watch else None,
                watched_since=watch.since_at if watch else None,
                moment=moment,
            )
            _write(key, step, here=here, last=last, moment=moment)
            for state in step.events:
                counts[state] += 1
    return Round(counts[State.RAISED], counts[State.CLEARED])


def _write(
    key: str, step: Step, *, here: Found | None, last: AlertEvent | None, moment: datetime
) -> None:
    for state in step.events:
        is_raised = state == State.RAISED
        AlertEvent.objects.create(
            key=key,
            state=state,
            severity=here.severity if is_raised and here else last.severity if last else "info",
            text=(here.text if is_raised and here else _over(last))[:MAX_TEXT_CHARS],
            count=here.count if is_raised and here else 0,
            at=moment,
        )
    if step.is_settled:
        AlertWatch.objects.filter(key=key).delete()
    if step.watch is not None:
        AlertWatch.objects.update_or_create(
            key=key, defaults={"is_present": step.watch, "since_at": moment}
        )


def _over(last: AlertEvent | None) -> str:
    return _("Over: %s") % (last.text if last else "")


def standing() -> dict[str, AlertEvent]:
    """The raised alerts by key: of each key the last row, where that is one."""
    newest = AlertEvent.objects.order_by().values("key").annotate(last=Max("pk")).values("last")
    raised = AlertEvent.objects.filter(pk__in=newest, state=State.RAISED)
    return {event.key: event for event in raised}


def raised_keys() -> frozenset[str]:
    """The keys that are raised now."""
    return frozenset(standing())


def open_alerts() -> list[AlertEvent]:
    """What is raised now, worst first, then the oldest."""
    ranks = {"bad": 0, "warn": 1}
    return sorted(standing().values(), key=lambda each: (ranks.get(each.severity, 2), each.pk))


def prune_alerts(moment: datetime) -> int:
    """Drop what is over for longer than FLEET_DAILY_DAYS; what is still raised stays."""
    before = moment - timedelta(days=settings.FLEET_DAILY_DAYS)
    old = AlertEvent.objects.filter(at__lt=before).exclude(pk__in=_pks(standing().values()))
    return int(old.delete()[0])


def _pks(events: Iterable[AlertEvent]) -> list[int]:
    return [event.pk for event in events]
