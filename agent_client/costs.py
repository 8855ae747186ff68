"""What runs cost, reconciled from the host's own accounting in its ``state.db``.

No hook carries a cost. The host keeps one per session and model in
``session_model_usage``, auxiliary calls that fire no hook included; a session's
total is shared out among its runs. A cost the host does not know stays unknown:
its 0.0 with status ``unknown`` is not a price. ``state.db`` is only read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.store import run_event

STATE_DB: Final = "state.db"
LOOK_BACK_S: Final = 3600.0
"""Sessions that changed within the last hour are looked at again: a run may still be in a spool."""
CENT_FRACTION_USD: Final = 1e-9
"""Differences below this are float noise, not money."""

_USAGE = """
SELECT session_id, cost_status, sum(coalesce(nullif(actual_cost_usd, 0), estimated_cost_usd)),
       max(last_seen)
FROM session_model_usage
WHERE last_seen >= ? AND cost_status IN ('actual', 'estimated', 'included')
GROUP BY session_id, cost_status
"""
_RUNS = """
SELECT run_id, estimated_cost_usd, cost_status, (SELECT total(input_tokens) + total(output_tokens)
       FROM tel_model_calls m WHERE m.run_id = r.run_id)
FROM tel_runs r WHERE session_id = ? AND end_ns IS NOT NULL ORDER BY start_ns
"""


@dataclass(frozen=True, slots=True)
class SessionCost:
    """A session's known cost by the host's accounting."""

    session_id: str
    cost_usd: float
    status: str
    last_seen_s: float


@dataclass(frozen=True, slots=True)
class RunCost:
    """A run of the session with what is attributed to it so far."""

    run_id: str
    cost_usd: float | None
    status: str | None
    tokens: float


def share(session: SessionCost, runs: list[RunCost]) -> dict[str, float]:
    """New cost by run_id, so that the session's runs add up to its total.

    What is not attributed yet goes to runs without a cost, by their tokens; with
    none of those, to the last run (it grew since).
    """
    missing_usd = session.cost_usd - sum(run.cost_usd or 0.0 for run in runs)
    if not runs or missing_usd <= CENT_FRACTION_USD:
        return {}
    fresh = [run for run in runs if run.cost_usd is None] or runs[-1:]
    tokens = sum(run.tokens for run in fresh)
    return {
        run.run_id: (run.cost_usd or 0.0)
        + missing_usd * (run.tokens / tokens if tokens else 1 / len(fresh))
        for run in fresh
    }


def read_costs(home: Path, since_s: float) -> list[SessionCost]:
    """Costs of sessions that changed since; [] without a readable ``state.db``. Never raises."""
    path = home / STATE_DB
    if not path.is_file():
        return []
    found: dict[str, SessionCost] = {}
    try:
        with closing(
            sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, timeout=5)
        ) as connection:
            connection.execute("PRAGMA query_only = 1")
            for session_id, status, cost_usd, last_seen_s in connection.execute(_USAGE, (since_s,)):
                before = found.get(session_id)
                found[session_id] = SessionCost(
                    session_id,
                    (before.cost_usd if before else 0.0) + (cost_usd or 0.0),
                    "estimated" if status != "actual" or (before is not None) else "actual",
                    max(last_seen_s, before.last_seen_s if before else 0.0),
                )
    except sqlite3.Error:
        return []  # another version of the host, or a file in use: asked again next time
    return list(found.values())


def reconciled_runs(
    connection: sqlite3.Connection, sessions: Iterable[SessionCost]
) -> list[dict[str, object]]:
    """Run events with their new cost, inside the caller's transaction."""
    events: list[dict[str, object]] = []
    for session in sessions:
        rows = connection.execute(_RUNS, (session.session_id,)).fetchall()
        for run_id, cost_usd in share(session, [RunCost(*row) for row in rows]).items():
            priced = {"estimated_cost_usd": round(cost_usd, 9), "cost_status": session.status}
            events.append({**(run_event(connection, run_id) or {}), **priced})
    return events
