"""The records: spools of ended processes, the database and its log, losses, retention."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from agent_client.doctor.check import Check, Subject
from agent_client.files import telemetry_dir

CHECK_S: Final = 3.0
"""How long the database is looked through; a large one is checked as far as it goes."""
REBUILD: Final = "hermes-telemetry rebuild makes it again from the event log."
DAY_NS: Final = 86_400 * 10**9
SLACK_DAYS: Final = 2
"""Retention runs with recording and with the verbs; a machine may have slept over a weekend."""


def check_spool(subject: Subject) -> Iterator[Check]:
    """No process ended without its events having been taken in."""
    from agent_client import health

    sizes = health.snapshot(subject.home)
    if sizes.dead_spools:
        hint = "Run 'hermes-telemetry status': it takes in what ended processes left."
        yield Check("spool", "warn", f"{sizes.dead_spools} left by ended processes", hint)
    elif sizes.living_processes:
        yield Check("spool", "info", f"{sizes.living_processes} recording right now")


def check_database(subject: Subject) -> Iterator[Check]:
    """The database opens and is whole, its log is there, and nothing was lost."""
    from agent_client import health
    from agent_client.store import Store, StoreError, database_path

    if not database_path(subject.home).exists():
        yield Check("database", "ok", "nothing recorded yet")
        return
    try:
        with Store(subject.home) as store:
            whole = _look_through(store.connection)
            losses, rows = health.losses(store), sum(store.counts().values())
    except (StoreError, sqlite3.Error) as error:
        finding = str(error).removesuffix("; run 'hermes-telemetry doctor'")
        is_closed = isinstance(error.__cause__, PermissionError)
        hint = "Check who owns it, and who may write it." if is_closed else REBUILD
        yield Check("database", "fail", finding, hint)
        return
    if whole == "ok":
        yield Check("database", "ok", f"whole, {rows:,} rows")
    elif whole:
        yield Check("database", "fail", "it is damaged", REBUILD)
    else:
        yield Check("database", "ok", f"no damage found in {CHECK_S:.0f} s, {rows:,} rows")
    yield from _log(telemetry_dir(subject.home), rows)
    if losses:
        text = ", ".join(f"{reason} {count:,}" for reason, count in losses.items())
        yield Check("losses", "warn", f"events lost and not yet reported: {text}")


def _look_through(connection: sqlite3.Connection) -> str:
    """What ``quick_check`` finds within its time: "ok", a fault, or "" when time ran out."""
    ends_s = time.monotonic() + CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > ends_s, 10_000)
    try:
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            return ""
        raise
    finally:
        connection.set_progress_handler(None, 0)


def _log(folder: Path, rows: int) -> Iterator[Check]:
    logs = [*folder.glob("events.jsonl"), *folder.glob("events-*.jsonl")]
    if rows and not any(path.stat().st_size for path in logs):
        hint = "Do not run rebuild, it would find nothing. Export first: export --out FILE."
        yield Check("log", "warn", "it is gone; the database is all there is", hint)
    else:
        yield Check("log", "ok", f"{len(logs)} file{'' if len(logs) == 1 else 's'}")


def check_retention(subject: Subject) -> Iterator[Check]:
    """Nothing is kept much longer than the retention says."""
    from agent_client.hostdb import connect
    from agent_client.store import database_path

    days = subject.settings.get("telemetry.retention_days")
    path = database_path(subject.home)
    if not isinstance(days, int) or not path.exists():
        return
    try:
        with closing(connect(path)) as connection:
            oldest_ns = connection.execute("SELECT min(start_ns) FROM tel_runs").fetchone()[0]
    except sqlite3.Error:
        return  # check_database has said it
    kept_days = (time.time_ns() - oldest_ns) / DAY_NS if isinstance(oldest_ns, int) else 0.0
    if kept_days > days + SLACK_DAYS:
        finding = f"the oldest run is of {kept_days:.0f} days ago, retention is {days} days"
        yield Check("retention", "warn", finding, "hermes-telemetry prune")
    else:
        yield Check("retention", "ok", f"{days} days")
