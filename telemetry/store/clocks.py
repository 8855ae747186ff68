"""How far each install's clock is from ours, as its last pushes tell; nothing is computed with it.

A batch says when it was sent by its own clock (the Date header, else its id's time). What it waited
on the way makes that look earlier, never later; so the largest of the last few is nearest to the
truth, and one slow push changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from django.db import connection

from telemetry.models import IngestBatch

LAST_BATCHES: Final = 5
"""A clock that was set right shows after so many pushes: some minutes."""
SIGNIFICANT_MS: Final = 120_000
"""Less is a slow network or a batch that was sent twice; no row is misplaced by it."""


def clock_skews(install_ids: Sequence[UUID]) -> Mapping[UUID, int]:
    """Milliseconds that clocks are ahead of ours (behind: negative); one query, known ones only."""
    if not install_ids:
        return {}
    table = IngestBatch._meta.db_table
    one = (
        f"(SELECT MAX(s.clock_skew_ms) FROM (SELECT b.clock_skew_ms FROM {table} b "  # noqa: S608 -- a name of our own
        "WHERE b.install_id = %s AND b.clock_skew_ms IS NOT NULL "
        f"ORDER BY b.received_at DESC LIMIT {LAST_BATCHES}) s)"
    )
    with connection.cursor() as cursor:
        wanted = _stored(install_ids)
        cursor.execute("SELECT " + ", ".join([one] * len(wanted)), wanted)
        found = cursor.fetchone()
    return {
        install_id: int(skew)
        for install_id, skew in zip(install_ids, found, strict=True)
        if skew is not None
    }


def significant_skews(install_ids: Sequence[UUID]) -> Mapping[UUID, int]:
    """The same, of those whose clock needs a person."""
    return {
        install_id: skew
        for install_id, skew in clock_skews(install_ids).items()
        if abs(skew) >= SIGNIFICANT_MS
    }


def _stored(install_ids: Sequence[UUID]) -> list[UUID | str]:
    """The ids as this database has them."""
    if connection.vendor == "postgresql":
        return list(install_ids)
    return [install_id.hex for install_id in install_ids]
