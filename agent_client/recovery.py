"""Recovers what dead processes left: their spools, runs and turns no signal ended, their costs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent_client.adopt import adopt, has_rows
from agent_client.closing import closing_event, owed_spans, settled_runs
from agent_client.contract.events import SpanEvent
from agent_client.costs import LOOK_BACK_S, overridden_sessions, priced_runs, read_costs
from agent_client.files import telemetry_dir
from agent_client.journal import Intake, Journal
from agent_client.spool import dead_spools, known_processes, living_processes
from agent_client.store import StoreError, add_to_state, get_state, put_state


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
        closed = _close_runs(journal, connection, living)
        _end_turns(journal, connection, has_living=bool(living - {own_process_id}))
        _price_since_last_time(home, journal, connection)
        # A ring's cursor may go only after its file: it is what keeps a re-read from doubling.
        _fold_rings(connection, known_processes(folder) | {own_process_id})
    events += adopt(home, journal)
    return RecoveryReport(spools, events, closed)


def _close_runs(journal: Journal, connection: sqlite3.Connection, living: set[str]) -> int:
    """Close the runs of processes that are gone, with the spans they owe; returns how many runs."""
    orphans = [
        run_id
        for run_id, process_id in connection.execute(
            "SELECT o.run_id, process_id FROM tel_open_runs o LEFT JOIN tel_runs r USING (run_id) "
            "ORDER BY start_ns DESC"  # subagents before those who sent them
        ).fetchall()
        if process_id not in living
    ]
    closed: list[dict[str, object]] = []
    for run_id in orphans:
        event = closing_event(connection, run_id)
        connection.execute("DELETE FROM tel_open_runs WHERE run_id = ?", (run_id,))
        if event is not None:
            journal.append_events(connection, [event])
            closed.append(event)
    # A parent that ended in order may owe the span of a subagent that did not.
    parents = {event["parent_run_id"] for event in closed} - {None, *orphans}
    for run_id in orphans:
        _append(journal, connection, owed_spans(connection, run_id))
    for run_id in sorted(map(str, parents)):
        _append(journal, connection, owed_spans(connection, run_id))
    return len(closed)


def _end_turns(journal: Journal, connection: sqlite3.Connection, *, has_living: bool) -> None:
    """Make up the spans of runs that were closed in order and owe some all the same."""
    after_seq = int(get_state(connection, "spans.seen_seq") or 0)
    run_ids, seen_seq = settled_runs(connection, after_seq, has_living=has_living)
    for run_id in run_ids:
        _append(journal, connection, owed_spans(connection, run_id))
    if seen_seq != after_seq:
        put_state(connection, {"spans.seen_seq": str(seen_seq)})


def _append(journal: Journal, connection: sqlite3.Connection, spans: list[SpanEvent]) -> None:
    journal.append_events(connection, [span.to_dict() for span in spans])


def reconcile(home: Path, session_ids: Iterable[str]) -> int:
    """Price the ended runs of these sessions; returns how many have another cost now.

    Errors: OSError, sqlite3.Error.
    """
    wanted = sorted(set(session_ids))
    costs = read_costs(home, session_ids=wanted)  # before the lock: others wait for that one
    journal = Journal(home)
    try:
        with journal.locked() as connection:
            events = priced_runs(connection, costs, wanted)
            journal.append_events(connection, events)
    finally:
        journal.close()
    return len(events)


def _price_since_last_time(home: Path, journal: Journal, connection: sqlite3.Connection) -> None:
    # Never past now: after a clock that was ahead, all that comes would lie before what was seen.
    now_s = time.time()
    seen_s = min(float(get_state(connection, "cost.seen_s") or 0.0), now_s)
    since_s = seen_s - LOOK_BACK_S
    costs = read_costs(home, since_s=since_s)
    ended = overridden_sessions(connection, since_s)
    events = priced_runs(connection, costs, {cost.session_id for cost in costs} | ended.keys())
    journal.append_events(connection, events)
    newest_s = min(max((*(cost.last_seen_s for cost in costs), *ended.values(), seen_s)), now_s)
    if newest_s > seen_s:
        put_state(connection, {"cost.seen_s": repr(newest_s)})


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
