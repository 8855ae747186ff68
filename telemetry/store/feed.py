"""number_batches(): committed batches get the next numbers of the feed, in one round trip.

The lock is held to the commit, so a higher number is never visible before a lower one. A batch that
is being stored just now is left for the next round instead of being waited for. A batch without
rows (all duplicates, or still in the spool) is marked and gets no number.
"""

from __future__ import annotations

from typing import Final

from django.db import connection, transaction

from fleet.lib.sql import lock_number
from telemetry.models import FeedEntry, IngestBatch

LOCK: Final = "telemetry-feed"
_LEDGER: Final = IngestBatch._meta.db_table
_FEED: Final = FeedEntry._meta.db_table
_DUE: Final = (
    "SELECT id, install_id, batch_id, COALESCE(drained_at, received_at) AS at, "  # noqa: S608 -- our own models' tables
    f"inserted_count + merged_count AS row_count FROM {_LEDGER} "
    "WHERE NOT is_fed ORDER BY id LIMIT %s"
)
_ONE_ROUND: Final = (
    f"SELECT pg_advisory_xact_lock(%s); WITH due AS MATERIALIZED ({_DUE} FOR UPDATE SKIP LOCKED), "  # noqa: S608 -- as above
    f"numbered AS (INSERT INTO {_FEED} (install_id, batch_id, received_at, row_count) "
    "SELECT install_id, batch_id, at, row_count FROM due WHERE row_count > 0 ORDER BY id), "
    f"marked AS (UPDATE {_LEDGER} b SET is_fed = true FROM due WHERE b.id = due.id) "
    "SELECT count(*) FROM due"
)


def number_batches(most: int) -> int:
    """Number up to so many batches; how many were looked at, fewer than ``most``: no more wait."""
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_ONE_ROUND, [lock_number(LOCK), most])
            cursor.nextset()
            return int(cursor.fetchone()[0])
    return _number_sqlite(most)


def _number_sqlite(most: int) -> int:
    """The same; the transaction is IMMEDIATE, nobody else writes meanwhile."""
    if not IngestBatch.objects.filter(is_fed=False).exists():  # without taking the writer's place
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_DUE, [most])
        due = cursor.fetchall()
        cursor.executemany(
            f"INSERT INTO {_FEED} (install_id, batch_id, received_at, row_count) "  # noqa: S608 -- as above
            "VALUES (%s, %s, %s, %s)",
            [row[1:] for row in due if row[4] > 0],
        )
        cursor.executemany(
            f"UPDATE {_LEDGER} SET is_fed = 1 WHERE id = %s",  # noqa: S608 -- as above
            [row[:1] for row in due],
        )
    return len(due)
