"""What runs cost: by the owner's own prices, else by the host's accounting in its ``state.db``.

No hook carries a cost. The host keeps one per session and model in
``session_model_usage``, auxiliary calls that fire no hook included; what it
has for calls that a price of the owner's covers is left out, and the rest of a
session's total is shared out among its runs. A cost nobody knows stays unknown:
the host's 0.0 with status ``unknown`` is not a price. ``state.db`` is only read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.hostdb import STATE_DB, connect
from agent_client.store import run_event

LOOK_BACK_S: Final = 3600.0
"""Sessions that changed within the last hour are looked at again: a run may still be in a spool."""
CENT_FRACTION_USD: Final = 1e-9
"""Differences below this are float noise, not money."""

# An auxiliary call's row has no status; a cost in it is the host's estimate all the same.
_USAGE = """
SELECT session_id, coalesce(last_seen, 0.0), task, billing_provider, model,
       coalesce(nullif(actual_cost_usd, 0), estimated_cost_usd, 0.0),
       input_tokens + output_tokens + cache_read_tokens + cache_write_tokens,
       coalesce(cost_status, 'estimated')
FROM session_model_usage
WHERE {which} AND (cost_status IN ('actual', 'estimated', 'included')
                   OR cost_status IS NULL AND task <> '' AND estimated_cost_usd > 0)
"""
_CALLS_TOKENS = """
total(m.input_tokens) + total(m.output_tokens) + total(m.cache_read_tokens)
+ total(m.cache_write_tokens)
"""
_RUNS = f"""
SELECT r.run_id, r.estimated_cost_usd, r.cost_status,
       (SELECT {_CALLS_TOKENS} FROM tel_model_calls m
        WHERE m.run_id = r.run_id AND m.cost_source IS NOT 'override'),
       (SELECT sum(estimated_cost_usd) FROM tel_model_calls m
        WHERE m.run_id = r.run_id AND m.cost_source = 'override')
FROM tel_runs r WHERE r.session_id = ? AND r.end_ns IS NOT NULL ORDER BY r.start_ns
"""
_OVERRIDDEN_TOKENS = f"""
SELECT m.provider, m.model, {_CALLS_TOKENS}
FROM tel_runs r JOIN tel_model_calls m ON m.run_id = r.run_id
WHERE r.session_id = ? AND m.cost_source = 'override' GROUP BY m.provider, m.model
"""
_OVERRIDDEN_SESSIONS = """
SELECT session_id, max(end_ns) FROM tel_runs r
WHERE end_ns >= ? AND session_id IS NOT NULL AND EXISTS (
  SELECT 1 FROM tel_model_calls m WHERE m.run_id = r.run_id AND m.cost_source = 'override')
GROUP BY session_id
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the host has for one model and one kind of work of a session."""

    task: str
    provider: str
    model: str
    cost_usd: float
    tokens: float
    status: str


@dataclass(frozen=True, slots=True)
class SessionCost:
    """A session's known cost by the host's accounting."""

    session_id: str
    usages: tuple[Usage, ...] = ()
    last_seen_s: float = 0.0

    @property
    def status(self) -> str:
        """``actual`` when all of it was billed, else ``estimated``."""
        is_actual = all(usage.status == "actual" for usage in self.usages)
        return "actual" if is_actual and self.usages else "estimated"

    @property
    def is_included(self) -> bool:
        """Whether a subscription pays for all of it, so that 0.0 is what it costs."""
        return bool(self.usages) and all(usage.status == "included" for usage in self.usages)

    def cost_usd(self, overridden: dict[tuple[str, str], float]) -> float:
        """The cost of all but the tokens, by (provider, model), that the owner priced."""
        total = 0.0
        for usage in self.usages:
            # An auxiliary call fires no hook: none of its tokens are among the priced ones.
            priced = 0.0 if usage.task else overridden.get((usage.provider, usage.model), 0.0)
            rest = max(0.0, 1.0 - priced / usage.tokens) if usage.tokens else float(not priced)
            total += usage.cost_usd * rest
        return total


@dataclass(frozen=True, slots=True)
class RunCost:
    """A run with what is attributed to it so far; ``tokens`` are those without an own price.

    ``priced_usd``: what its calls cost by the owner's prices; None when none has one.
    """

    run_id: str
    cost_usd: float | None
    status: str | None
    tokens: float
    priced_usd: float | None = None

    @property
    def rest_usd(self) -> float | None:
        """What is attributed to it of the host's accounting."""
        if self.cost_usd is None:
            return None
        return max(0.0, self.cost_usd - (self.priced_usd or 0.0))


