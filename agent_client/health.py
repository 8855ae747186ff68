"""What the local plane lost and holds: the ledger of one home.

emitted = stored + dropped(reason): a ring's frames are numbered without a gap,
so what overflowed is known exactly even when the process that emitted is gone.
Of the rows, those a console never acknowledged are pending, or expired: retention
removed them first.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.files import telemetry_dir
from agent_client.store import DATABASE, Store, get_state

REASONS: Final = ("overflow", "encode", "too_large", "invalid")
"""overflow: the oldest made room; encode, too_large: refused; invalid: logged, not indexed."""
EXPIRED_KEY: Final = "expired.rows"
_REPORTED: Final = "losses.reported"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files and spools of a home; sizes in bytes, 0 for what is not there."""

    folder: Path
    log_bytes: int
    database_bytes: int
    spool_bytes: int
    living_processes: int
    dead_spools: int


def totals(connection: sqlite3.Connection) -> dict[str, int]:
    """Events lost since recording began, by reason; only reasons that happened."""
    row = connection.execute(
        "SELECT total(overflow), total(encode), total(too_large) FROM tel_rings"
    ).fetchone()
    counts = dict(zip(REASONS, (*map(int, row), 0), strict=True))
    for key, value in connection.execute(
        "SELECT key, value FROM tel_state WHERE key LIKE 'loss.%'"
    ):
        reason = str(key).removeprefix("loss.")
        counts[reason] = counts.get(reason, 0) + int(value)
    return {reason: count for reason, count in counts.items() if count}


def stored(connection: sqlite3.Connection) -> int:
    """Events stored since recording began."""
    rings = connection.execute("SELECT total(stored) FROM tel_rings").fetchone()[0]
    return int(rings) + int(get_state(connection, "ledger.stored") or 0)


def expired(connection: sqlite3.Connection) -> int:
    """Rows that retention removed before a console had acknowledged them."""
    return int(get_state(connection, EXPIRED_KEY) or 0)


def losses(store: Store) -> dict[str, int]:
    """Losses by reason, ``expired`` among them, that no receipt has covered yet; for a push."""
    reported = _reported(store)
    counts = {**totals(store.connection), "expired": expired(store.connection)}
    return {
        reason: count - reported.get(reason, 0)
        for reason, count in counts.items()
        if count > reported.get(reason, 0)
    }


def reported_state(store: Store, sent: Mapping[str, int]) -> dict[str, str]:
    """The bookkeeping that marks ``sent`` losses as reported; set it with the cursor."""
    reported = _reported(store)
    for reason, count in sent.items():
        reported[reason] = reported.get(reason, 0) + count
    return {_REPORTED: json.dumps(reported, sort_keys=True)}


def mark_reported(store: Store, sent: Mapping[str, int]) -> None:
    """Mark losses as reported in a transaction of their own."""
    store.state_set(reported_state(store, sent))


def snapshot(home: Path) -> Snapshot:
    """Sizes and spools, read without opening the database."""
    from agent_client.eventlog import log_files
    from agent_client.spool import known_processes, living_processes  # not for the ledger alone

    folder = telemetry_dir(home)
    spool = folder / "spool"
    living = living_processes(spool)
    return Snapshot(
        folder=folder,
        log_bytes=sum(map(_size, log_files(folder))),
        database_bytes=_size(folder / DATABASE) + _size(folder / f"{DATABASE}-wal"),
        spool_bytes=sum(_size(path) for path in spool.glob("*/*.ring")),
        living_processes=len(living),
        dead_spools=len(known_processes(spool) - living),
    )


def _reported(store: Store) -> dict[str, int]:
    text = store.state_get(_REPORTED)
    return {str(reason): int(count) for reason, count in json.loads(text or "{}").items()}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
