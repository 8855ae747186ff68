"""A release put into force: looked at before, migrated without stopping writers, proved after."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from fleet.audit import verify_chain
from fleet.lib.clock import now
from fleet.models import ProcessBeat
from fleet.ops import doctor, hooks, postgres, sqlite
from fleet.ops.backup import last_backup
from fleet.ops.files import OpsError
from fleet.ops.hooks import Finding, Severity
from fleet.ops.risks import Judged, judge, models_made

BACKUP_FRESH: Final = timedelta(hours=24)
RUNS_WITHIN: Final = timedelta(seconds=60)
PATIENCE_MS: Final = 2_000
"""Whoever wants a lock makes all others queue behind it: a live table stands this long at most."""
TRIES: Final = 60
PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 5.0
ROOM_BYTES: Final = 1024**3

Say = Callable[[str], None]


def pending() -> list[Judged]:
    """The migrations to come, in order, each with its risk."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    judged: list[Judged] = []
    made: dict[str, set[str]] = {}
    for migration, _back in plan:
        node = (migration.app_label, migration.name)
        state = executor.loader.project_state([node], at_end=False)
        new_models = made.setdefault(migration.app_label, set())
        judged.append(judge(migration, state, frozenset(new_models)))
        new_models |= models_made(migration)
    return judged


def look_before(*, needs_backup: bool) -> list[Finding]:
    """What stands for and against doing it now."""
    steps = pending()
    found = [_of_step(step) for step in steps]
    if not steps:
        found.append(Finding("migrations", "ok", "None is pending"))
    if needs_backup:
        found.append(_look_at_backup())
    found += [*_look_at_room(), *_look_at_processes(steps)]
    for look in hooks.before_upgrade():
        try:
            found += look()
        except DatabaseError as error:  # a table that this release only makes
            first = (str(error).strip().splitlines() or ["?"])[0]
            found.append(Finding("backlog", "ok", f"cannot be told before it: {first}"))
    return found


def _of_step(step: Judged) -> Finding:
    if step.risk == "online":
        return Finding(step.name, "ok", "safe while the console works")
    mend = "Stop web, worker and beat for it; agents keep what they have and push it afterwards."
    return Finding(step.name, "warn", f"needs a window: {'; '.join(step.reasons)}", mend)


def _look_at_backup() -> Finding:
    last, mend = last_backup(), "Run: manage.py backup. Or say --no-backup."
    if last is None:
        return Finding("backup", "error", "This console knows of none", mend)
    age = now() - last.at
    detail = f"{age.total_seconds() / 3600:.1f} hours old"
    return Finding("backup", "error" if age > BACKUP_FRESH else "ok", detail, mend)


