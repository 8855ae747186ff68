"""Takes out what is older than ``telemetry.retention_days``: rows, their log lines, leftovers.

A record's age is that of its latest time (its end, where it has one). A run that a living process
has open stays, whatever its age. What had not been pushed is counted as expired. A record stays
readable for ``retention_days`` and until the next prune, which a recording process starts once a
day. The clock decides what is old, so it is watched: see ``Clock``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_client import config
from agent_client.contract.tables import EVENT_TABLES
from agent_client.files import telemetry_dir
from agent_client.guard import note_fault
from agent_client.journal import Journal
from agent_client.pruner import LATEST, Hold, Pruner, PruneReport
from agent_client.recovery import recover
from agent_client.store import StoreError, database_path, get_state, put_state

DAY_NS: Final = 86_400 * 10**9
LOOK_S: Final = 3600
"""A recording process asks this often whether a prune is due, and notes what the clock says."""
JUMP_NS: Final = 30 * DAY_NS
"""A clock that is this far from where it was last seen has jumped, or the machine was off."""
PROBATION_NS: Final = 7 * DAY_NS
"""How long a clock that has jumped must go on before records go by it. Off for a month, on for a
week: what is too old then goes a week late. A wrong clock is noticed within the week: TLS fails."""
BUSY_S: Final = 30.0
"""How long a person waits for a push that runs, before the prune gives up."""

_SEEN: Final = "clock.seen_ns"
_TRUSTED: Final = "clock.trusted_from_ns"
_DONE: Final = "retention.done_ns"


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the clock was last seen, and from when on records may go by it.

    A clock that jumps a year ahead makes every record too old. It cannot be told from a machine
    that was off for that long, so after such a jump pruning waits until the clock has gone on
    for a while; a clock that is set right meanwhile has cost nothing.
    """

    seen_ns: int
    trusted_from_ns: int = 0

    def at(self, now_ns: int) -> Clock:
        """The clock seen again."""
        if -DAY_NS <= now_ns - self.seen_ns <= JUMP_NS:
            return Clock(max(now_ns, self.seen_ns), self.trusted_from_ns)
        return Clock(now_ns, now_ns + PROBATION_NS)


def prune(
    home: Path,
    *,
    retention_days: int | None = None,
    now_ns: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Callable[[PruneReport], None] | None = None,
) -> PruneReport:
    """Remove what is older than the configured, or the given, days; ``dry_run`` only counts.

    Takes in what dead processes left first, as every verb does. ``progress`` is told the report
    so far after each step. Errors: StoreError, OSError.
    """
    if not telemetry_dir(home).is_dir():
        return PruneReport()
    recover(home)
    now_ns = time.time_ns() if now_ns is None else now_ns
    days = _configured_days(home) if retention_days is None else retention_days
    journal = Journal(home)
    try:
        with journal.locked() as connection:
            clock = _look(connection, now_ns, keep=not dry_run)
        pruner = Pruner(journal, now_ns - days * DAY_NS, dry_run=dry_run)
        if now_ns < clock.trusted_from_ns and not force and not dry_run:
            return replace(pruner.report, hold="clock")
        waited_s = 0.0
        for has_moved in pruner.steps():
            if progress is not None:
                progress(pruner.report)
            if has_moved:
                waited_s = 0.0
                continue
            time.sleep(0.05)
            waited_s += 0.05
            if waited_s >= BUSY_S:
                return replace(pruner.report, hold="push")
        if not dry_run:
            with journal.locked() as connection:
                put_state(connection, {_DONE: str(now_ns)})
    except sqlite3.Error as error:
        raise StoreError(
            f"{database_path(home)} cannot be pruned ({type(error).__name__}); "
            "run 'hermes-telemetry doctor'"
        ) from error
    finally:
        journal.close()
    hold: Hold = "clock" if now_ns < clock.trusted_from_ns and not force else ""
    return replace(pruner.report, hold=hold)


def upkeep(journal: Journal, clock_ns: Callable[[], int] = time.time_ns) -> Iterator[bool]:
    """A recording process's daily prune, a step at each ``next``; True: there is more to do soon.

    Never ends. It holds no lock and no open file between two steps, so that it may be dropped
    anywhere, in a forked child too. What fails is tried again at the next look.
    """
    looked_s = float("-inf")
    while True:
        if time.monotonic() - looked_s >= LOOK_S:
            looked_s = time.monotonic()
            try:
                yield from _prune_if_due(journal, clock_ns())
            except (OSError, StoreError, sqlite3.Error) as error:
                note_fault("retention", error)
        yield False


def _prune_if_due(journal: Journal, now_ns: int) -> Iterator[bool]:
    with journal.locked() as connection:
        clock = _look(connection, now_ns)
        done_ns = int(get_state(connection, _DONE) or 0)
    if now_ns < clock.trusted_from_ns or 0 <= now_ns - done_ns < DAY_NS:
        return
    for _ in Pruner(journal, now_ns - _configured_days(journal.home) * DAY_NS).steps():
        yield True
    with journal.locked() as connection:
        put_state(connection, {_DONE: str(now_ns)})


def _configured_days(home: Path) -> int:
    days = config.load(home).get("telemetry.retention_days")
    return days if isinstance(days, int) else 90


def _look(connection: sqlite3.Connection, now_ns: int, *, keep: bool = True) -> Clock:
    """See the clock; where nobody did before, the newest record says when it last was right."""
    seen = get_state(connection, _SEEN) or _newest_ns(connection) or now_ns
    clock = Clock(int(seen), int(get_state(connection, _TRUSTED) or 0)).at(now_ns)
    if keep:
        values = {_SEEN: str(clock.seen_ns), _TRUSTED: str(clock.trusted_from_ns)}
        put_state(connection, values)
    return clock


def _newest_ns(connection: sqlite3.Connection) -> int | None:
    latest = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {LATEST[table.name]} AS t FROM {table.name} "
        "ORDER BY seq DESC LIMIT 1)"
        for table in EVENT_TABLES
    )
    found = connection.execute(f"SELECT max(t) FROM ({latest})").fetchone()[0]
    return None if found is None else int(found)
