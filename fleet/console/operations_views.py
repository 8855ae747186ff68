"""The operations page: which processes run, what waits, how periodic tasks went, what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from fleet.console.rendering import page
from fleet.health import BEAT_DOWN_S, BEAT_WARN_S, versions
from fleet.lib.clock import now
from fleet.models import ProcessSeen
from fleet.templatetags.fleet_format import exact
from fleet.watch import facts, queues
from fleet.watch.facts import Fact, Section, Tone
from fleet.watch.gauges import build
from fleet.watch.periodic import Periodic, State, periodic_tasks

QUEUE_WORDS: Final = {
    "fleet": gettext_lazy("Everything else: alerts, erasures, schedules, the spool"),
    "rollup": gettext_lazy("The sums that pages show"),
    "export": gettext_lazy("Exports"),
    "relay": gettext_lazy("Collectors and streams"),
}
KINDS: Final = ("web", "worker", "beat")
OLDEST_WARN_S: Final = 120.0
COUNT_WARN: Final = 1_000
_TASK_TONES: Final[dict[State, Tone]] = {
    "ok": "good",
    "late": "warn",
    "failed": "bad",
    "waiting": "quiet",
}


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A kind of process on a host; ``host`` is "" when none of the kind was ever seen."""

    kind: str
    host: str
    version: str
    at: datetime | None
    word: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue with what waits in it."""

    name: str
    words: str
    count: int
    oldest_ms: float | None
    word: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A periodic task, judged."""

    task: Periodic
    word: str
    tone: Tone


def operations(request: HttpRequest) -> HttpResponse:
    """The page; 200 whatever is down, as long as the database answers."""
    moment = now()
    processes = process_rows(moment)
    waiting = queue_rows()
    tasks = task_rows(moment)
    sections = [*facts.sections(), versions_section()]
    context: dict[str, object] = {
        "processes": processes,
        "queues": waiting,
        "tasks": tasks,
        "sections": sections,
        "at": moment,
        "heads": heads(processes, waiting, tasks, sections),
    }
    return page(request, "fleet/operations.html", _("Operations"), context)


def process_rows(moment: datetime) -> list[ProcessRow]:
    """What was seen within the day; of each kind at least a row that says it was not."""
    own, rows = build()[0], []
    seen = ProcessSeen.objects.order_by("key")
    for kind in KINDS:
        of_kind = [each for each in seen if each.kind == kind]
        rows += [_process_row(each, own, moment) for each in of_kind]
        if not of_kind:
            rows.append(ProcessRow(kind, "", "", None, _("Not seen"), "bad"))
    return rows


def _process_row(seen: ProcessSeen, own: str, moment: datetime) -> ProcessRow:
    age_s, is_old = (moment - seen.at).total_seconds(), seen.version != own
    word, tone = _state_of(age_s, is_old=is_old)
    return ProcessRow(seen.kind, seen.hostname, seen.version, seen.at, word, tone)


def _state_of(age_s: float, *, is_old: bool) -> tuple[str, Tone]:
    if age_s > BEAT_DOWN_S:
        return _("Gone"), "quiet"
    if age_s > BEAT_WARN_S:
        return _("Silent"), "warn"
    return (_("Other version"), "warn") if is_old else (_("Runs"), "good")


def queue_rows() -> list[QueueRow] | None:
    """All queues; None when the broker does not answer."""
    found = queues.waiting()
    if found is None:
        return None
    rows = []
    for each in found:
        is_slow = (each.oldest_s or 0.0) > OLDEST_WARN_S or each.count > COUNT_WARN
        word = _("Waits") if is_slow else _("Empty") if not each.count else _("In order")
        oldest_ms = None if each.oldest_s is None else each.oldest_s * 1000
        words = str(QUEUE_WORDS.get(each.name, ""))
        rows.append(
            QueueRow(each.name, words, each.count, oldest_ms, word, "warn" if is_slow else "good")
        )
    return rows


def task_rows(moment: datetime) -> list[TaskRow]:
    """The beat schedule with how each entry went."""
    words: dict[State, str] = {
        "ok": _("In order"),
        "late": _("Late"),
        "failed": _("Failed"),
        "waiting": _("Not yet"),
    }
    return [
        TaskRow(task, words[task.state], _TASK_TONES[task.state]) for task in periodic_tasks(moment)
    ]


def versions_section() -> Section:
    """What runs here, and the last migration of each app."""
    lines = [Fact(name, version) for name, version in versions().items()]
    applied = sorted(MigrationRecorder(connection).applied_migrations())
    last = {app: name for app, name in applied if app in {"fleet", "telemetry"}}
    lines += [Fact(_("Tables of %s") % app, name) for app, name in last.items()]
    note = _("of the process that answered")
    return Section(_("Versions and migrations"), note, tuple(lines), "upgrade")


def heads(
    processes: list[ProcessRow],
    waiting: list[QueueRow] | None,
    tasks: list[TaskRow],
    sections: list[Section],
) -> list[Fact]:
    """The page in four numbers, each with a word."""
    return [
        _processes_head(processes),
        _queues_head(waiting),
        _tasks_head(tasks),
        _findings_head(sections),
    ]


def _processes_head(rows: list[ProcessRow]) -> Fact:
    running = str(sum(row.tone in {"good", "warn"} for row in rows))
    faults = sum(row.tone in {"bad", "warn"} for row in rows)
    if not faults:
        return Fact(_("Processes"), running, "good", _("In order"))
    text = ngettext("%d needs a look", "%d need a look", faults) % faults
    return Fact(_("Processes"), running, "warn", text)


def _queues_head(rows: list[QueueRow] | None) -> Fact:
    title = _("Messages waiting")
    if rows is None:
        return Fact(title, "–", "bad", _("The broker does not answer"))
    count = exact(sum(row.count for row in rows))
    slow = next((row for row in rows if row.tone == "warn"), None)
    if slow is None:
        return Fact(title, count, "good", _("In order"))
    return Fact(title, count, "warn", _("Slow: %s") % slow.name)


def _tasks_head(rows: list[TaskRow]) -> Fact:
    done = sum(row.tone == "good" for row in rows)
    faults = sum(row.tone in {"bad", "warn"} for row in rows)
    value = _("%(done)d of %(all)d") % {"done": done, "all": len(rows)}
    if faults:
        text = ngettext("%d failed or late", "%d failed or late", faults) % faults
        return Fact(_("Periodic tasks in order"), value, "warn", text)
    if not done:
        return Fact(_("Periodic tasks in order"), value, "quiet", _("None has run yet"))
    return Fact(_("Periodic tasks in order"), value, "good", _("In order"))


def _findings_head(sections: list[Section]) -> Fact:
    bad = [each.title for each in sections if {fact.tone for fact in each.facts} & {"warn", "bad"}]
    if bad:
        return Fact(_("Other findings"), str(len(bad)), "warn", ", ".join(bad))
    return Fact(_("Other findings"), "0", "good", _("In order"))
