"""Takes out what is older than ``telemetry.retention_days``: rows, their log lines, leftovers.

A record's age is that of its latest time (its end, where it has one). A run that a living process
has open stays, whatever its age. What had not been pushed is counted as expired. A record stays
readable for ``retention_days`` and until the next prune, which a recording process starts once a
day (see ``upkeep``).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent_client.files import telemetry_dir
from agent_client.journal import Journal
from agent_client.pruner import Hold, Pruner, PruneReport
from agent_client.recovery import recover
from agent_client.store import StoreError, database_path, put_state
from agent_client.upkeep import DAY_NS, DONE, configured_days, look

BUSY_S: Final = 30.0
"""How long a person waits for a push that runs, before the prune gives up."""


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
    days = configured_days(home) if retention_days is None else retention_days
    journal = Journal(home)
    try:
        with journal.locked() as connection:
            clock = look(connection, now_ns, keep=not dry_run)
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
                put_state(connection, {DONE: str(now_ns)})
    except sqlite3.Error as error:
        raise StoreError(
            f"{database_path(home)} cannot be pruned ({type(error).__name__}); "
            "run 'hermes-telemetry doctor'"
        ) from error
    finally:
        journal.close()
    hold: Hold = "clock" if now_ns < clock.trusted_from_ns and not force else ""
    return replace(pruner.report, hold=hold)
