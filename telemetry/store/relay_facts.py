"""What rows do not know of themselves: their run's session, version and end, and known parents.

Looked up for all rows at hand together: a fixed number of queries however many rows. Each reads the
keys of the installs it is about within a stretch of time, so that only those days are opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from django.db import connection

from agent_client.contract.tables import ERRORS, MODEL_CALLS, RUNS, SPANS, TOOL_CALLS, Table
from fleet.lib.clock import ns_to_datetime
from telemetry.models.events import MODEL_OF
from telemetry.store.relay_rows import EntryRows, Row, read_stretches

RUN_LOOKBACK: Final = timedelta(days=7)
"""A run that began longer before its child is not looked for: its child stands for itself, with the
trace id that it carries and without the run's session."""
PARENT_LOOKBACK: Final = timedelta(days=1)
"""Turns and calls that hold others last less than that; a longer one's children hang at the run."""
MAX_RUN_ERRORS: Final = 128
"""Events on one run's span; a run that failed more often says nothing new with the next one."""
_MARGIN: Final = timedelta(hours=1)


type Asked = tuple[UUID, str, datetime, datetime]
"""Install, id, and the stretch in which it is looked for."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What children need of their run's row."""

    trace_id: str | None = None
    session_id: str | None = None
    profile_id: str | None = None
    agent_version: str | None = None
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class InstallFacts:
    """The facts of one install: its runs by id, and the kind of each parent that has a row.

    Of closed runs also the provider that answered most calls, and the errors.
    """

    runs: dict[str, RunFacts] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    providers: dict[str, str] = field(default_factory=dict)
    errors: dict[str, list[Row]] = field(default_factory=dict)


Facts = dict[UUID, InstallFacts]


def look_up(
    found: Sequence[EntryRows], *, with_providers: bool = False, with_errors: bool = False
) -> Facts:
    """The facts of some rows; at most 4 queries."""
    facts: Facts = defaultdict(InstallFacts)
    closed: list[Asked] = []
    for entry in found:
        mine = facts[entry.install_id]
        for row in entry.rows.get(RUNS.name, ()):
            begin_ns, end_ns = row[_RUN_START], row[_RUN_END]
            trace_id, session_id, profile_id, agent_version = _pick(row)
            mine.runs[row[0]] = RunFacts(
                trace_id, session_id, profile_id, agent_version, end_ns is not None
            )
            if end_ns is not None:
                until = ns_to_datetime(end_ns) + _MARGIN
                closed.append((entry.install_id, row[0], ns_to_datetime(begin_ns) - _MARGIN, until))
        for table in (SPANS, TOOL_CALLS, MODEL_CALLS):
            at = table.column_names().index(table.key)
            mine.parents.update((row[at], table.event) for row in entry.rows.get(table.name, ()))
    _find_runs(facts, found)
    _find_parents(facts, found)
    if with_providers and closed:
        _find_providers(facts, closed)
    if with_errors and closed:
        _find_errors(facts, closed)
    return dict(facts)


_RUN_COLUMNS: Final = RUNS.column_names()
_RUN_START: Final = _RUN_COLUMNS.index("start_ns")
_RUN_END: Final = _RUN_COLUMNS.index("end_ns")
_pick: Final = itemgetter(
    *map(_RUN_COLUMNS.index, ("trace_id", "session_id", "profile_id", "agent_version"))
)


def _find_runs(facts: Facts, found: Iterable[EntryRows]) -> None:
    spans: dict[tuple[UUID, str], tuple[int, int]] = {}
    for entry in found:
        known = facts[entry.install_id].runs
        for table_name, rows in entry.rows.items():
            if table_name == RUNS.name:
                continue
            run_at, time_at = _PLACES[table_name]
            for row in rows:
                if row[run_at] not in known:
                    _widen(spans, (entry.install_id, row[run_at]), row[time_at])
    asked = [
        (install_id, run_id, ns_to_datetime(first) - RUN_LOOKBACK, ns_to_datetime(last) + _MARGIN)
        for (install_id, run_id), (first, last) in spans.items()
    ]
    columns = "r.trace_id, r.session_id, r.profile_id, r.agent_version, r.end_ns IS NOT NULL"
    for install_id, run_id, trace_id, session_id, profile_id, version, is_closed in ask(
        RUNS, "run_id", columns, asked
    ):
        facts[install_id].runs[run_id] = RunFacts(
            trace_id, session_id, profile_id, version, bool(is_closed)
        )


