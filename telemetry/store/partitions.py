"""Day partitions as a plan one can print: which to make, which to drop, which to hold and why.

PostgreSQL only; SQLite keeps plain tables and its plan is empty. A partition is attached, not
created in place: CREATE … PARTITION OF locks the parent against every writer, ATTACH does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Final

import psycopg
from django.conf import settings
from django.db import IntegrityError, connection
from psycopg import sql

from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from telemetry.models.content import CONTENT_MODELS
from telemetry.models.events import EVENT_MODELS

AHEAD_DAYS: Final = 7
"""Days made ahead: a week of a dead beat costs ingest nothing but a little DDL of its own."""
LOCK_NAME: Final = "telemetry-partitions"
CONTENT_PARENTS: Final = tuple(model._meta.db_table for model in CONTENT_MODELS)
PARENTS: Final = (*(model.table_name() for model in EVENT_MODELS), *CONTENT_PARENTS)
_NAME: Final = re.compile(r"(?P<parent>[a-z_]+)_(?P<day>\d{8})")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One UTC day of one event table."""

    day: date
    parent: str

    @property
    def name(self) -> str:
        """The child table's name, ``telemetry_run_20261122``."""
        return f"{self.parent}_{self.day:%Y%m%d}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done, in order. ``held`` is past retention, its rollups are not done."""

    create: tuple[Partition, ...] = ()
    drop: tuple[Partition, ...] = ()
    held: tuple[Partition, ...] = ()

    def lines(self) -> list[str]:
        """The plan for a terminal, one partition a line."""
        return [
            *(f"create {partition.name}" for partition in self.create),
            *(f"drop   {partition.name}" for partition in self.drop),
            *(f"hold   {partition.name}  (its rollups are not done)" for partition in self.held),
        ]


def plan_partitions(
    *,
    today: date,
    existing: AbstractSet[Partition],
    keep_from: date,
    unfinished: AbstractSet[date],
    content_keep_from: date | None = None,
    ahead_days: int = AHEAD_DAYS,
) -> Plan:
    """The plan of a day; pure.

    Shape: creates yesterday (late pushes) to ``ahead_days`` ahead; drops what is older than
    ``keep_from``, but for the ``unfinished`` days, which are held. Content has an end of its own,
    and nothing is summed up from it that could hold it longer.
    """

    def is_kept(partition: Partition) -> bool:
        is_content = partition.parent in CONTENT_PARENTS
        return partition.day >= ((is_content and content_keep_from) or keep_from)

    days = [today + timedelta(days=offset) for offset in range(-1, ahead_days + 1)]
    wanted = {part for day in days for parent in PARENTS if is_kept(part := Partition(day, parent))}
    old = sorted(partition for partition in existing if not is_kept(partition))
    held = [part for part in old if part.day in unfinished and part.parent not in CONTENT_PARENTS]
    return Plan(
        create=tuple(sorted(wanted - existing)),
        drop=tuple(partition for partition in old if partition not in held),
        held=tuple(held),
    )


def existing_partitions() -> frozenset[Partition]:
    """The partitions in the catalogue; empty on SQLite."""
    if connection.vendor != "postgresql":
        return frozenset()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "JOIN pg_class p ON p.oid = i.inhparent "
            "WHERE p.relname = ANY(%s) AND p.relnamespace = current_schema()::regnamespace",
            [list(PARENTS)],
        )
        names = [str(name) for (name,) in cursor.fetchall()]
    return frozenset(partition for name in names if (partition := partition_of(name)))


def partition_of(name: str) -> Partition | None:
    """The partition of a table's name; None when it is not one of ours."""
    match = _NAME.fullmatch(name)
    if match is None or match["parent"] not in PARENTS:
        return None
    try:
        day = datetime.strptime(match["day"], "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        return None
    return Partition(day, match["parent"])


def ensure_partitions(wanted: AbstractSet[Partition]) -> int:
    """Make the partitions that accepted rows need and that are missing; their number.

    In transactions of their own when there is none: an empty day harms nobody, and ingest does
    not hold the lock while it loads.
    """
    if connection.vendor != "postgresql" or wanted <= existing_partitions():
        return 0
    return create_partitions(wanted)


type Ensure = Callable[[AbstractSet[Partition]], object]
"""Makes partitions that are missing, as ``ensure_partitions`` does."""


def with_partitions[Result](work: Callable[[Ensure], Result]) -> Result:
    """What ``work`` gives; it ensures partitions, then stores in one transaction.

    A partition that was seen is taken to be there, because the catalogue is not cheap to ask. When
    it was dropped since, PostgreSQL refuses the row: the work is done once more, and asks.
    """
    try:
        return work(_ensure_unseen)
    except IntegrityError as error:
        if not isinstance(error.__cause__, psycopg.errors.CheckViolation):
            raise
    _seen.clear()
    return work(ensure_partitions)


_seen: set[Partition] = set()
"""What this process found in the catalogue, and what may be gone since."""


def _ensure_unseen(wanted: AbstractSet[Partition]) -> None:
    if connection.vendor == "postgresql" and not wanted <= _seen:
        ensure_partitions(wanted)
        _seen.clear()
        _seen.update(existing_partitions())


def create_partitions(wanted: Iterable[Partition]) -> int:
    """Make those of the partitions that are still missing; safe in parallel.

    A transaction a day: a partition takes five locks to its commit, and a quarter of ten tables in
    one would use up all that PostgreSQL has by default. Whoever locks the parent is waited for as
    long as a batch waits for anything; then it is spooled.
    Errors: OperationalError when the wait was too long.
    """
    made = 0
    for _, parts in groupby(sorted(set(wanted)), key=lambda part: part.day):
        lock = transaction_lock(LOCK_NAME, patience_ms=settings.FLEET_VALVE_SLOW_MS)
        with lock, connection.cursor() as cursor:
            for partition in sorted(set(parts) - existing_partitions()):
                for statement in _create_statements(partition):
                    cursor.execute(statement)
                made += 1
    return made


def _create_statements(partition: Partition) -> list[sql.Composed]:
    parent, child = sql.Identifier(partition.parent), sql.Identifier(partition.name)
    start = datetime(partition.day.year, partition.day.month, partition.day.day, tzinfo=UTC)
    bounds = {
        "first": sql.Literal(start.isoformat()),
        "after": sql.Literal((start + timedelta(days=1)).isoformat()),
    }
    return [
        sql.SQL("CREATE TABLE {child} (LIKE {parent} INCLUDING DEFAULTS)").format(
            child=child, parent=parent
        ),
        sql.SQL(
            "ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({first}) TO ({after})"
        ).format(parent=parent, child=child, **bounds),
    ]


def drop_partitions(partitions: Iterable[Partition]) -> int:
    """Drop partitions with their rows; the caller has made sure that they may go.

    Waits at most 10 s for a long reader, then fails, rather than stop every writer behind it.
    """
    dropped = 0
    with transaction_lock(LOCK_NAME), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'")
        for partition in sorted(set(partitions) & existing_partitions()):
            cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(partition.name)))
            dropped += 1
    return dropped


def missing_days(ahead_days: int) -> list[date]:
    """Days from today to ``ahead_days`` ahead that lack a partition; empty on SQLite."""
    if connection.vendor != "postgresql":
        return []
    existing, today = existing_partitions(), now().date()
    days = [today + timedelta(days=offset) for offset in range(ahead_days + 1)]
    return [
        day for day in days if any(Partition(day, parent) not in existing for parent in PARENTS)
    ]