def _look_at_room() -> list[Finding]:
    home = Path(settings.FLEET_HOME)
    free = shutil.disk_usage(home).free
    need = ROOM_BYTES
    if connection.vendor == "sqlite":  # a changed table is written anew, beside the old one
        path = sqlite.database_path()
        need = max(ROOM_BYTES // 4, 2 * path.stat().st_size if path.exists() else 0)
    mend = "Free space: tables may be written anew beside themselves."
    severity: Severity = "ok" if free >= need else "error"
    return [Finding("disk", severity, f"{free // 1024**2} MiB free under {home}", mend)]


def _look_at_processes(steps: list[Judged]) -> list[Finding]:
    needs_window = [step.name for step in steps if step.risk == "window"]
    running = [
        f"{beat.kind} on {beat.hostname or '?'}"
        for beat in ProcessBeat.objects.filter(at__gte=now() - RUNS_WITHIN)
    ]
    if running and needs_window:
        mend = "systemctl stop fleet.target fleet-web.socket"
        detail = f"{', '.join(running)} of the release before; {needs_window[0]} needs a window"
        return [Finding("processes", "error", detail, mend)]
    if running and steps:
        mend = "Restart them afterwards: systemctl restart fleet.target"
        return [Finding("processes", "warn", f"{', '.join(running)}: they may go on", mend)]
    return [Finding("processes", "ok", "None of the release before was seen within a minute")]


# -------------------------------------------------------------------------------------- doing it


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of each table."""

    rows: dict[str, int]


def count_rows() -> Counted:
    """Rows of every table, partitioned ones as one."""
    if connection.vendor == "postgresql":
        with postgres.connected() as held:
            rows = postgres.counts_of(held)
    else:
        with sqlite.opened(sqlite.database_path()) as held_file:
            rows = {name: facts.row_count for name, facts in sqlite.facts_of(held_file).items()}
    return Counted(rows)


def migrate_patiently(
    say: Say, *, patience_ms: int = PATIENCE_MS, tries: int = TRIES, pause_s: float = PAUSE_S
) -> int:
    """Apply what is pending, one migration at a time; how many tries found a table busy.

    PostgreSQL waits ``patience_ms`` for a lock at most, then the migration is rolled back and tried
    again after a pause, in which all who queued behind it get on.
    Errors: OpsError after ``tries``; what was applied until then stays, and the rest is pending.
    """
    busy = 0
    for step in pending():
        say(f"{step.name} ({step.risk})")
        app, name = step.name.split(".", 1)
        for attempt in range(1, tries + 1):
            try:
                _apply(app, name, patience_ms)
                break
            except OperationalError as error:
                if not _is_busy(error) or attempt == tries:
                    raise OpsError(_gave_up(step.name, error)) from error
                busy += 1
                say(f"  a table is busy; try {attempt + 1} follows")
                time.sleep(min(pause_s * attempt, MAX_PAUSE_S) * random.uniform(0.5, 1))
    call_command("migrate", verbosity=0, interactive=False)  # permissions and content types
    return busy


def _apply(app: str, name: str, patience_ms: int) -> None:
    executor = MigrationExecutor(connection)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{patience_ms}ms"])
    try:
        executor.migrate([(app, name)])
    finally:
        connection.close()  # the limit goes with the session


def _is_busy(error: OperationalError) -> bool:
    cause = error.__cause__
    return isinstance(cause, psycopg.errors.LockNotAvailable) or "locked" in str(error)


def _gave_up(name: str, error: OperationalError) -> str:
    first = (str(error).strip().splitlines() or ["?"])[0]
    return (
        f"{name} was not applied: {first}. It was rolled back, what came before it stays.\n"
        "Find who holds the table (pg_stat_activity), or stop the console, and run it again."
    )


def look_after(before: Counted) -> list[Finding]:
    """Whether every row is still there, the trail whole, and the console well."""
    found = compare_rows(before, count_rows())
    fault = verify_chain()
    mend = "Restore the backup that was made before the upgrade."
    if fault is None:
        found.append(Finding("audit", "ok", "The trail is whole"))
    else:
        found.append(Finding("audit", "error", f"row {fault.record_id}: {fault.problem}", mend))
    # Processes are started after this; what else is wrong was not there before.
    skipped = {"worker", "beat", "static", "backup"}
    return found + [
        each for each in doctor.examine() if each.severity != "ok" and each.name not in skipped
    ]


def compare_rows(before: Counted, after: Counted) -> list[Finding]:
    """Tables that lost rows: an error where nothing may be lost, else a word. Pure."""
    found = []
    for name, count in sorted(before.rows.items()):
        left = after.rows.get(name)
        if left is None and count:
            found.append(Finding("rows", "warn", f"{name} is gone, with {count} rows"))
        elif left is not None and left < count:
            severity: Severity = "error" if name in hooks.live_tables() else "warn"
            mend = "Restore the backup that was made before the upgrade."
            found.append(Finding("rows", severity, f"{name}: {count} before, {left} now", mend))
    total = sum(before.rows.values())
    return found or [Finding("rows", "ok", f"All {total} rows of {len(before.rows)} tables")]