def _find_parents(facts: Facts, found: Iterable[EntryRows]) -> None:
    spans: dict[tuple[UUID, str], tuple[int, int]] = {}
    for entry in found:
        known = facts[entry.install_id]
        for table_name, rows in entry.rows.items():
            if table_name == RUNS.name:
                continue
            run_at, time_at = _PLACES[table_name]
            parent_at = _PARENTS[table_name]
            for row in rows:
                parent = row[parent_at]
                if parent and parent != row[run_at] and parent not in known.parents:
                    _widen(spans, (entry.install_id, parent), row[time_at])
    asked = [
        (
            install_id,
            span_id,
            ns_to_datetime(first) - PARENT_LOOKBACK,
            ns_to_datetime(last) + _MARGIN,
        )
        for (install_id, span_id), (first, last) in spans.items()
    ]
    for table in (SPANS, TOOL_CALLS, MODEL_CALLS) if asked else ():
        for install_id, span_id, _ in ask(table, "span_id", "1", asked):
            facts[install_id].parents[span_id] = table.event


def _find_providers(facts: Facts, closed: Sequence[Asked]) -> None:
    best: dict[tuple[UUID, str], tuple[int, str]] = {}
    more = "WHERE r.provider IS NOT NULL GROUP BY 1, 2, 3"
    for install_id, run_id, provider, count in ask(
        MODEL_CALLS, "run_id", "r.provider, COUNT(*)", closed, more
    ):
        rank = (-count, provider)  # of two that answered as many, the first by name
        best[(install_id, run_id)] = min(rank, best.get((install_id, run_id), rank))
    for (install_id, run_id), (_, provider) in best.items():
        facts[install_id].providers[run_id] = provider


def _find_errors(facts: Facts, closed: Sequence[Asked]) -> None:
    columns = ", ".join(f"r.{name}" for name in ERRORS.column_names())
    found = ask(ERRORS, "run_id", columns + ", r.seq", closed)
    for install_id, run_id, *values in sorted(found, key=lambda row: row[-1]):
        of_run = facts[install_id].errors.setdefault(run_id, [])
        if len(of_run) < MAX_RUN_ERRORS:
            of_run.append(tuple(values[:-1]))


def ask(
    table: Table, key: str, columns: str, asked: Sequence[Asked], more: str = ""
) -> Iterator[tuple[Any, ...]]:
    """Install, id and some columns of a table's rows that have one of the ids.

    Each is looked for within its stretch, and where the same install is looked at for another id.
    """
    if not asked:
        return
    wanted = {(install_id, one) for install_id, one, *_ in asked}
    found = read_stretches(
        table,
        f"r.install_id, r.{key}, {columns}",
        [(install_id, begins, ends) for install_id, _, begins, ends in asked],
        {key: [one for _, one, *_ in asked]},
        more,
    )
    is_text = connection.vendor != "postgresql"
    for install_id, *values in found:
        of = UUID(install_id) if is_text else install_id
        if (of, values[0]) in wanted:  # another install may have the same id
            yield (of, *values)


def _widen(
    spans: dict[tuple[UUID, str], tuple[int, int]], key: tuple[UUID, str], at_ns: int
) -> None:
    first, last = spans.get(key, (at_ns, at_ns))
    spans[key] = (min(first, at_ns), max(last, at_ns))


def _make_places() -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    places: dict[str, tuple[int, int]] = {}
    parents: dict[str, int] = {}
    for name, model in MODEL_OF.items():
        names = model.CONTRACT.column_names()
        places[name] = (names.index("run_id"), names.index(model.CONTRACT.time))
        if "parent_span_id" in names:
            parents[name] = names.index("parent_span_id")
    return places, parents


_PLACES, _PARENTS = _make_places()
