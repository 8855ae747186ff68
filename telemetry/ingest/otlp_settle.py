"""settle_traces(): the runs of traces, put together with what was known of them before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Final

from agent_client.contract.tables import BY_NAME
from fleet.lib.clock import datetime_to_ns, ns_to_datetime
from telemetry.ingest.otlp_traces import (
    COUNTED,
    TraceFacts,
    is_same,
    merged,
    run_row,
    said_from_json,
)
from telemetry.store.copy import CopyCounts, Row, Stamp
from telemetry.store.retention import keep_from
from telemetry.store.traces import KnownTrace, NewTrace, inserted_by, known_traces, store_traces

NS_PER_HOUR: Final = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the runs, and the hours in which they begin or began before."""

    counts: CopyCounts = field(default_factory=CopyCounts)
    hours: frozenset[datetime] = frozenset()


def settle_traces(
    traces: Mapping[str, TraceFacts],
    rows: Mapping[str, list[Row]],
    stamp: Stamp,
    *,
    has_duplicates: bool,
) -> Settled:
    """Store the runs of traces; in the batch's transaction, when its rows are stored.

    ``has_duplicates``: not all ``rows`` were new. Then the calls of each run are counted by what
    the batch really inserted, so that no repeat adds to them.
    """
    known = known_traces(stamp.install_id, traces)
    # What began before retention has no partition any more: its run begins anew.
    oldest = datetime.combine(keep_from(stamp.received_at), time(), UTC)
    known = {run: trace for run, trace in known.items() if trace.start_ns >= datetime_to_ns(oldest)}
    if has_duplicates:
        inserted = inserted_by(stamp, COUNTED, *_window(rows))
    else:
        inserted = {run_id: facts.counts for run_id, facts in traces.items()}
    plan = [
        _next(known.get(run_id), facts, inserted.get(run_id, {}))
        for run_id, facts in traces.items()
    ]
    new = [trace for trace in plan if trace is not None]
    replaced = {t.run_id: known[t.run_id].start_ns for t in new if t.run_id in known}
    copied = store_traces(stamp, new, replaced) if new else CopyCounts()
    return Settled(
        _counts(copied, replaced_count=len(replaced), same_count=len(plan) - len(new)),
        frozenset(
            ns_to_datetime(hour * NS_PER_HOUR)
            for hour in {
                at_ns // NS_PER_HOUR
                for at_ns in (*replaced.values(), *(trace.start_ns for trace in new))
            }
        ),
    )


def _counts(copied: CopyCounts, *, replaced_count: int, same_count: int) -> CopyCounts:
    """What became of the runs: one that was taken away before is merged, not inserted.

    A trace that was forgotten may find its run still there; what was copied says so.
    """
    merged_count = min(replaced_count, copied.inserted)
    return CopyCounts(
        copied.inserted - merged_count,
        copied.merged + merged_count,
        copied.duplicate + same_count,
    )


def _next(known: KnownTrace | None, found: TraceFacts, added: Mapping[str, int]) -> NewTrace | None:
    """What is to be stored of a trace; None when nothing of it is new."""
    if known is None:
        facts, seq = TraceFacts(found.run_id, found.start_ns, found.said, dict(added)), 1
    else:
        said, counts = said_from_json(known.said), dict(known.counts)
        before = TraceFacts(found.run_id, known.start_ns, said, counts)
        facts, seq = merged(before, found, added), known.seq + 1
        if is_same(before, facts):
            return None
    return NewTrace(
        facts.run_id, facts.start_ns, seq, facts.said, facts.counts, run_row(facts, seq)
    )


def _window(rows: Mapping[str, list[Row]]) -> tuple[int, int]:
    """The first and the last time at which rows of calls and errors stand, in nanoseconds."""
    times: list[int] = []
    for name in COUNTED:
        at = BY_NAME[name].column_names().index(BY_NAME[name].time)
        times += [at_ns for row in rows.get(name, ()) if isinstance(at_ns := row[at], int)]
    return (min(times), max(times)) if times else (0, 0)
