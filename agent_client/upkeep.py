"""What a recording process does about retention by itself: a prune a day, if the clock allows.

The clock decides what is old, so it is watched: see ``Clock``. What prunes is imported when a
prune is due and not before; most sessions see none.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.contract.tables import EVENT_TABLES
from agent_client.guard import note_fault
from agent_client.journal import Journal
from agent_client.logtrim import LATEST
from agent_client.store import StoreError, get_state, put_state

DAY_NS: Final = 86_400 * 10**9
LOOK_S: Final = 3600
"""A recording process asks this often whether a prune is due, and notes what the clock says."""
JUMP_NS: Final = 30 * DAY_NS
"""A clock that is this far from where it was last seen has jumped, or the machine was off."""
PROBATION_NS: Final = 7 * DAY_NS
"""How long a clock that has jumped must go on before records go by it. Off for a month, on for a
week: what is too old then goes a week late. A wrong clock is noticed within the week: TLS fails."""

_SEEN: Final = "clock.seen_ns"
_TRUSTED: Final = "clock.trusted_from_ns"
DONE: Final = "retention.done_ns"
"""When a prune last came to its end."""


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
        clock = look(connection, now_ns)
        done_ns = int(get_state(connection, DONE) or 0)
    if now_ns < clock.trusted_from_ns or 0 <= now_ns - done_ns < DAY_NS:
        return
    yield True  # a fork waits for a step to end: what is slow here is not inside SQLite
    from agent_client.pruner import Pruner

    cutoff_ns = now_ns - configured_days(journal.home) * DAY_NS
    yield True
    for _ in Pruner(journal, cutoff_ns).steps():
        yield True
    with journal.locked() as connection:
        put_state(connection, {DONE: str(now_ns)})


def configured_days(home: Path) -> int:
    """``telemetry.retention_days``, pins honoured."""
    from agent_client import config

    days = config.load(home).get("telemetry.retention_days")
    return days if isinstance(days, int) else 90


def look(connection: sqlite3.Connection, now_ns: int, *, keep: bool = True) -> Clock:
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
