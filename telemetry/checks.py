"""Numbered checks of the telemetry app, run by ``check --database default`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from django.apps import AppConfig
from django.core import checks
from django.db import DatabaseError, connection

from fleet.lib.clock import now

CHECKED_AHEAD_DAYS: Final = 2
"""Made are seven: five missed days of maintenance before anybody is alarmed."""
MAX_LAG: Final = timedelta(minutes=15)
"""The filler runs every few seconds; a quarter of an hour means that no worker runs."""


MAX_SPOOL_AGE: Final = timedelta(minutes=10)
"""The drainer runs every five seconds; agents see their data this much late."""


def register_checks() -> None:
    """Register what this module checks; called once by the app."""
    checks.register(check_partitions, checks.Tags.database)
    checks.register(check_rollup_lag, checks.Tags.database)
    checks.register(check_spool, checks.Tags.database)


def check_partitions(
    app_configs: Sequence[AppConfig] | None,  # noqa: ARG001 -- the framework's signature
    databases: Sequence[str] | None = None,
    **_: object,
) -> list[checks.CheckMessage]:
    """telemetry.E001: the next days have no partition."""
    from telemetry.store.partitions import missing_days

    if not databases or not _has_tables():
        return []
    days = missing_days(CHECKED_AHEAD_DAYS)
    if not days:
        return []
    return [
        checks.Error(
            f"No partition for {', '.join(day.isoformat() for day in days)}.",
            hint="Run `manage.py telemetry_partitions apply`, and see that worker and beat run.",
            id="telemetry.E001",
        )
    ]


def check_rollup_lag(
    app_configs: Sequence[AppConfig] | None,  # noqa: ARG001 -- the framework's signature
    databases: Sequence[str] | None = None,
    **_: object,
) -> list[checks.CheckMessage]:
    """telemetry.W002: sums lag; W003: retention waits for them; W004: what cannot be added."""
    from telemetry.rollup.lag import failed_batches, lag_s
    from telemetry.store.retention import current_plan

    if not databases or not _has_tables():
        return []
    found: list[checks.CheckMessage] = []
    lag = lag_s() or 0.0
    if lag > MAX_LAG.total_seconds():
        found.append(
            checks.Warning(
                f"Rollups lag: a batch of {lag / 60:.0f} minutes ago is not in the sums.",
                hint="See that worker and beat run, or run `manage.py telemetry_rollup`.",
                id="telemetry.W002",
            )
        )
    failed = failed_batches()
    if failed:
        found.append(
            checks.Warning(
                f"{failed} batches could not be added to the sums; their rows are kept.",
                hint="Run `manage.py telemetry_rollup`; if they stay, `--hour` makes it again.",
                id="telemetry.W004",
            )
        )
    held = {partition.day for partition in current_plan().held}
    if held:
        found.append(
            checks.Warning(
                f"{len(held)} days are past retention and held: their rollups are not done.",
                hint="Run `manage.py telemetry_rollup`, then `telemetry_partitions apply`.",
                id="telemetry.W003",
            )
        )
    return found


def check_spool(
    app_configs: Sequence[AppConfig] | None,  # noqa: ARG001 -- the framework's signature
    databases: Sequence[str] | None = None,
    **_: object,
) -> list[checks.CheckMessage]:
    """telemetry.W020: spooled batches wait too long; telemetry.W021: some were set aside."""
    from telemetry.ingest.spool import spool_state

    if not databases or not _has_tables() or not _has_spool():
        return []
    state = spool_state()
    found: list[checks.CheckMessage] = []
    if state.oldest_at is not None and now() - state.oldest_at > MAX_SPOOL_AGE:
        found.append(
            checks.Warning(
                f"{state.waiting_count} acknowledged batches wait in the spool, the oldest since "
                f"{state.oldest_at:%Y-%m-%d %H:%M} UTC.",
                hint="See that worker and beat run, or run `manage.py telemetry_spool drain`.",
                id="telemetry.W020",
            )
        )
    if state.set_aside_count:
        found.append(
            checks.Warning(
                f"{state.set_aside_count} spooled batches could not be stored and are set aside.",
                hint="Run `manage.py telemetry_spool status`, mend the cause, then "
                "`telemetry_spool retry`.",
                id="telemetry.W021",
            )
        )
    return found


def _has_spool() -> bool:
    """False before the migration that makes it."""
    return "telemetry_spooledbatch" in connection.introspection.table_names()


def _has_tables() -> bool:
    """False before the first migration, when there is nothing to check yet."""
    from telemetry.models import Run

    try:
        names = set(connection.introspection.table_names())
    except DatabaseError:
        return False
    return Run.table_name() in names and "telemetry_touchedhour" in names
