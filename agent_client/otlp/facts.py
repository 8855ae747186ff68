"""What a row alone does not know: its run's trace, session, version and end, and known parents.

Looked up for a stretch of rows at once: a fixed number of queries however many rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent_client.contract.tables import ERRORS, RUNS
from agent_client.otlp.scrub import Pair, Scrubber
from agent_client.store import Row

MAX_RUN_ERRORS: Final = 128
"""Events on one run's span; a run that failed more often says nothing new with the next one."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What children and the span of a run need of its row, redacted."""

    trace_id: object = None
    session_id: object = None
    profile_id: object = None
    agent_version: object = None
    is_closed: bool = False


NO_RUN: Final = RunFacts()
"""A run whose row is not there yet: still open, for all that is known."""


@dataclass(frozen=True, slots=True)
class Facts:
    """``parents``: the kind of each recorded span id that children name and that has a row."""

    runs: Mapping[str, RunFacts] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    providers: Mapping[str, object] = field(default_factory=dict)
    errors: Mapping[str, list[Pair]] = field(default_factory=dict)


def closed_runs(connection: sqlite3.Connection, run_ids: Iterable[object]) -> list[Row]:
    """The rows of those runs that are closed. Errors: sqlite3.Error."""
    found = connection.execute(
        f"SELECT seq, {', '.join(RUNS.column_names())} FROM tel_runs "
        "WHERE end_ns IS NOT NULL AND run_id IN (SELECT value FROM json_each(?)) ORDER BY seq",
        (_list(run_ids),),
    )
    return [Row(RUNS, values[0], values[1:]) for values in found]


def look_up(
    connection: sqlite3.Connection,
    rows: list[tuple[Row, Pair]],
    scrubber: Scrubber,
    *,
    with_errors: bool,
) -> Facts:
    """The facts of some rows. Errors: sqlite3.Error."""
    run_ids, parent_ids, closed = set[object](), set[object](), set[object]()
    for row, (raw, _) in rows:
        run_ids.add(raw["run_id"])
        if row.table is not RUNS:
            parent_ids.add(raw["parent_span_id"])
        elif raw["end_ns"] is not None:
            closed.add(raw["run_id"])
    return Facts(
        runs=_runs(connection, run_ids, scrubber),
        parents=_parents(connection, parent_ids - run_ids - {None}),
        providers=_providers(connection, closed, scrubber),
        errors=_errors(connection, closed, scrubber) if with_errors else {},
    )


def _runs(
    connection: sqlite3.Connection, ids: set[object], scrubber: Scrubber
) -> dict[str, RunFacts]:
    found = connection.execute(
        "SELECT run_id, trace_id, session_id, profile_id, agent_version, end_ns IS NOT NULL "
        "FROM tel_runs WHERE run_id IN (SELECT value FROM json_each(?))",
        (_list(ids),),
    )
    names = ("trace_id", "session_id", "profile_id", "agent_version")
    return {
        str(row[0]): RunFacts(
            **scrubber.scrub(zip(names, row[1:5], strict=True)), is_closed=bool(row[5])
        )
        for row in found
    }


def _parents(connection: sqlite3.Connection, ids: set[object]) -> dict[str, str]:
    if not ids:
        return {}
    wanted = _list(ids)
    found = connection.execute(
        "SELECT span_id, 'span' FROM tel_spans WHERE span_id IN (SELECT value FROM json_each(?)) "
        "UNION ALL SELECT span_id, 'tool_call' FROM tel_tool_calls "
        "WHERE span_id IN (SELECT value FROM json_each(?)) "
        "UNION ALL SELECT span_id, 'model_call' FROM tel_model_calls "
        "WHERE span_id IN (SELECT value FROM json_each(?))",
        (wanted, wanted, wanted),
    )
    return {str(span_id): kind for span_id, kind in found}


def _providers(
    connection: sqlite3.Connection, ids: set[object], scrubber: Scrubber
) -> dict[str, object]:
    """The provider that answered most of a run's calls."""
    if not ids:
        return {}
    found = connection.execute(
        "SELECT run_id, provider FROM tel_model_calls WHERE provider IS NOT NULL "
        "AND run_id IN (SELECT value FROM json_each(?)) "
        "GROUP BY run_id, provider ORDER BY count(*), provider DESC",
        (_list(ids),),
    )
    # In ascending order: the last one stays.
    return {
        str(run_id): scrubber.scrub([("provider", provider)])["provider"]
        for run_id, provider in found
    }


def _errors(
    connection: sqlite3.Connection, ids: set[object], scrubber: Scrubber
) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    names = ", ".join(ERRORS.column_names())
    for values in connection.execute(
        f"SELECT seq, {names} FROM tel_error_events "
        "WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY seq",
        (_list(ids),),
    ):
        row = Row(ERRORS, values[0], values[1:])
        of_run = found.setdefault(str(row.values[1]), [])
        if len(of_run) < MAX_RUN_ERRORS:
            of_run.append(scrubber.pair_of(row))
    return found


def _list(ids: Iterable[object]) -> str:
    return json.dumps([str(value) for value in ids])