def share(
    rest_usd: float, runs: Sequence[RunCost], *, is_included: bool = False
) -> dict[str, float]:
    """What each run costs, by run_id: its own prices, and its share of the session's rest.

    What is not attributed yet goes to runs without a cost, by their tokens; with
    none of those, to the last run (it grew since). Runs whose cost nobody knows are left out.
    """
    missing_usd = rest_usd - sum(run.rest_usd or 0.0 for run in runs)
    fresh = [run for run in runs if run.rest_usd is None] or list(runs[-1:])
    tokens = sum(run.tokens for run in fresh)
    costs: dict[str, float] = {}
    for run in runs:
        cost_usd = run.rest_usd
        if run in fresh and (missing_usd > CENT_FRACTION_USD or (is_included and not missing_usd)):
            part = run.tokens / tokens if tokens else 1 / len(fresh)
            cost_usd = (cost_usd or 0.0) + missing_usd * part
        if cost_usd is not None or run.priced_usd is not None:
            costs[run.run_id] = (cost_usd or 0.0) + (run.priced_usd or 0.0)
    return costs


def read_costs(
    home: Path, *, since_s: float = 0.0, session_ids: Sequence[str] | None = None
) -> list[SessionCost]:
    """Costs of the sessions named, or of those that changed since. Never raises.

    [] without a readable ``state.db``.
    """
    path = home / STATE_DB
    if not path.is_file():
        return []
    found: dict[str, SessionCost] = {}
    try:
        with closing(connect(path)) as connection:
            for session_id, last_seen_s, *usage in _usage_rows(connection, since_s, session_ids):
                before = found.get(session_id) or SessionCost(session_id)
                found[session_id] = SessionCost(
                    session_id,
                    (*before.usages, Usage(*usage)),
                    max(last_seen_s, before.last_seen_s),
                )
    except sqlite3.Error:
        return []  # another version of the host, or a file in use: asked again next time
    return list(found.values())


def _usage_rows(
    connection: sqlite3.Connection, since_s: float, session_ids: Sequence[str] | None
) -> sqlite3.Cursor:
    if session_ids is None:
        # All rows of a session, also those of models that were not used since.
        which = "session_id IN (SELECT session_id FROM session_model_usage WHERE last_seen >= ?)"
        return connection.execute(_USAGE.format(which=which), (since_s,))
    marks = ", ".join("?" * len(session_ids))
    return connection.execute(_USAGE.format(which=f"session_id IN ({marks})"), session_ids)


def overridden_sessions(connection: sqlite3.Connection, since_s: float) -> dict[str, float]:
    """Sessions with a run that ended since and holds calls with an own price; when, in seconds."""
    since_ns = int(max(0.0, since_s) * 1e9)
    rows = connection.execute(_OVERRIDDEN_SESSIONS, (since_ns,)).fetchall()
    return {session_id: end_ns / 1e9 for session_id, end_ns in rows}


def priced_runs(
    connection: sqlite3.Connection, costs: Iterable[SessionCost], session_ids: Iterable[str]
) -> list[dict[str, object]]:
    """Run events of these sessions with a cost that changed, inside the caller's transaction."""
    by_session = {cost.session_id: cost for cost in costs}
    events: list[dict[str, object]] = []
    for session_id in sorted(set(session_ids)):
        session = by_session.get(session_id) or SessionCost(session_id)
        runs = [RunCost(*row) for row in connection.execute(_RUNS, (session_id,))]
        overridden = {
            (provider or "", model or ""): tokens
            for provider, model, tokens in connection.execute(_OVERRIDDEN_TOKENS, (session_id,))
        }
        new = share(session.cost_usd(overridden), runs, is_included=session.is_included)
        for run in runs:
            cost_usd = new.get(run.run_id)
            if cost_usd is not None and _has_changed(run.cost_usd, cost_usd):
                status = "estimated" if run.priced_usd is not None else session.status
                priced = {"estimated_cost_usd": round(cost_usd, 9), "cost_status": status}
                events.append({**(run_event(connection, run.run_id) or {}), **priced})
    return events


def _has_changed(before_usd: float | None, now_usd: float) -> bool:
    return before_usd is None or abs(now_usd - before_usd) > CENT_FRACTION_USD
