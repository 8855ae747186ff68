"""Recovers what dead processes left: their spools, runs no signal closed, costs not yet known."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agent_client.adopt import adopt, has_rows
from agent_client.costs import LOOK_BACK_S, read_costs, reconciled_runs
from agent_client.files import telemetry_dir
from agent_client.journal import Intake, Journal
from agent_client.spool import dead_spools, known_processes, living_processes
from agent_client.store import StoreError, add_to_state, get_state, put_state, run_event

_LAST_EVENT = """
SELECT max(t) FROM (
  SELECT max(coalesce(end_ns, start_ns)) AS t FROM tel_model_calls WHERE run_id = :run
  UNION ALL SELECT max(coalesce(end_ns, start_ns)) FROM tel_tool_calls WHERE run_id = :run
  UNION ALL SELECT max(ts_ns) FROM tel_error_events WHERE run_id = :run)
"""
_COUNTS = """
SELECT (SELECT count(*) FROM tel_model_calls WHERE run_id = :run),
       (SELECT count(*) FROM tel_tool_calls WHERE run_id = :run),
       (SELECT count(*) FROM tel_error_events WHERE run_id = :run)
       + (SELECT count(*) FROM tel_tool_calls
          WHERE run_id = :run AND result_class IN ('error', 'timeout'))
"""
_LAST_ERROR = """
SELECT ts_ns, recovery FROM tel_error_events WHERE run_id = ? ORDER BY ts_ns DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What one recovery did."""

    spools: int = 0
    events: int = 0
    runs_closed: int = 0


def recover(home: Path, *, own_process_id: str = "") -> RecoveryReport:
    """Drain the spools of dead processes, close their runs, fold their counters, price runs.

    Safe to run at any time, twice, and in several processes at once. Does
    nothing, and makes no file, where nothing was ever recorded.
    Errors: StoreError.
    """
    if not telemetry_dir(home).is_dir() and not has_rows(home):
        return RecoveryReport()
    journal = Journal(home)
    try:
        try:
            return _recover(home, journal, own_process_id)
        except sqlite3.DatabaseError:
            # A corrupt database was set aside: the next attempt fills a new one from the log.
            return _recover(home, journal, own_process_id)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"what is left in {telemetry_dir(home) / 'spool'} cannot be stored "
            f"({type(error).__name__}); run 'hermes-telemetry doctor'"
        ) from error
    finally:
        journal.close()


def _recover(home: Path, journal: Journal, own_process_id: str) -> RecoveryReport:
    folder = telemetry_dir(home) / "spool"
    spools = events = 0
    for spool in dead_spools(folder):
        try:
            intakes = [Intake(ring.chunk, ring.refused) for ring in spool.rings()]
            events += len(journal.write(intakes))
        except BaseException:
            spool.release()
            raise
        spool.remove()
        spools += 1
    with journal.locked() as connection:
        # Under the lock: a process that began since we looked would be taken for a dead one.
        living = living_processes(folder) | {own_process_id}
        closing = [
            _closing_event(connection, run_id)
            for run_id, process_id in connection.execute(
                "SELECT run_id, process_id FROM tel_open_runs"
            ).fetchall()
            if process_id not in living
        ]
        journal.append_events(connection, [event for event in closing if event])
        _reconcile_costs(home, journal, connection)
        # A ring's cursor may go only after its file: it is what keeps a re-read from doubling.
        _fold_rings(connection, known_processes(folder) | {own_process_id})
    events += adopt(home, journal)
    return RecoveryReport(spools, events, sum(1 for event in closing if event))


def _reconcile_costs(home: Path, journal: Journal, connection: sqlite3.Connection) -> None:
    seen_s = float(get_state(connection, "cost.seen_s") or 0.0)
    sessions = read_costs(home, seen_s - LOOK_BACK_S)
    journal.append_events(connection, reconciled_runs(connection, sessions))
    newest_s = max((session.last_seen_s for session in sessions), default=seen_s)
    if newest_s > seen_s:
        put_state(connection, {"cost.seen_s": repr(newest_s)})


def _closing_event(connection: sqlite3.Connection, run_id: str) -> dict[str, object]:
    event = run_event(connection, run_id)
    connection.execute("DELETE FROM tel_open_runs WHERE run_id = ?", (run_id,))
    if event is None:
        return {}
    last_ns = connection.execute(_LAST_EVENT, {"run": run_id}).fetchone()[0]
    error = connection.execute(_LAST_ERROR, (run_id,)).fetchone()
    has_failed = error is not None and error[1] == "none" and error[0] >= (last_ns or 0)
    model_calls, tool_calls, errors = connection.execute(_COUNTS, {"run": run_id}).fetchone()
    return {
        **event,
        "end_ns": max(event["start_ns"], last_ns or 0),  # type: ignore[call-overload]  # int by schema
        "end_reason": "failed" if has_failed else "abandoned",
        "model_call_count": model_calls,
        "tool_call_count": tool_calls,
        "error_count": max(event["error_count"] or 0, errors),  # type: ignore[call-overload,unused-ignore]  # int by schema
    }


def _fold_rings(connection: sqlite3.Connection, known: set[str]) -> None:
    """Add the counters of rings that are gone to the totals, so that the table stays small."""
    for ring_id, stored, overflow, encode, too_large in connection.execute(
        "SELECT ring_id, stored, overflow, encode, too_large FROM tel_rings"
    ).fetchall():
        if ring_id.partition(".")[0] in known:
            continue
        for key, count in (
            ("ledger.stored", stored),
            ("loss.overflow", overflow),
            ("loss.encode", encode),
            ("loss.too_large", too_large),
        ):
            if count:
                add_to_state(connection, key, count)
        connection.execute("DELETE FROM tel_rings WHERE ring_id = ?", (ring_id,))
